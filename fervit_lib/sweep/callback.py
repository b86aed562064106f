"""Report each epoch of a trial to its sweep, and stop the trial early if the sweep prunes it.

A trial trains in a kernel of its own, which finds its trial in an environment variable that the
worker sets. So the notebook does not have to know whether it runs in a sweep.
"""

import json
import os
from pathlib import Path

from fastai.callback.core import Callback, CancelFitException

from fervit_lib.sweep import TRIAL_VARIABLE
from fervit_lib.training.callbacks import FitCallback, latest_metrics


class ReportTrial(FitCallback):
    """Report the sweep's metric after every epoch, and end the fit if the trial is pruned.

    A pruned trial is a complete run of fewer epochs.
    """

    order = 62  # after the Recorder, which computes the epoch's metrics

    def __init__(self, folder: Path, number: int) -> None:
        from fervit_lib.sweep.study import live_trial, load_study  # slow: imports Optuna

        study, self.sweep = load_study(folder)
        self.trial = live_trial(study, number)

    def before_epoch(self) -> None:
        # Before the next epoch rather than after this one, so that the state of this epoch is
        # saved; see EarlyStopping.
        if self.epoch and self.trial.should_prune():
            self.trial.set_user_attr("pruned", True)
            raise CancelFitException

    def after_epoch(self) -> None:
        value = latest_metrics(self.learn)[self.sweep.metric]
        self.trial.report(value, step=self.epoch + 1)  # Optuna counts completed epochs, from 1


def trial_callbacks() -> list[Callback]:
    """The callback that reports this process's trial; an empty list outside of a sweep."""
    if TRIAL_VARIABLE not in os.environ:
        return []
    trial = json.loads(os.environ[TRIAL_VARIABLE])
    return [ReportTrial(Path(trial["folder"]), trial["number"])]
