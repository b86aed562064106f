"""Figures as PNG files, by matplotlib: plotly would need a browser."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from fervit_lib.figures.codes import token_names
from fervit_lib.figures.theme import MAX_CLASSES, PALETTE, group_classes, group_confusion
from fervit_lib.system.atomic import atomic_write


def _write(figure: Figure, title: str, path: Path) -> Path:
    figure.suptitle(title, wrap=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path


@rc_context({"text.parse_math": False})  # a class may be named `$a`
def write_evaluation_pngs(
    folder: Path, run: str, confusion: np.ndarray, scores: pd.DataFrame, confidences: pd.DataFrame
) -> list[Path]:
    """Write `confusion_matrix.png`, `class_metrics.png` and `prediction_confidence.png` of a run.

    Args:
        confusion: (C, C) counts, one row per true class.
        scores: from `evaluation.class_metrics`, one row per class.
        confidences: one row per face: confidence in [0, 1] and correct (bool).
    """
    from sklearn.metrics import ConfusionMatrixDisplay  # takes a second to import

    names = ("confusion_matrix", "class_metrics", "prediction_confidence")
    figures = [Figure((7, 5.5), layout="constrained") for _ in names]
    matrix, bars, histogram = (figure.subplots() for figure in figures)
    group, shown = group_classes(confusion.sum(1), list(scores.index))
    display = ConfusionMatrixDisplay(group_confusion(confusion, group), display_labels=shown)
    display.plot(ax=matrix, cmap="Blues", xticks_rotation=30)
    by_class = scores.loc[group < MAX_CLASSES, ["precision", "recall", "f1"]]
    by_class.plot.bar(ax=bars, color=PALETTE, rot=30, ylim=(0, 1))
    by_outcome = confidences.pivot(columns="correct", values="confidence")
    colors = {"True": PALETTE[0], "False": PALETTE[3]}
    by_outcome.plot.hist(ax=histogram, bins=np.linspace(0, 1, 21), stacked=True, color=colors)
    histogram.set(xlabel="confidence", ylabel="faces")
    title = f"{run}, n = {len(confidences):,} faces"
    return [
        _write(figure, title, folder / f"{name}.png")
        for name, figure in zip(names, figures, strict=True)
    ]


def write_attention_png(cosine: np.ndarray, attn: np.ndarray, title: str, path: Path) -> Path:
    """The cosine of tokens beside the attention that the model used, both (N, N), CLS first.

    Above that of CLS with each token, below that of every two tokens.
    """
    figure = Figure((11, 8), layout="constrained")
    names = token_names(len(attn) - 1)
    values = {"cosine": cosine, "attention": attn}
    for (above, below), (kind, matrix) in zip(figure.subplots(2, 2).T, values.items(), strict=True):
        above.bar(names, matrix[0], color=PALETTE[0])
        above.set(title=f"{kind}, CLS and each token")
        figure.colorbar(below.imshow(matrix, cmap="Blues"), ax=below)
        below.set_xticks(range(len(names)), names, fontsize=8)
        below.set_yticks(range(len(names)), names)
        below.set(title=f"{kind}, from token (rows) to token")
    return _write(figure, title, path)
