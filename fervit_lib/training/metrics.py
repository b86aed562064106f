"""What is measured on the validation split after every epoch: over all of it, not batch by batch."""

from functools import partial

import numpy as np
from fastai.learner import Metric
from fastai.metrics import AccumMetric
from scipy.special import softmax
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score


def scores() -> list[Metric]:
    """macro_f1, recall and precision, each the mean over the classes, and roc_auc."""
    macro = {"average": "macro", "zero_division": 0}
    named = {"macro_f1": f1_score, "recall": recall_score, "precision": precision_score}
    means = [
        AccumMetric(partial(score, **macro), dim_argmax=-1, to_np=True, invert_arg=True, name=name)
        for name, score in named.items()
    ]
    return [
        *means,
        AccumMetric(roc_auc, flatten=False, to_np=True, invert_arg=True, name="roc_auc"),
    ]


def roc_auc(labels: np.ndarray, logits: np.ndarray) -> float:
    """Area under the ROC curve: of the second class where there are two, else the mean of one class against the rest.

    A class that no face has, or every face, has no curve and is left out; NaN where none is left.

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
