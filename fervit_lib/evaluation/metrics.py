"""Figures of merit from labels and predictions; scikit-learn's definitions throughout."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support


def bootstrap_interval(correct: np.ndarray, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `correct` (N,), e.g. of an accuracy.

    It speaks of the choice of test faces alone, not of the training seed.
    """
    if correct.std() == 0:  # nothing to resample: every draw is the same
        return float(correct[0]), float(correct[0])
    rng = np.random.default_rng(seed)
    result = bootstrap(
        (correct.astype(float),), np.mean, confidence_level=confidence, n_resamples=2000, batch=50,
        method="percentile", rng=rng,
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def summary_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy with its 95 % interval, balanced accuracy, macro and weighted F1. Both arguments (N,) class numbers."""
    correct = labels == predicted
    low, high = bootstrap_interval(correct)
    return {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(labels, predicted, average="weighted", zero_division=0)),
    }


def majority_accuracy(labels: np.ndarray) -> float:
    """What always guessing the most common of `labels` (N,) reaches."""
    return float(np.bincount(labels).max() / len(labels))


def class_metrics(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 and support, a row a class."""
    scores = precision_recall_fscore_support(labels, predicted, labels=range(len(classes)), zero_division=0)
    return pd.DataFrame(dict(zip(("precision", "recall", "f1", "support"), scores, strict=True)), index=list(classes))
