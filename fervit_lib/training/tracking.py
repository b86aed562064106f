"""Weights & Biases, for who wants it: the same curves as `metrics.csv`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import wandb
from fastai.callback.core import Callback

from fervit_lib.system import distributed

Mode = Literal["off", "offline", "online"]
MODES = get_args(Mode)
PROJECT = "fervit-lab"


class WeightsAndBiases(Callback):
    """Log every epoch to a W&B run named after the run directory.

    Args:
        folder: the run directory; W&B's own files go to `wandb/` in it, where `wandb sync` finds them.
        name: of the run, and its identity: a fit that goes on continues it.
        mode: `offline` writes files only; `online` needs a login, and is a ValueError without one.
        parameters: shown as the run's configuration.
    """

    order = 62

    def __init__(
        self,
        folder: Path,
        name: str,
        mode: Literal["offline", "online"],
        parameters: Mapping[str, Any],
    ) -> None:
        self.folder, self.name_of_run, self.mode, self.parameters = (
            folder,
            name,
            mode,
            dict(parameters),
        )

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder")
        if not self.run:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # W&B's own agent has named the run already, and knows nothing of going on with one.
        swept = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        identity = swept or self.name_of_run.replace("/", "-")
        try:
            self.log = wandb.init(
                project=PROJECT,
                name=self.name_of_run,
                id=identity,
                resume="allow" if self.mode == "online" and not swept else None,
                dir=self.folder,
                mode=self.mode,
                config=self.parameters,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.UsageError as error:
            raise ValueError(
                f"wandb: cannot log online ({error}); run `wandb login`, or use wandb='offline'"
            ) from error

    def after_epoch(self) -> None:
        names, values = self.recorder.metric_names[1:-1], self.recorder.values[-1]
        self.log.log({"epoch": self.epoch} | dict(zip(names, map(float, values), strict=True)))

    def after_fit(self) -> None:
        if self.run:
            self.log.finish()
            wandb.teardown()  # waits until the files are whole; `finish` does not
        self.run = True


def trackers(mode: Mode, folder: Path, name: str, parameters: Mapping[str, Any]) -> list[Callback]:
    """The callbacks that log a run elsewhere, from its first process: none where `mode` is `off`, else see
    `WeightsAndBiases`.
    """
    if mode not in MODES:
        raise ValueError(f"wandb: expected one of {', '.join(MODES)}, got {mode!r}")
    return (
        []
        if mode == "off" or distributed.rank()
        else [WeightsAndBiases(folder, name, mode, parameters)]
    )
