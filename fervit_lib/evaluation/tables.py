"""The comparison as files: for a paper, and for whoever wants every number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fervit_lib.system.atomic import atomic_write, write_json

# Column of the comparison, its heading in LaTeX, and how a number is written there.
_LATEX = {
    "variant": ("Run", "{}"),
    "accuracy": ("Accuracy (\\%)", "{:.1f}"),
    "macro_f1": ("Macro-F1", "{:.3f}"),
    "roc_auc": ("AUC", "{:.3f}"),
    "ece": ("ECE", "{:.3f}"),
    "trainable_parameters": ("Trained (M)", "{:.2f}"),
    "macs": ("MACs (M)", "{:.0f}"),
    "latency_p50_ms": ("Latency (ms)", "{:.1f}"),
    "train_seconds": ("Training (min)", "{:.1f}"),
}
_SCALE = {"accuracy": 100, "trainable_parameters": 1e-6, "macs": 1e-6, "train_seconds": 1 / 60}


def write_comparison(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `comparison.csv` (every column) and `comparison.tex` (a table for a paper, with booktabs).

    Args:
        table: a row a run; of the columns for LaTeX those that are there are written.
    """
    columns = [name for name in _LATEX if name in table]
    rows = [[_LATEX[name][0] for name in columns]]
    for record in table[columns].to_dict("records"):
        rows.append([_cell(name, value) for name, value in record.items()])
    if {"accuracy_low", "accuracy_high"} <= set(table):
        place = columns.index("accuracy")
        for row, low, high in zip(
            rows[1:], table["accuracy_low"], table["accuracy_high"], strict=True
        ):
            row[place] += f" [{100 * low:.1f}, {100 * high:.1f}]"
    lines = [" & ".join(row) + r" \\" for row in rows]
    layout = "l" + "r" * (len(columns) - 1)
    latex = "\n".join(
        [
            f"\\begin{{tabular}}{{{layout}}}",
            "\\toprule",
            lines[0],
            "\\midrule",
            *lines[1:],
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )
    paths = [folder / "comparison.csv", folder / "comparison.tex"]
    with atomic_write(paths[0]) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(latex + "\n", encoding="utf-8")
    return paths


def _cell(name: str, value: str | float) -> str:
    if isinstance(value, str):  # the run's name
        return value.replace("_", r"\_")
    return "--" if pd.isna(value) else _LATEX[name][1].format(value * _SCALE.get(name, 1))


def parameter_efficiency(runs: pd.DataFrame, majority: float) -> pd.DataFrame:
    """What a trained parameter brings: variant, trainable_parameters, share (of all), above, per_million.

    `above` is the accuracy above guessing the majority class, in points; `per_million` that for a million trained
    parameters. Rows are by it, the best first.
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
    """Write `evaluation_results.json` with all of it, `comparison.csv` and `comparison.tex`.

    Args:
        runs: a row a run, as `EvaluatedRun.figures` and what was measured of it.
        class_metrics: by run, a row a class.
        confusion: by run, (C, C) counts, true classes down.
        tables: anything else worth keeping, under its name.
    """
    content: dict[str, Any] = {
        "classes": list(classes),
        "runs": _records(runs),
        "class_metrics": {
            name: _records(table.rename_axis("class").reset_index())
            for name, table in class_metrics.items()
        },
        "confusion": confusion,
        **{name: _records(table) for name, table in tables.items()},
    }
    path = folder / "evaluation_results.json"
    write_json(path, content)
    return [path, *write_comparison(runs, folder)]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON knows them: what is missing is null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
