"""The comparison of all runs as files: JSON and CSV with every number, LaTeX for a paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fervit_lib.evaluation.evaluate import EvaluatedRun
from fervit_lib.system.atomic import write_json, write_text

MAX_CONFUSION = 100
# Columns of the LaTeX table: heading, factor to its unit, format.
_LATEX = {
    "accuracy": (r"Accuracy (\%)", 100, "{:.1f}"),
    "macro_f1": ("Macro-F1", 1, "{:.3f}"),
    "roc_auc": ("AUC", 1, "{:.3f}"),
    "ece": ("ECE", 1, "{:.3f}"),
    "trainable_parameters": ("Trained (M)", 1e-6, "{:.2f}"),
    "macs": ("MACs (M)", 1e-6, "{:.0f}"),
    "latency_p50_ms": ("Latency (ms)", 1, "{:.1f}"),
    "train_seconds": ("Training (min)", 1 / 60, "{:.1f}"),
}


def _latex_table(table: pd.DataFrame) -> str:
    """The main columns of a table with one row per run, formatted for LaTeX."""
    cells = pd.DataFrame({"Run": table["variant"].str.replace("_", r"\_")})
    for name, (heading, factor, layout) in _LATEX.items():
        if name in table:
            numbers = [factor * value for value in table[name].astype(float)]
            cells[heading] = ["--" if np.isnan(n) else layout.format(n) for n in numbers]
    if "accuracy_low" in table:
        ends = (100 * table[["accuracy_low", "accuracy_high"]]).map("{:.1f}".format)
        interval = " [" + ends["accuracy_low"] + ", " + ends["accuracy_high"] + "]"
        cells[_LATEX["accuracy"][0]] += interval
    columns = "l" + "r" * (cells.shape[1] - 1)
    return cells.style.hide().to_latex(hrules=True, column_format=columns)


def write_results(
    folder: Path,
    *,
    best: EvaluatedRun,
    runs: pd.DataFrame,
    classes: Sequence[str],
    class_metrics: Mapping[str, pd.DataFrame],
    confusion: Mapping[str, np.ndarray],
    **tables: pd.DataFrame,
) -> list[Path]:
    """Write `evaluation_results.json` (everything), `comparison.csv` (all columns of `runs`) and
    `comparison.tex` (its main columns, for a paper; needs LaTeX's booktabs).

    Args:
        best: the run whose accuracy and `classification_report`, as scikit-learn names its rows and
            columns, come first.
        runs: one row per run: `EvaluatedRun.metrics` and its measured costs.
        class_metrics: by run, one row per class.
        confusion: by run, (C, C) counts, one row per true class; left out if there are more than
            `MAX_CONFUSION`, as the files of predictions tell the same in less memory.
        tables: further tables to store, by name.
    """
    from sklearn.metrics import classification_report  # takes a second to import

    content = {
        "best": best.variant,
        "accuracy": best.metrics["accuracy"],
        "classification_report": classification_report(
            best.test.labels,
            best.test.predicted,
            labels=range(len(classes)),
            target_names=classes,
            output_dict=True,
            zero_division=0,
        ),
        "classes": list(classes),
        "runs": _records(runs),
        "class_metrics": {
            name: _records(table.rename_axis("class").reset_index())
            for name, table in class_metrics.items()
        },
        "confusion": confusion if len(classes) <= MAX_CONFUSION else {},
    }
    content |= {name: _records(table) for name, table in tables.items()}
    names = ("evaluation_results.json", "comparison.csv", "comparison.tex")
    paths = [folder / name for name in names]
    write_json(paths[0], content)
    write_text(paths[1], runs.to_csv(index=False))
    write_text(paths[2], _latex_table(runs))
    return paths


def _records(table: pd.DataFrame) -> list[dict]:
    """Rows as dictionaries for JSON; missing values are None."""
    # As objects, because a column of floats would turn None back into NaN, which is no JSON.
    return table.astype(object).where(table.notna(), None).to_dict("records")
