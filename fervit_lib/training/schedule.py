"""Learning-rate schedules: one shape per fit, or one per phase if a strategy unfreezes parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastai.callback.core import CancelFitException
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin, SchedNo
from fastai.callback.tracker import TrackerCallback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fervit_lib.system.names import check_choice, check_range
from fervit_lib.training.callbacks import FitCallback, latest_metrics

SCHEDULES = ("one_cycle", "cosine", "plateau", "none")
# fastai's defaults of fit_one_cycle: the rate ends at peak / 100,000; the momentum (beta1 of AdamW)
# moves against it.
_DIV_FINAL = 1e5
_MOMENTUM = (0.95, 0.85)


@dataclass(frozen=True)
class Phase:
    """Part of a fit with its own peak rates: from an epoch to the next phase."""

    first_epoch: int
    lr_max: np.ndarray  # (groups,)
    frozen_groups: int  # that many of the first parameter groups are frozen
    # one_cycle, by default as fastai's fit_one_cycle:
    pct_start: float = 0.25  # share of the phase in which the rate rises,
    div: float = 25.0  # from the peak divided by this


def _in_turn(
    share: float, first: Callable[[float], float], second: Callable[[float], float]
) -> Callable[[float], float]:
    """`first` for that share of the progress, then `second`.

    fastai's `combine_scheds` reads tensors before every batch.
    """
    return lambda p: first(p / share) if p < share else second((p - share) / (1 - share))


def lr_shape(
    schedule: str, warmup: float, pct_start: float = 0.25, div: float = 25.0
) -> Callable[[float], float]:
    """A function from progress in [0, 1] to a multiple of the peak rate.

    Args:
        warmup: share of the fit in which the rate rises linearly from 0. Ignored by `one_cycle`,
            which has its own.
        pct_start, div: see `Phase`.
    """
    check_choice("schedule", schedule, SCHEDULES)
    check_range("warmup", warmup, 0, 1)
    if schedule == "one_cycle":
        return _in_turn(pct_start, SchedCos(1 / div, 1.0), SchedCos(1.0, 1 / _DIV_FINAL))
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
        self.shapes = [lr_shape(schedule, warmup, p.pct_start, p.div) for p in phases]
        scheds: dict[str, Callable[[float], Any]] = {"lr": self.rates}
        if schedule == "one_cycle":
            scheds["mom"] = self.momentum
        super().__init__(scheds)

    def locate(self, progress: float) -> tuple[int, float]:
        """The number of the phase at `progress` of the fit, and the progress in it, in [0, 1]."""
        starts = [phase.first_epoch / self.n_epoch for phase in self.phases] + [1.0]
        # 1e-9: progress that rounding left just below a start belongs to the new phase.
        number = max(i for i, start in enumerate(starts[:-1]) if progress >= start - 1e-9)
        start, end = starts[number : number + 2]
        return number, min(max((progress - start) / (end - start), 0.0), 1.0)

    def rates(self, progress: float) -> np.ndarray:
        """The rate of each parameter group at `progress` of the fit, (groups,)."""
        number, within = self.locate(progress)
        return self.phases[number].lr_max * self.shapes[number](within) * self.level

    def momentum(self, progress: float) -> float:
        """One-cycle's momentum at `progress` of the fit."""
        number, within = self.locate(progress)
        high, low = _MOMENTUM
        pct_start = self.phases[number].pct_start
        return _in_turn(pct_start, SchedCos(high, low), SchedCos(low, high))(within)

    def before_epoch(self) -> None:
        phase = self.phases[self.locate(self.epoch / self.n_epoch)[0]]
        # At a resume, too: the optimiser was created with no group frozen.
        if self.epoch in (self.learn.first_epoch, phase.first_epoch):
            self.learn.opt.freeze_to(phase.frozen_groups)


class Plateau(FitCallback):
    """Halve the rates as torch's `ReduceLROnPlateau`: after 6 epochs without a better macro-F1.

    Better is a relative gain above 1e-4. fastai's callback of this name counts otherwise, forgets
    its counters at a resume, and sets rates that `Schedule` would overwrite.
    """

    order = 62  # after the Recorder, before the state of the epoch is saved
    resumed = ("state",)

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        # Of an optimiser of its own, whose rate is the level of all.
        self.own = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self.plateau = ReduceLROnPlateau(self.own, "max", factor=0.5, patience=5)

    @property
    def state(self) -> dict:
        """The counters of torch's class, as JSON values."""
        return self.plateau.state_dict()

    @state.setter
    def state(self, value: dict) -> None:
        self.plateau.load_state_dict(value)

    def after_epoch(self) -> None:
        group = self.own.param_groups[0]
        group["lr"] = self.schedule.level  # a resume restores it
        self.plateau.step(latest_metrics(self.learn)["macro_f1"])
        self.schedule.level = group["lr"]


class EarlyStopping(TrackerCallback):
    """Stop after `patience` epochs without a better macro-F1.

    fastai's EarlyStoppingCallback forgets its counter at a resume.
    """

    order = 62  # after the Recorder, before the state of the epoch is saved
    resumed = ("best", "wait")
    wait = 0

    def __init__(self, patience: int) -> None:
        super().__init__(monitor="macro_f1", comp=np.greater)
        self.patience = patience

    def after_epoch(self) -> None:
        super().after_epoch()
        self.wait = 0 if self.new_best else self.wait + 1

    def before_epoch(self) -> None:
        # Not after the epoch: its state must be saved, and a resumed fit must stop there as well.
        if self.wait >= self.patience:
            raise CancelFitException
