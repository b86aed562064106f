"""Learning-rate schedules: one shape per fit, or one per phase if a strategy unfreezes parts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastai.callback.core import CancelFitException
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin, SchedNo
from fastai.callback.tracker import TrackerCallback

from fervit_lib.system.names import check_choice, check_range

SCHEDULES = ("one_cycle", "cosine", "plateau", "none")
# fastai's defaults of fit_one_cycle: the rate starts at peak / 25, ends at peak / 100,000 and peaks
# after a quarter of the fit; the momentum (beta1 of AdamW) moves against it.
_DIV = 25.0
_DIV_FINAL = 1e5
_PCT_START = 0.25
_MOMENTUM = (0.95, 0.85)
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 5  # epochs


@dataclass(frozen=True)
class Phase:
    """Part of a fit with its own peak rates."""

    share: float  # of the epochs
    lr_max: np.ndarray  # (groups,)
    frozen_groups: int  # that many of the first parameter groups are frozen


def _in_turn(
    share: float, first: Callable[[float], float], second: Callable[[float], float]
) -> Callable[[float], float]:
    """`first` for that share of the progress, then `second`.

    fastai's `combine_scheds` reads tensors before every batch.
    """
    return lambda p: first(p / share) if p < share else second((p - share) / (1 - share))


def lr_shape(schedule: str, warmup: float) -> Callable[[float], float]:
    """A function from progress in [0, 1] to a multiple of the peak rate.

    Args:
        warmup: share of the fit in which the rate rises linearly from 0. Ignored by `one_cycle`,
            whose rate rises for a quarter of the fit.
    """
    check_choice("schedule", schedule, SCHEDULES)
    check_range("warmup", warmup, 0, 1)
    if schedule == "one_cycle":
        return _in_turn(_PCT_START, SchedCos(1 / _DIV, 1.0), SchedCos(1.0, 1 / _DIV_FINAL))
    rest = SchedCos(1.0, 0.0) if schedule == "cosine" else SchedNo(1.0, 1.0)
    return _in_turn(warmup, SchedLin(0.0, 1.0), rest)


class Schedule(ParamScheduler):
    """Set the rates (and one-cycle's momentum) before each batch; freeze groups at each new phase.

    Attributes:
        level: multiple of all rates, lowered by `Plateau`.
    """

    resumed = ("level",)

    def __init__(self, phases: Sequence[Phase], schedule: str, warmup: float = 0.0) -> None:
        self.phases = list(phases)
        self.level = 1.0
        self.shape = lr_shape(schedule, warmup)
        scheds: dict[str, Callable[[float], Any]] = {"lr": self.rates}
        if schedule == "one_cycle":
            high, low = _MOMENTUM
            momentum = _in_turn(_PCT_START, SchedCos(high, low), SchedCos(low, high))
            scheds["mom"] = lambda progress: momentum(self.locate(progress)[1])
        super().__init__(scheds)

    def first_epoch(self, number: int) -> int:
        """The first epoch of phase `number`."""
        # Rounds half up; Python's `round` would go to the even number.
        return math.floor(sum(phase.share for phase in self.phases[:number]) * self.n_epoch + 0.5)

    def locate(self, progress: float) -> tuple[int, float]:
        """The number of the phase at `progress` of the fit, and the progress in it, in [0, 1]."""
        starts = [self.first_epoch(number) / self.n_epoch for number in range(len(self.phases) + 1)]
        # 1e-9: progress that rounding left just below a start belongs to the new phase.
        number = max(i for i, start in enumerate(starts[:-1]) if progress >= start - 1e-9)
        start, end = starts[number : number + 2]
        return number, min(max((progress - start) / (end - start), 0.0), 1.0)

    def rates(self, progress: float) -> np.ndarray:
        """The rate of each parameter group at `progress` of the fit, (groups,)."""
        number, within = self.locate(progress)
        return self.phases[number].lr_max * self.shape(within) * self.level

    def before_fit(self) -> None:
        super().before_fit()
        if any(self.first_epoch(i) == self.first_epoch(i + 1) for i in range(len(self.phases))):
            raise ValueError(
                f"epochs: expected enough for {len(self.phases)} phases, got {self.n_epoch}"
            )

    def before_epoch(self) -> None:
        number = self.locate(self.epoch / self.n_epoch)[0]
        # At a resume, too: the optimiser was created with no group frozen.
        if self.epoch in (self.learn.first_epoch, self.first_epoch(number)):
            self.learn.opt.freeze_to(self.phases[number].frozen_groups)


class _Patience(TrackerCallback):
    """Count epochs without a better macro-F1.

    fastai's EarlyStoppingCallback and ReduceLROnPlateau forget their counters at a resume, and the
    latter sets rates that `Schedule` would overwrite.
    """

    order = 62  # after the Recorder, before the state of the epoch is saved
    resumed = ("best", "wait")
    wait = 0

    def __init__(self) -> None:
        super().__init__(monitor="macro_f1", comp=np.greater)

    def after_epoch(self) -> None:
        super().after_epoch()
        self.wait = 0 if self.new_best else self.wait + 1


class Plateau(_Patience):
    """Halve the rates after five epochs without a better macro-F1."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.wait >= PLATEAU_PATIENCE:
            self.schedule.level *= PLATEAU_FACTOR
            self.wait = 0


class EarlyStopping(_Patience):
    """Stop after `patience` epochs without a better macro-F1."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience

    def before_epoch(self) -> None:
        # Not after the epoch: its state must be saved, and a resumed fit must stop there as well.
        if self.wait >= self.patience:
            raise CancelFitException
