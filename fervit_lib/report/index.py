"""An experiment as one page: its question, its runs, their headline figures, a link to each page, how it was made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
import yaml

from fervit_lib.figures.distill import plot_differences
from fervit_lib.figures.evaluation import (
    plot_accuracy_by_parameters,
    plot_accuracy_intervals,
    plot_learning_curves,
)
from fervit_lib.figures.explain import plot_layer_scores
from fervit_lib.figures.theme import escape_labels
from fervit_lib.report.html import SYNTHETIC, figure_div, read_object, revision, shown, write_html
from fervit_lib.system.atomic import atomic_write

CONFIG = "config.yaml"  # of the whole experiment, kept beside its index
QUESTION = (
    "How well are expressions read from StyleGAN codes and from pixels, by which model and fine-tuning, from how few "
    "faces and with how few trained parameters, and which of the 18 layers of a code does it rest on?"
)
STEPS = (
    "encode",
    "train",
    "distill",
    "evaluate",
    "explain",
)  # in the order they run; any other step comes after them


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
    def seconds(self) -> float | None:
        """From its start to its end; None where it has none."""
        try:
            times = str(self.config["started"]), str(self.result["ended"])
            began, ended = map(datetime.fromisoformat, times)
        except (KeyError, ValueError):
            return None
        return (ended - began).total_seconds()

    @property
    def page(self) -> str:
        """Address of its page as seen from the index; empty if it has none."""
        path = f"{self.step}/{self.variant}/notebook.html"
        return quote(path) if (self.folder / "notebook.html").is_file() else ""


def _find_runs(experiment: Path) -> list[RunPage]:
    signs = ("config.json", "result.json", "notebook.ipynb", "notebook.html")
    folders = [
        path
        for path in experiment.glob("[!.]*/[!.]*")
        if any((path / sign).is_file() for sign in signs)
    ]
    order = {step: number for number, step in enumerate(STEPS)}
    return [
        RunPage(path)
        for path in sorted(folders, key=lambda p: (order.get(p.parent.name, len(order)), p))
    ]


def _table_rows(runs: Iterable[RunPage]) -> list[dict[str, Any]]:
    """A row a finished training run, with its figures on the test split if it was evaluated; the best comes first."""
    rows = {
        run.variant: run.result | {"variant": run.variant}
        for run in runs
        if run.step == "train" and run.complete
    }
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
    """Mean and range of the runs that differ in the seed alone."""
    recipes = evaluated["variant"].str.replace(r"-seed\d+", "", regex=True).rename("recipe")
    groups = evaluated.groupby(recipes, as_index=False).agg(
        seeds=("seed", "nunique"), mean=("accuracy", "mean"), low=("accuracy", "min"), high=("accuracy", "max"),
        macro_f1=("macro_f1", "mean"),
    )  # fmt: skip
    return groups[groups["seeds"] > 1].sort_values("mean", ascending=False).to_dict("records")


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
            "guessing the most common class. Not tested: other faces than this test split."
        )
    return " ".join(texts)


def _figures(runs: Iterable[RunPage], evaluated: pd.DataFrame) -> list[go.Figure]:
    """What answers the question: accuracy, its price in parameters and in faces, and the layers it rests on."""
    figures = []
    if len(evaluated):
        majority = evaluated["accuracy"].iloc[0] - evaluated["above"].iloc[0] / 100
        figures = [
            plot_accuracy_intervals(evaluated, majority),
            plot_accuracy_by_parameters(evaluated),
        ]
    for run in runs:
        if run.step == "evaluate":
            curves = read_object(run.folder / "evaluation_results.json").get("curves")
            figures += [plot_learning_curves(pd.DataFrame(curves))] if curves else []
        if run.step == "explain" and "accuracy_lost_low" in run.result:
            ends = tuple(
                pd.Series(run.result[f"accuracy_lost_{end}"]).to_numpy() for end in ("low", "high")
            )
            lost = pd.DataFrame({"accuracy lost": run.result["accuracy_lost"]})
            figure = plot_layer_scores(
                lost,
                "Accuracy lost without a layer",
                "accuracy lost",
                {"accuracy lost": (ends[0], ends[1])},
            )
            figure.layout.title.subtitle.text = (
                f"{escape_labels(run.result['runs'][:1])[0]}, 95% intervals over faces"
            )
            figures.append(figure)
    return figures


def _differences(run: RunPage) -> str:
    """What each term of a distillation buys, as a figure; empty where nothing was compared."""
    if not (pairs := run.result.get("differences")):
        return ""
    arm = run.result["arms"][0]
    return figure_div(plot_differences(pd.DataFrame(pairs), arm["seeds"], arm["test_images"]))


def _made(runs: Iterable[RunPage]) -> dict[str, list[str]]:
    """How all runs together were made: revisions of the code, versions, devices."""
    configs = [run.config for run in runs if run.config]
    versions = [
        ", ".join(f"{name} {number}" for name, number in c.get("versions", {}).items())
        for c in configs
    ]
    found = {
        "Code": map(revision, configs),
        "Versions": versions,
        "Device": [str(c.get("device")) for c in configs],
    }
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def write_index(experiment_dir: Path, config: Path | None = None) -> Path:
    """Write `index.html` of an experiment: the question, the table of runs, the headline figures, a link to each page.

    Args:
        experiment_dir: `reports/<experiment>`; whatever part of `<step>/<variant>/` is there is shown.
        config: the experiment's configuration, to be kept beside the index; its `question` stands at the top. None: the
            one that is there, if there is one.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not experiment_dir.is_dir():
        raise NotADirectoryError(
            f"{experiment_dir}: no experiment there; expected a folder reports/<experiment>"
        )
    kept = experiment_dir / CONFIG
    if config:
        with atomic_write(kept) as temporary:
            temporary.write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    settings = kept.read_text(encoding="utf-8") if kept.is_file() else ""
    runs = _find_runs(experiment_dir)
    rows = _table_rows(runs)
    evaluated = pd.DataFrame([row for row in rows if "accuracy" in row])
    figures = _figures(runs, evaluated)
    on_parts = sum(len(run.result.get("on_parts", [])) for run in runs)
    differences = {run.variant: _differences(run) for run in runs if run.step == "distill"}
    return write_html(
        experiment_dir / "index.html",
        "index.html.j2",
        figures=bool(figures) or any(differences.values()),
        title=f"Experiment {experiment_dir.resolve().name}",
        synthetic=SYNTHETIC if any(run.result.get("synthetic") for run in runs) else "",
        question=(yaml.safe_load(settings) or {}).get("question", QUESTION),
        summary=_summary(runs, rows[0] if rows else {}),
        caption="Intervals: 95% bootstrap over the test faces. They say nothing about other training seeds.",
        rows=rows,
        on_parts=on_parts,
        seeds=_over_seeds(evaluated) if len(evaluated) else [],
        runs=runs,
        figures_html=[figure_div(figure) for figure in figures],
        differences=differences,
        made=_made(runs),
        seconds=sum(run.seconds or 0 for run in runs),
        settings=settings,
    )
