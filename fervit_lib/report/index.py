"""An experiment as one page: its question, runs, main results, and how it was made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fervit_lib.figures.distill import plot_differences
from fervit_lib.figures.evaluation import (
    plot_accuracy_intervals,
    plot_costs,
    plot_cross,
    plot_learning_curves,
)
from fervit_lib.figures.explain import plot_layer_scores
from fervit_lib.report.html import SYNTHETIC, figure_div, read_object, write_html
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.yaml_files import read_yaml

CONFIG = "config.yaml"  # of the experiment, stored beside its index
QUESTION = (
    "How accurately are expressions recognised from StyleGAN codes and from pixels, with which "
    "model and fine-tuning strategy, with how few training faces and trained parameters, and which "
    "of the 18 layers of a code matter?"
)
# In this order, then all others.
STEPS = ["tour", "encode", "train", "distill", "evaluate", "explain"]


@dataclass(frozen=True)
class RunPage:
    """One run of an experiment, complete or not, for the index."""

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
        """Empty while the run is incomplete."""
        return read_object(self.folder / "result.json")

    @property
    def seconds(self) -> float:
        """Duration; NaN if the run is incomplete."""
        times = pd.Series([self.config.get("started"), self.result.get("ended")])
        return pd.to_datetime(times, utc=True, errors="coerce").diff()[1].total_seconds()

    @property
    def page(self) -> str:
        """URL of its page relative to the index; empty if it has none."""
        path = f"{self.step}/{self.variant}/notebook.html"
        return quote(path) if (self.folder / "notebook.html").is_file() else ""


def _find_runs(experiment: Path) -> list[RunPage]:
    runs = [
        RunPage(folder)
        for folder in sorted(experiment.glob("[!.]*/[!.]*"))
        if (folder / "config.json").is_file() or (folder / "notebook.ipynb").is_file()
    ]
    return sorted(runs, key=lambda run: [*STEPS, run.step].index(run.step))


def _table_rows(runs: Iterable[RunPage]) -> list[dict[str, Any]]:
    """One row per complete training run, with its test scores if it was evaluated; best first."""
    trained = {run.variant: run for run in runs if run.step == "train"}
    rows = {
        name: {**run.result, "variant": name, "page": run.page}
        for name, run in trained.items()
        if run.result
    }
    for run in runs:
        if run.step == "evaluate" and run.result:
            # Points of a learning curve, and folds, whose predictions are one row.
            for variant in [*run.result["on_parts"], *run.result.get("pooled", ())]:
                rows.pop(variant, None)
            for row in run.result["runs"]:
                above = 100 * (row["accuracy"] - run.result["majority_accuracy"])
                rows.setdefault(row["variant"], {}).update(row, above=above)
    return sorted(rows.values(), key=lambda row: row.get("accuracy", -1), reverse=True)


def _summary(runs: Sequence[RunPage], best: Mapping[str, Any]) -> str:
    if not runs:
        return "No runs yet."
    incomplete = [f"{run.step}/{run.variant}" for run in runs if not run.result]
    summary = f"Training runs: {sum(run.step == 'train' for run in runs)}, pages: {len(runs)}"
    if incomplete:
        summary += f", {len(incomplete)} incomplete ({', '.join(incomplete)})"
    if "accuracy" not in best:
        return f"{summary}."
    return (
        f"{summary}. Highest test accuracy: {best['variant']} with {best['accuracy']:.1%} "
        f"(95% CI {best['accuracy_low']:.1%} – {best['accuracy_high']:.1%}, "
        f"n = {best['num_test']:,} test faces), "
        f"{best['above']:.1f} points above always predicting the most common class. "
        "Not tested: faces outside this test split."
    )


def _plot_results(
    runs: Iterable[RunPage], evaluated: pd.DataFrame, evaluations: Iterable[Mapping[str, Any]]
) -> list[go.Figure]:
    """Accuracy, by trained parameters and by training faces, and the importance of the layers."""
    figures = []
    if len(evaluated):
        best = evaluated.iloc[0]
        figures.append(plot_accuracy_intervals(evaluated, best["accuracy"] - best["above"] / 100))
        figures.append(plot_costs(evaluated, ["trainable_parameters"]))
    for evaluation in evaluations:
        if curves := evaluation.get("curves"):
            figures.append(plot_learning_curves(pd.DataFrame(curves)))
        cross = pd.DataFrame(evaluation.get("cross"))
        if "accuracy" in cross:
            figures.append(plot_cross(cross))
    for run in runs:
        if "accuracy_lost_low" in run.result:
            figures.append(_plot_accuracy_lost(run.result))
    return figures


def _plot_accuracy_lost(result: Mapping[str, Any]) -> go.Figure:
    name = "accuracy lost"
    keys = ("accuracy_lost", "accuracy_lost_low", "accuracy_lost_high")
    lost, low, high = (100 * np.array(result[key]) for key in keys)
    return plot_layer_scores(
        pd.DataFrame({name: lost}),
        "Accuracy lost without a layer",
        f"{result['runs'][0]}; n = {result['num_faces']:,} test faces, 95% interval over them",
        "accuracy lost (points)",
        {name: (low, high)},
    )


def _differences_div(run: RunPage) -> str:
    """The effect of each loss term in a distillation; empty if nothing was compared."""
    if not (pairs := run.result.get("differences")):
        return ""
    arm = run.result["arms"][0]
    return figure_div(plot_differences(pd.DataFrame(pairs), arm["seeds"], arm["test_images"]))


def write_index(experiment_dir: Path, config: Path | None = None) -> Path:
    """Write `index.html` of an experiment: question, table of runs, main figures, links to pages.

    Args:
        experiment_dir: `reports/<experiment>`; any runs `<step>/<variant>/` in it are shown.
        config: the experiment's configuration, stored beside the index; its `question` is shown at
            the top. None: the configuration that was stored earlier, if any.

    Raises:
        NotADirectoryError: `experiment_dir` does not exist.
    """
    if not experiment_dir.is_dir():
        raise NotADirectoryError(
            f"{experiment_dir}: no experiment there; expected a folder reports/<experiment>"
        )
    stored = experiment_dir / CONFIG
    source = config or stored
    content = read_yaml(source) if source.is_file() else {}
    if config:
        with atomic_write(stored) as temporary:
            temporary.write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    settings = stored.read_text(encoding="utf-8") if stored.is_file() else ""
    runs = _find_runs(experiment_dir)
    rows = _table_rows(runs)
    evaluated = pd.DataFrame([row for row in rows if "accuracy" in row])
    evaluations = [read_object(run.folder / "evaluation_results.json") for run in runs]
    figures = _plot_results(runs, evaluated, evaluations)
    differences = {run.variant: _differences_div(run) for run in runs if run.step == "distill"}
    return write_html(
        experiment_dir / "index.html",
        "index.html.j2",
        figures=bool(figures) or any(differences.values()),
        title=f"Experiment {experiment_dir.resolve().name}",
        synthetic=SYNTHETIC if any(run.result.get("synthetic") for run in runs) else "",
        question=content.get("question", QUESTION),
        summary=_summary(runs, rows[0] if rows else {}),
        rows=rows,
        on_parts=sum(len(run.result.get("on_parts", [])) for run in runs),
        over_seeds=[
            row
            for evaluation in evaluations
            for row in evaluation.get("over_seeds", [])
            if row["seeds"] > 1
        ],
        runs=runs,
        figures_html=[figure_div(figure) for figure in figures],
        differences=differences,
        configs=[run.config for run in runs if run.config],
        seconds=np.nansum([run.seconds for run in runs]),
        settings=settings,
    )
