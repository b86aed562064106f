"""Metrics of the validation split, computed over the whole split after every epoch."""

from functools import partial

import numpy as np
from fastai.learner import AvgMetric, Metric
from fastai.metrics import AccumMetric, accuracy
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score


def classification_metrics() -> list[Metric]:
    """accuracy; macro_f1, recall and precision, each the mean over classes; roc_auc."""
    macro = {"average": "macro", "zero_division": 0}
    scores = {"macro_f1": f1_score, "recall": recall_score, "precision": precision_score}
    metrics: list[Metric] = [AvgMetric(accuracy)]
    for name, score in scores.items():
        metrics.append(
            AccumMetric(
                partial(score, **macro), dim_argmax=-1, to_np=True, invert_arg=True, name=name
            )
        )
    metrics.append(AccumMetric(roc_auc, flatten=False, to_np=True, invert_arg=True, name="roc_auc"))
    return metrics


def roc_auc(labels: np.ndarray, logits: np.ndarray) -> float:
    """Area under the ROC curve: of the second of two classes, else the one-vs-rest mean.

    Classes without positive or without negative faces are left out; NaN if none remains.

    Args:
        labels: (N,).
        logits: (N, num_classes).
    """
    probs = softmax(logits, axis=1)
    classes = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    areas = [
        roc_auc_score(labels == c, probs[:, c])
        for c in classes
        if 0 < (labels == c).sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else float("nan")
