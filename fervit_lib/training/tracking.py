"""Optional logging to Weights & Biases: the curves of `metrics.csv`, memory and time."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback

from fervit_lib.system import distributed
from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import peak_memory
from fervit_lib.training.callbacks import FitCallback

MODES = ("off", "offline", "online")
PROJECT = "fervit-lab"


class WeightsAndBiases(FitCallback):
    """Log every epoch to a W&B run named after the run directory.

    Not fastai's WandbCallback: it needs an active run, and logs steps that a resume would repeat.

    Args:
        folder: the run directory; W&B writes to `wandb/` in it, where `wandb sync` finds the files.
        name: name and ID of the W&B run: a resumed fit continues it.
        mode: `offline` writes files only; `online` needs a login.
        parameters: stored as the configuration of the W&B run.

    Raises:
        ValueError: `online` without a login.
    """

    order = 63  # after `Curves` has the row of the epoch

    def __init__(self, folder: Path, name: str, mode: Any, parameters: Mapping) -> None:
        self.folder = folder
        self.name_of_run = name  # `name` is fastai's name of the callback
        self.mode = mode
        self.parameters = dict(parameters)

    def before_fit(self) -> None:
        # Else it reports errors and use to its maker, `offline` too; `true` allows it.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # slow to import, and used only if the run asks for it

        # In a sweep, W&B's agent has set the ID already, and its run cannot be resumed.
        sweep_id = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        try:
            self.log = wandb.init(
                project=PROJECT,
                name=self.name_of_run,
                id=sweep_id or self.name_of_run.replace("/", "-"),
                resume="allow" if self.mode == "online" and not sweep_id else None,
                dir=self.folder,
                mode=self.mode,
                config=self.parameters,
                # Without the names and paths of this machine, as all that is written to reports/.
                settings=wandb.Settings(
                    silent=True, console="off", host="-", disable_git=True, x_disable_meta=True
                ),
            )
        except wandb.errors.UsageError as error:
            raise ValueError(
                f"wandb: cannot log online ({error}); run `wandb login`, or use wandb='offline'"
            ) from error
        # Its own logs hold paths. They are open by now, and removed here so that none stays after a
        # fit that fails or is killed.
        for log in (self.folder / "wandb").rglob("debug*.log"):  # and links to them
            log.unlink()

    def after_epoch(self) -> None:
        rows = self.learn.curves.rows
        more = {
            "peak_memory_gb": peak_memory(self.dls.device),
            "fit_seconds": sum(row["seconds"] for row in rows),
        }
        self.log.log(rows[-1] | more)

    def after_fit(self) -> None:
        import wandb

        self.log.finish()
        wandb.teardown()  # waits until the files are complete, which `finish` does not


def trackers(mode: str, folder: Path, name: str, parameters: Mapping) -> list[Callback]:
    """The logging callbacks of rank 0: none if `mode` is `off`, else `WeightsAndBiases`."""
    check_choice("wandb", mode, MODES)
    if mode == "off" or distributed.rank() > 0:
        return []
    return [WeightsAndBiases(folder, name, mode, parameters)]
