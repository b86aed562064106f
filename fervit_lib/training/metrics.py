"""Metrics of the validation split, computed over the whole split after every epoch."""

from functools import partial

import numpy as np
from fastai.learner import AvgMetric, Metric
from fastai.metrics import accuracy, skm_to_fastai
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score


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
    """Area under the ROC curve: of the second of two classes, else the one-vs-rest mean.

    Classes without positive or without negative faces are left out; NaN if none remains.

    Args:
        labels: (N,).
        logits: (N, num_classes).
    """
    probs = softmax(logits, axis=1)
    # Of two classes both areas are equal.
    classes = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    areas = [
        roc_auc_score(labels == c, probs[:, c])
        for c in classes
        if 0 < (labels == c).sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else float("nan")
