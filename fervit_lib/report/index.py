"""An experiment as one page: its question, runs, main results, and how it was made."""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
from fervit_lib.pipeline import read_config
from fervit_lib.report.html import SYNTHETIC, figure_div, fill_template, write_html
from fervit_lib.system.atomic import read_json, write_text
from fervit_lib.system.errors import describe_error
from fervit_lib.system.names import check_range
from fervit_lib.system.private import hide_paths
from fervit_lib.system.runtime import display_path
from fervit_lib.system.yaml_files import read_yaml

CONFIG = "config.yaml"  # of the experiment, stored beside its index
QUESTION = (
    "How accurately are expressions recognised from StyleGAN codes and from pixels, with which "
    "model and fine-tuning strategy, with how few training faces and trained parameters, and which "
    "of the 18 layers of a code matter?"
)
TEMPLATE = "index.html.j2"
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

    def _read(self, name: str) -> dict:
        """A file of the run; empty if it is missing. Raises ValueError if it is damaged."""
        return read_json(self.folder / name) if (self.folder / name).exists() else {}

    @cached_property
    def config(self) -> dict:
        return self._read("config.json")

    @cached_property
    def result(self) -> dict:
        """Empty while the run is incomplete."""
        return self._read("result.json")

    @cached_property
    def evaluation(self) -> dict:
        """The tables of an evaluation; empty for other steps."""
        return self._read("evaluation_results.json")

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
        if any((folder / name).is_file() for name in ("config.json", "notebook.ipynb"))
        or (folder.is_dir() and folder.parent.name in STEPS)
    ]
    return sorted(runs, key=lambda run: [*STEPS, run.step].index(run.step))


def _table_rows(runs: Iterable[RunPage], left: Collection[str]) -> list[dict]:
    """One row per complete training run, with its test scores if it was evaluated; best first.

    Args:
        left: variants that an earlier evaluation may hold, and the table does not.
    """
    trained = {run.variant: run for run in runs if run.step == "train"}
    rows = {
        name: {**run.result, "variant": name, "page": run.page}
        for name, run in trained.items()
        if run.result
    }
    for run in runs:
        if run.step == "evaluate" and run.result:
            # Points of a learning curve, and folds, whose predictions are one row.
            parts = [*run.result["on_parts"], *run.result.get("pooled", ())]
            rows = {name: row for name, row in rows.items() if name not in parts}
            for row in run.result["runs"]:
                for key in ("accuracy", "accuracy_low", "accuracy_high", "num_test"):
                    check_range(key, row[key], 0)  # refuses NaN, which would not fail below
                if row["variant"] in left:
                    continue
                above = 100 * (row["accuracy"] - run.result["majority_accuracy"])
                rows.setdefault(row["variant"], {}).update(row, above=above)
    return sorted(rows.values(), key=lambda row: row.get("accuracy", -1), reverse=True)


def _summary(runs: Sequence[RunPage], best: Mapping) -> str:
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


def _plot_run(run: RunPage) -> list[go.Figure]:
    """Accuracy by training faces and on other data sets, effects of loss terms, or layers."""
    figures = []
    if curves := run.evaluation.get("curves"):
        figures.append(plot_learning_curves(pd.DataFrame(curves)))
    cross = pd.DataFrame(run.evaluation.get("cross"))
    if "accuracy" in cross:
        figures.append(plot_cross(cross))
    if pairs := run.result.get("differences"):
        arm = run.result["arms"][0]
        figures.append(plot_differences(pd.DataFrame(pairs), arm["seeds"], arm["test_images"]))
    if run.step == "explain" and run.result:
        result = run.result
        keys = ("accuracy_lost", "accuracy_lost_low", "accuracy_lost_high")
        lost, low, high = 100 * np.array([result[key] for key in keys], float)  # of equal length
        figure = plot_layer_scores(
            pd.DataFrame({"accuracy lost": lost}),
            "Accuracy lost without a layer",
            f"{result['runs'][0]}; n = {result['num_faces']:,} test faces, 95% interval over them",
            "accuracy lost (points)",
            {"accuracy lost": (low, high)},
        )
        figures.append(figure)
    return figures


