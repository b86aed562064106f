"""Figures of merit from labels and predictions; scikit-learn's definitions throughout."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from fervit_lib.datasets import FaceDataset
from fervit_lib.evaluation.predict import Predictions


def summary_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro and weighted F1. Both arguments (N,) class numbers."""
    return {
        "accuracy": float((labels == predicted).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(labels, predicted, average="weighted", zero_division=0)),
    }


def class_roc_auc(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(C,) area under the ROC curve of each class against the rest; nan for a class that is absent or alone.

    The mean is scikit-learn's `multi_class="ovr", average="macro"`.
    """
    areas = np.full(probs.shape[1], np.nan)
    for number in np.unique(labels):
        if (labels == number).all():
            continue
        areas[number] = roc_auc_score(labels == number, probs[:, number])
    return areas


def majority_accuracy(labels: np.ndarray) -> float:
    """What always guessing the most common of `labels` (N,) reaches."""
    return float(np.bincount(labels).max() / len(labels))


def class_metrics(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Precision, recall, F1 and support, a row a class."""
    scores = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return pd.DataFrame(
        dict(zip(("precision", "recall", "f1", "support"), scores, strict=True)),
        index=list(classes),
    )


def top_confusions(confusion: np.ndarray, classes: Sequence[str], limit: int = 8) -> pd.DataFrame:
    """The most common mistakes: true, predicted, faces, and their share of the true class.

    Args:
        confusion: (C, C) counts, true classes down.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(place), len(classes)) for place in order if wrong.flat[place]]
    rows = [
        (classes[t], classes[p], int(wrong[t, p]), wrong[t, p] / confusion[t].sum())
        for t, p in pairs
    ]
    return pd.DataFrame(rows, columns=["true", "predicted", "faces", "share"])


def misclassified_faces(
    found: Predictions, mistakes: pd.DataFrame, faces: FaceDataset, limit: int = 8
) -> dict[str, list[Image.Image]]:
    """Faces of each of `mistakes` (as `top_confusions` gives them), the surest first: pictures by `true as predicted`.

    Args:
        found: predictions of `faces`, in their order.
    """
    chosen = {}
    for true, predicted in zip(mistakes["true"], mistakes["predicted"], strict=True):
        wrong = (found.labels == found.classes.index(true)) & (
            found.predicted == found.classes.index(predicted)
        )
        surest = np.flatnonzero(wrong)[np.argsort(-found.confidence[wrong], kind="stable")][:limit]
        chosen[f"{true} as {predicted}"] = [faces[i][0] for i in surest]
    return chosen
