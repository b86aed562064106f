"""How the learning rate moves over a fit: one shape, or one after the other where a strategy unfreezes half-way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fastai.callback.core import CancelFitException
from fastai.callback.schedule import (
    ParamScheduler,
    SchedCos,
    SchedLin,
    SchedNo,
    combine_scheds,
    combined_cos,
)
from fastai.callback.tracker import TrackerCallback

SCHEDULES = ("one_cycle", "cosine", "plateau", "none")
_DIV, _DIV_FINAL, _PCT_START = 25.0, 1e5, 0.25  # of one_cycle; fastai's
_MOMENTUM = (0.95, 0.85, 0.95)
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 5


@dataclass(frozen=True)
class Phase:
    """A stretch of a fit with its own peak rates, a number a parameter group, in the groups' order."""

    share: float  # of the epochs
    lr_max: np.ndarray
    frozen_groups: int  # the first so many groups stand still


def lr_shape(schedule: str, warmup: float) -> Callable[[float], float]:
    """Progress in [0, 1] → multiple of the peak rate.

    Args:
        warmup: share of the way that the rate rises linearly from 0; `one_cycle` rises by itself, for a quarter.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup: expected a share in [0, 1), got {warmup}")
    if schedule == "one_cycle":
        return combined_cos(_PCT_START, 1 / _DIV, 1.0, 1 / _DIV_FINAL)
    rest = SchedCos(1.0, 0.0) if schedule == "cosine" else SchedNo(1.0, 1.0)
    return combine_scheds([warmup, 1 - warmup], [SchedLin(0.0, 1.0), rest]) if warmup else rest


class Schedule(ParamScheduler):
    """Sets rates (and one-cycle's momentum) before each batch, and unfreezes where a new phase begins.

    Attributes:
        level: multiple of every rate, lowered by `Plateau`.
    """

    def __init__(self, phases: Sequence[Phase], schedule: str, warmup: float = 0.0) -> None:
        self.phases, self.level = list(phases), 1.0
        self.shape = lr_shape(schedule, warmup)
        scheds = {"lr": self.rates}
        if schedule == "one_cycle":
            momentum = combined_cos(_PCT_START, *_MOMENTUM)
            scheds["mom"] = lambda progress: momentum(self.locate(progress)[1])
        super().__init__(scheds)

    def first_epoch(self, number: int) -> int:
        """The epoch that phase `number` begins with."""
        return math.floor(sum(phase.share for phase in self.phases[:number]) * self.n_epoch + 0.5)

    def locate(self, progress: float) -> tuple[int, float]:
        """Progress of the fit in [0, 1] → number of the phase, and progress within it."""
        starts = [self.first_epoch(number) / self.n_epoch for number in range(len(self.phases) + 1)]
        number = max(i for i, start in enumerate(starts[:-1]) if progress >= start - 1e-9)
        return number, min(
            max((progress - starts[number]) / (starts[number + 1] - starts[number]), 0.0), 1.0
        )

    def rates(self, progress: float) -> np.ndarray:
        """Progress of the fit → a rate for every parameter group."""
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
        if self.epoch in (self.learn.first_epoch, self.first_epoch(number)):
            self.learn.opt.freeze_to(self.phases[number].frozen_groups)


class Plateau(TrackerCallback):
    """Halve the rates after five epochs without a better macro-F1."""

    order = 62

    def __init__(self, schedule: Schedule, monitor: str = "macro_f1") -> None:
        super().__init__(monitor=monitor, comp=np.greater)
        self.schedule, self.wait = schedule, 0

    def after_epoch(self) -> None:
        super().after_epoch()
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait >= PLATEAU_PATIENCE:
            self.schedule.level *= PLATEAU_FACTOR
            self.wait = 0

    def state_dict(self) -> dict[str, float]:
        return {"best": float(self.best), "wait": self.wait, "level": self.schedule.level}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.wait, self.schedule.level = (
            state["best"],
            int(state["wait"]),
            state["level"],
        )


class EarlyStopping(TrackerCallback):
    """Stop after `patience` epochs without a better macro-F1."""

    order = 62  # before the state of this epoch is kept

    def __init__(self, patience: int, monitor: str = "macro_f1") -> None:
        super().__init__(monitor=monitor, comp=np.greater)
        self.patience, self.wait = patience, 0

    def before_epoch(self) -> None:
        # Here and not after the epoch: an epoch that is over is kept whole, and a resumed fit stops at the same place.
        if self.wait >= self.patience:
            raise CancelFitException

    def after_epoch(self) -> None:
        super().after_epoch()
        self.wait = 0 if self.new_best else self.wait + 1

    def state_dict(self) -> dict[str, float]:
        return {"best": float(self.best), "wait": self.wait}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.wait = state["best"], int(state["wait"])
