"""The comparison of all runs as files: JSON and CSV with every number, LaTeX for a paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fervit_lib.system.atomic import atomic_write, write_json

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


def write_comparison(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `comparison.csv` (all columns) and `comparison.tex` (booktabs, main columns).

    Args:
        table: one row per run; columns of the LaTeX table that it lacks are left out.
    """
    cells = pd.DataFrame({"Run": table["variant"].str.replace("_", r"\_")})
    for name, (heading, factor, layout) in _LATEX.items():
        if name in table:
            numbers = [factor * value for value in table[name].astype(float)]
            cells[heading] = ["--" if np.isnan(n) else layout.format(n) for n in numbers]
    if "accuracy_low" in table:
        ends = (100 * table[["accuracy_low", "accuracy_high"]]).map("{:.1f}".format)
        interval = " [" + ends["accuracy_low"] + ", " + ends["accuracy_high"] + "]"
        cells[_LATEX["accuracy"][0]] += interval
    paths = [folder / "comparison.csv", folder / "comparison.tex"]
    with atomic_write(paths[0]) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_write(paths[1]) as temporary:
        columns = "l" + "r" * (cells.shape[1] - 1)
        cells.style.hide().to_latex(temporary, hrules=True, column_format=columns)
    return paths


def parameter_efficiency(runs: pd.DataFrame, majority: float) -> pd.DataFrame:
    """Accuracy gained per trained parameter, the best run first.

    Returns:
        variant; trainable_parameters; share, of all parameters; above, the accuracy above always
        predicting the majority class, in percentage points; per_million, `above` per million
        trained parameters.
    """
    table = runs[["variant", "trainable_parameters"]].assign(
        share=runs["trainable_parameters"] / runs["total_parameters"],
        above=100 * (runs["accuracy"] - majority),
    )
    table["per_million"] = 1e6 * table["above"] / table["trainable_parameters"]
    return table.sort_values("per_million", ascending=False)


def write_results(
    folder: Path,
    *,
    runs: pd.DataFrame,
    classes: Sequence[str],
    class_metrics: Mapping[str, pd.DataFrame],
    confusion: Mapping[str, np.ndarray],
    **tables: pd.DataFrame,
) -> list[Path]:
    """Write `evaluation_results.json` (everything), `comparison.csv` and `comparison.tex`.

    Args:
        runs: one row per run: `EvaluatedRun.metrics` and its measured costs.
        class_metrics: by run, one row per class.
        confusion: by run, (C, C) counts, one row per true class.
        tables: further tables to store, by name.
    """
    content: dict[str, Any] = {
        "classes": list(classes),
        "runs": _records(runs),
        "class_metrics": {
            name: _records(table.rename_axis("class").reset_index())
            for name, table in class_metrics.items()
        },
        "confusion": confusion,
    }
    content |= {name: _records(table) for name, table in tables.items()}
    path = folder / "evaluation_results.json"
    write_json(path, content)
    return [path, *write_comparison(runs, folder)]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries for JSON; missing values are None."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
