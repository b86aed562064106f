"""Metrics of the validation split, and the Recorder, which reads them and losses once an epoch."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from fastai.learner import AvgMetric, AvgSmoothLoss, Metric
from fastai.learner import Recorder as FastaiRecorder
from fastai.metrics import AccumMetric, accuracy, skm_to_fastai
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from torch import Tensor


def classification_metrics() -> list[Metric]:
    """accuracy; macro_f1, recall and precision, each the mean over classes; roc_auc."""
    macro = partial(skm_to_fastai, average="macro", zero_division=0)
    return [
        AvgMetric(accuracy),
        macro(f1_score, name="macro_f1"),
        macro(recall_score, name="recall"),
        macro(precision_score, name="precision"),
        # is_class=False: of the logits (N, C), not of the predicted classes.
        skm_to_fastai(roc_auc, is_class=False, flatten=False, name="roc_auc"),
    ]


def roc_auc(labels: np.ndarray, logits: np.ndarray) -> float:
    """Area under the ROC curve, the one-vs-rest mean; of two classes both areas are equal.

    Classes without positive or without negative faces are left out; NaN if none remains.

    Args:
        labels: (N,).
        logits: (N, num_classes).
    """
    is_class = np.eye(logits.shape[1], dtype=bool)[labels]  # (N, num_classes)
    with warnings.catch_warnings(action="ignore"):  # of a class that gets NaN
        return float(np.nanmean(roc_auc_score(is_class, softmax(logits, axis=1), average=None)))


class _SmoothLoss(AvgSmoothLoss):
    val: Tensor

    def accumulate(self, learn: Any) -> None:
        self.count += 1
        loss = learn.loss.detach()
        self.val = torch.lerp(loss, self.val.to(loss.device), self.beta)


class Recorder(FastaiRecorder):
    """fastai's Recorder without a copy to the host per batch, for which a GPU would have to finish.

    Attributes:
        losses: of the batches of the running epoch, smoothed over the epoch, on the device; during
            `lr_find`, of all batches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.smooth_loss = _SmoothLoss()

    def before_train(self) -> None:
        super().before_train()
        if not hasattr(self.learn, "lr_finder"):
            self.losses: list[Tensor] = []
            self.smooth_loss.reset()

    def after_validate(self) -> None:
        for metric in self._valid_mets:
            if isinstance(metric, AccumMetric):  # those of scikit-learn need NumPy
                metric.preds = [torch.cat(metric.preds).cpu()]
                metric.targs = [torch.cat(metric.targs).cpu()]
        super().after_validate()
