"""Metrics from labels and predictions, by scikit-learn's definitions.

scikit-learn takes a second to import, so it is imported where it is called.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from fervit_lib.datasets import FaceDataset
from fervit_lib.evaluation.predict import Predictions


def summary_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro and weighted F1 of class indices (N,)."""
    from sklearn.metrics import balanced_accuracy_score, f1_score

    return {
        "accuracy": float((labels == predicted).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(labels, predicted, average="weighted", zero_division=0)),
    }


def class_roc_auc(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(C,) area under the ROC curve of each class against the rest.

    NaN for a class that no face, or every face, belongs to, and for all if a probability is NaN.
    The mean over classes is scikit-learn's `multi_class="ovr", average="macro"`.
    """
    from sklearn.metrics import roc_auc_score

    if np.isnan(probs).any():
        return np.full(probs.shape[1], np.nan)
    is_class = np.eye(probs.shape[1], dtype=bool)[labels]  # (N, C)
    with warnings.catch_warnings(action="ignore"):  # of a class that gets NaN
        return roc_auc_score(is_class, probs, average=None)


def majority_accuracy(labels: np.ndarray) -> float:
    """Accuracy of always predicting the most common class of `labels` (N,)."""
    return float(np.bincount(labels).max() / len(labels))


def class_metrics(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Precision, recall, F1 and support, one row per class."""
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    names = ("precision", "recall", "f1", "support")
    return pd.DataFrame(dict(zip(names, scores, strict=True)), index=list(classes))


def top_confusions(confusion: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """The eight most common mistakes: true, predicted, faces, and their share of the true class.

    Args:
        confusion: (C, C) counts, one row per true class.
    """
    mistakes = confusion - np.diag(np.diag(confusion))  # the diagonal holds the correct ones
    rows = []
    for position in np.argsort(-mistakes, axis=None, kind="stable")[:8]:
        true, predicted = divmod(int(position), len(classes))
        if faces := int(mistakes[true, predicted]):
            share = faces / confusion[true].sum()
            rows.append((classes[true], classes[predicted], faces, share))
    return pd.DataFrame(rows, columns=["true", "predicted", "faces", "share"])


def misclassified_faces(
    predictions: Predictions, mistakes: pd.DataFrame, faces: FaceDataset, limit: int
) -> dict[str, list[Image.Image]]:
    """Images of each mistake that `top_confusions` lists, the most confident ones first.

    Args:
        predictions: of `faces`, in their order.

    Returns:
        Up to `limit` images by `<true> as <predicted>`.
    """
    table = predictions.to_frame().sort_values("confidence", ascending=False, kind="stable")
    images = {}
    for true, predicted in zip(mistakes["true"], mistakes["predicted"], strict=True):
        chosen = table[(table["label"] == true) & (table["predicted"] == predicted)]
        images[f"{true} as {predicted}"] = [faces[i][0] for i in chosen.index[:limit]]
    return images