def _divide(runs: Sequence[RunPage], content: Mapping) -> tuple[list[RunPage], list[RunPage]]:
    """The runs that a configuration names, and those left over from earlier ones.

    A step that it does not mention runs once with defaults. Unless that run exists, runs of this
    step come from no configuration.
    """
    plan = read_config(content) if content else {}
    present = {(run.step, run.variant) for run in runs}
    decided = {
        step
        for step, named in plan.items()
        if step in content or not named or any((step, variant) in present for variant in named)
    }
    left = [run for run in runs if run.step in decided and run.variant not in plan[run.step]]
    return [run for run in runs if run not in left], left


def _content(runs: Sequence[RunPage], left: Sequence[RunPage] = ()) -> dict:
    """What the page shows of some runs, and the names of those in `left`."""
    rows = _table_rows(runs, {run.variant for run in left if run.step == "train"})
    figures = []
    if rows and "accuracy" in rows[0]:  # the best, before those that were not evaluated
        evaluated = pd.DataFrame([row for row in rows if "accuracy" in row])
        majority = rows[0]["accuracy"] - rows[0]["above"] / 100
        figures.append(plot_accuracy_intervals(evaluated, majority))
        figures.append(plot_costs(evaluated, ["trainable_parameters"]))
    for run in runs:
        figures += _plot_run(run) if run.step != "distill" else []
    of_distill = {run.variant: _plot_run(run) for run in runs if run.step == "distill"}
    return {
        "synthetic": SYNTHETIC if any(run.result.get("synthetic") for run in runs) else "",
        "summary": _summary(runs, rows[0] if rows else {}),
        "rows": rows,
        "on_parts": sum(len(run.result.get("on_parts", [])) for run in runs),
        "over_seeds": [
            row for run in runs for row in run.evaluation.get("over_seeds", []) if row["seeds"] > 1
        ],
        "runs": runs,
        "left": [hide_paths(shlex.quote(str(run.folder))) for run in left],
        "figures_html": list(map(figure_div, figures)),
        "differences": {name: list(map(figure_div, drawn)) for name, drawn in of_distill.items()},
        "configs": [run.config for run in runs if run.config],
        "seconds": np.nansum([run.seconds for run in runs]),
    }


def _problem(run: RunPage) -> str:
    """Why a run cannot be shown: what its files lead to on a page of its own; empty if it can."""
    try:
        if run.result:
            dict(run.config["parameters"])
        fill_template(TEMPLATE, **_content([run]))
    except Exception as error:  # of any part of pandas, plotly or jinja, which no check foresees
        if display_path(run.folder) in str(error):
            return str(error)
        return (
            f"{run.folder}: config.json, result.json or evaluation_results.json is damaged or of "
            f"another version ({describe_error(error)}); run this step again"
        )
    return ""


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
    runs = _find_runs(experiment_dir)
    content = {}
    left: list[RunPage] = []
    problems = []
    try:
        if source.is_file():
            content = read_yaml(source)
            runs, left = _divide(runs, content)
    except ValueError as error:
        if config:
            raise
        problems.append(f"{source}: damaged, so all runs are shown ({error})")
    if config:
        write_text(stored, config.read_text(encoding="utf-8"))
    damaged = {run.folder: problem for run in runs if (problem := _problem(run))}
    shown = _content([run for run in runs if run.folder not in damaged], left)
    return write_html(
        experiment_dir / "index.html",
        TEMPLATE,
        figures=bool(shown["figures_html"]) or any(shown["differences"].values()),
        title=f"Experiment {experiment_dir.resolve().name}",
        question=content.get("question", QUESTION),
        problems=[hide_paths(problem) for problem in (*problems, *damaged.values())],
        settings=stored.read_text("utf-8", errors="replace") if stored.is_file() else "",
        **shown,
    )
