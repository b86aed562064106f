"""An experiment as one page: all its runs, their headline figures, a link to each page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from fervit_lib.figures.evaluation import plot_accuracy_by_parameters, plot_accuracy_intervals
from fervit_lib.report.html import SYNTHETIC, figure_div, read_object, shown, write_html

STEPS = ("encode", "train", "distill", "evaluate", "explain")  # in the order they run; any other step comes after them


@dataclass(frozen=True)
class RunPage:
    """One run of an experiment, complete or not, as the index shows it."""

    folder: Path  # <experiment>/<step>/<variant>

    @property
    def step(self) -> str:
        return self.folder.parent.name

    @property
    def variant(self) -> str:
        return self.folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_object(self.folder / "config.json")

    @cached_property
    def result(self) -> dict[str, Any]:
        return read_object(self.folder / "result.json")

    @property
    def complete(self) -> bool:
        return bool(self.result)

    @property
    def page(self) -> str:
        """Address of its page as seen from the index; empty if it has none."""
        path = f"{self.step}/{self.variant}/notebook.html"
        return quote(path) if (self.folder / "notebook.html").is_file() else ""


def _find_runs(experiment: Path) -> list[RunPage]:
    signs = ("config.json", "result.json", "notebook.ipynb", "notebook.html")
    folders = [path for path in experiment.glob("[!.]*/[!.]*") if any((path / sign).is_file() for sign in signs)]
    order = {step: number for number, step in enumerate(STEPS)}
    return [RunPage(path) for path in sorted(folders, key=lambda p: (order.get(p.parent.name, len(order)), p))]


def _table_rows(runs: Iterable[RunPage]) -> list[dict[str, Any]]:
    """A row a finished training run, with its figures on the test split if it was evaluated; the best comes first."""
    rows = {run.variant: run.result | {"variant": run.variant} for run in runs if run.step == "train" and run.complete}
    for run in runs:
        if run.step == "evaluate" and run.complete:
            majority = run.result["majority_accuracy"]
            for variant in run.result["on_parts"]:  # points of its learning curves
                rows.pop(variant, None)
            for row in run.result["runs"]:
                above = 100 * (row["accuracy"] - majority)
                rows[row["variant"]] = rows.get(row["variant"], {}) | row | {"above": above}
    pages = {run.variant: run.page for run in runs if run.step == "train"}
    return sorted(
        (row | {"page": pages.get(name, "")} for name, row in rows.items()),
        key=lambda row: row.get("accuracy", -1),
        reverse=True,
    )


def _over_seeds(evaluated: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean and range of runs that differ in the seed alone, if any was trained with more than one."""
    recipes = evaluated["variant"].str.replace(r"-seed\d+", "", regex=True).rename("recipe")
    groups = evaluated.groupby(recipes, as_index=False).agg(
        seeds=("seed", "nunique"), mean=("accuracy", "mean"), low=("accuracy", "min"), high=("accuracy", "max"),
        macro_f1=("macro_f1", "mean"),
    )  # fmt: skip
    return groups.sort_values("mean", ascending=False).to_dict("records") if (groups["seeds"] > 1).any() else []


def _summary(runs: Sequence[RunPage], best: Mapping[str, Any]) -> str:
    if not runs:
        return "Nothing has run yet."
    incomplete = [f"{run.step}/{run.variant}" for run in runs if not run.complete]
    remark = f", {len(incomplete)} incomplete ({', '.join(incomplete)})" if incomplete else ""
    texts = [f"{len(runs)} run{'s'[: len(runs) != 1]}{remark}."]
    if "accuracy" in best:
        interval = f"{shown(best.get('accuracy_low'), '{:.1%}')} – {shown(best.get('accuracy_high'), '{:.1%}')}"
        texts.append(
            f"Highest accuracy: {best['variant']} with {best['accuracy']:.1%} ({interval}) "
            f"of {shown(best.get('num_test'), '{:,}')} test faces, {shown(best['above'], '{:.1f}')} points above "
            "guessing the most common class."
        )
    return " ".join(texts)


def write_index(experiment_dir: Path) -> Path:
    """Write `index.html` of an experiment: the table of all runs, the headline figures, a link to each page.

    Args:
        experiment_dir: `reports/<experiment>`; whatever part of `<step>/<variant>/` is there is shown.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not experiment_dir.is_dir():
        raise NotADirectoryError(f"{experiment_dir}: no experiment there; expected a folder reports/<experiment>")
    runs = _find_runs(experiment_dir)
    rows = _table_rows(runs)
    evaluated = pd.DataFrame([row for row in rows if "accuracy" in row])
    figures = []
    on_parts = sum(len(run.result.get("on_parts", [])) for run in runs)
    if len(evaluated):
        majority = evaluated["accuracy"].iloc[0] - evaluated["above"].iloc[0] / 100
        figures = [plot_accuracy_intervals(evaluated, majority), plot_accuracy_by_parameters(evaluated)]
    return write_html(
        experiment_dir / "index.html",
        "index.html.j2",
        figures=bool(figures),
        title=f"Experiment {experiment_dir.resolve().name}",
        synthetic=SYNTHETIC if any(run.result.get("synthetic") for run in runs) else "",
        summary=_summary(runs, rows[0] if rows else {}),
        caption="Intervals: 95 % bootstrap over the test faces. They say nothing about other training seeds.",
        rows=rows,
        on_parts=on_parts,
        seeds=_over_seeds(evaluated) if len(evaluated) else [],
        runs=runs,
        figures_html=[figure_div(figure) for figure in figures],
    )
