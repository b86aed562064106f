"""A trial's own process tells the sweep how each epoch went, and is told when to stop.

The process is a notebook's kernel. It finds its trial in an environment variable that the worker sets, so that a
notebook need not know whether it runs in a sweep.
"""

import json
import os
from pathlib import Path

from fastai.callback.core import Callback, CancelFitException

from fervit_lib.sweep.study import VARIABLE, live_trial, load_study


class ReportTrial(Callback):
    """Report the sweep's metric after every epoch; end the fit before the next one if the trial is pruned.

    What is trained so far stays: a pruned trial is a whole run of fewer epochs.
    """

    order = 62  # after the Recorder has this epoch's metrics

    def __init__(self, folder: Path, number: int) -> None:
        study, self.sweep = load_study(folder)
        self.trial = live_trial(study, number)

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder")

    def before_epoch(self) -> None:
        # Here and not after the epoch, so that the state of an epoch that is over is kept, see EarlyStopping.
        if self.epoch and self.trial.should_prune():
            self.trial.set_user_attr("pruned", True)
            raise CancelFitException

    def after_epoch(self) -> None:
        values = dict(zip(self.recorder.metric_names[1:-1], self.recorder.values[-1], strict=True))
        self.trial.report(float(values[self.sweep.metric]), step=self.epoch + 1)

    def after_fit(self) -> None:
        self.run = True


def trial_callbacks() -> list[Callback]:
    """The callbacks of this process's trial; none where it is not one of a sweep."""
    if VARIABLE not in os.environ:
        return []
    trial = json.loads(os.environ[VARIABLE])
    return [ReportTrial(Path(trial["folder"]), trial["number"])]
