"""Executed notebooks and whole experiments as HTML pages that need nothing but a browser: no network, no server."""

import argparse
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import nbformat
import pandas as pd
import plotly.io
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from fervit_lib.figures.evaluation import plot_accuracy_by_parameters, plot_accuracy_intervals
from fervit_lib.runs import atomic_write, read_json

SYNTHETIC = (
    "Made from synthetic toy faces and people drawn by code: the figures show that the pipeline works, "
    "not how well it reads real ones."
)
STEPS = ("encode", "train", "distill", "evaluate", "explain")  # in the order they run; any other step comes after them
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
LARGE_PNG = 100_000  # characters in base64
FAILED_TAG = "failed-here"  # the style sheet shows the code of a cell tagged so
PAPERMILL_TAG = "papermill-error-cell-tag"  # papermill's own remarks on a failure; ours replace them
PROGRESS = re.compile(r"\s*([^\n]*:\s*)?\d+%\|[^\n]*\s*")  # a bar of tqdm, alone
LIBRARY_WARNING = re.compile(r"^\S*site-packages\S*:\d+: \w*Warning: .*\n(?:  .*\n?)?", re.MULTILINE)
MARKUP = re.compile(r"<style.*?</style>|<progress.*?</progress>|<[^>]*>", re.DOTALL)


def _figure_div(figure: Any) -> str:
    """A figure, or its JSON as a notebook stores it, as a div for a page that has plotly.js."""
    config = {"responsive": True, "displaylogo": False}
    options = {"include_plotlyjs": False, "full_html": False, "validate": False, "default_height": "450px"}
    return plotly.io.to_html(figure, config=config, **options)


class PageOutputs(Preprocessor):
    """Outputs as a page without a kernel or a network can show them.

    Figures become divs; progress bars and what has no visible content go; of an interactive control its text stays,
    or a remark where it has none.
    """

    def preprocess_cell(self, cell: NotebookNode, resources: dict, cell_index: int) -> tuple[NotebookNode, dict]:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if self._prepare(output)]
        return cell, resources

    def _prepare(self, output: NotebookNode) -> bool:
        """Rewrite one output for the page; False if nothing is left to show."""
        if output.output_type == "error":
            return True
        if output.output_type == "stream":
            lines = output.text.splitlines(keepends=True)
            output.text = LIBRARY_WARNING.sub("", "".join(line for line in lines if not PROGRESS.fullmatch(line)))
            return bool(output.text.strip())
        data = output.data
        data.pop("application/javascript", None)
        if PLOTLY in data:
            stored = data[PLOTLY]
            figure = {key: stored[key] for key in ("data", "layout", "frames") if stored.get(key)}
            output.data = NotebookNode({"text/html": f'<div class="figure">{_figure_div(figure)}</div>'})
            return True
        if data.pop(WIDGET, None) is not None and not data.keys() & {"text/html", "image/png", "image/svg+xml"}:
            text = data.get("text/plain", "")
            if PROGRESS.fullmatch(text):
                return False
            if not text.strip() or re.match(r"\s*\w+\(", text):  # nothing, or the control's repr
                data["text/plain"] = "(An interactive control: open the notebook in JupyterLab to use it.)"
        if "image/jpeg" in data and len(data.get("image/png", "")) > LARGE_PNG:
            del data["image/png"]  # of a photograph; the same picture, several times as large
        for kind in data.keys() & {"image/png", "image/jpeg"}:
            output.metadata.setdefault(kind, NotebookNode()).setdefault("alt", "picture made by this cell")
        html = data.get("text/html")
        if html is not None and not re.search(r"<(img|svg|canvas|iframe|table|script)\b", html):
            return bool(MARKUP.sub("", html).replace("&nbsp;", " ").strip())
        return bool(data)


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped."""

    cell: NotebookNode
    number: int  # as Jupyter counts: the first code cell that ran is 1
    message: str


def _find_failure(notebook: NotebookNode) -> Failure | None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for position, cell in enumerate(code, 1):
        number = cell.execution_count or position
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors and "raises-exception" not in cell.metadata.get("tags", []):
            return Failure(cell, number, strip_ansi(f"{errors[0].ename}: {errors[0].evalue}"))
        if not errors and cell.metadata.get("papermill", {}).get("exception"):
            return Failure(cell, number, "the kernel stopped without a message (was memory short?)")
    return None


def _mark_failure(failure: Failure) -> None:
    """Show the failing cell's code and say so there."""
    failure.cell.metadata["tags"] = [*failure.cell.metadata.get("tags", []), FAILED_TAG]
    heading = f'<p class="failed-here" id="failed">Cell {failure.number} failed: {escape(failure.message)}</p>'
    failure.cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": heading}))
    failure.cell.outputs.sort(key=lambda output: output.output_type == "error")  # the traceback comes last


def _not_run(notebook: NotebookNode) -> str:
    """In words, how many code cells never ran; empty if all did."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    missing = sum(cell.execution_count is None for cell in code)
    return f"{missing} of {len(code)} code cells have not run" if missing else ""


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; an empty one if there is none, or half of one."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _revision(config: Mapping[str, Any]) -> str:
    if not config.get("git_revision"):
        return "no git revision"
    return f"{config['git_revision'][:10]}{' with uncommitted changes' if config.get('git_dirty') else ''}"


def _date(iso: str | None) -> str:
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError):
        return "–"


def _shown(value: Any, form: str) -> str:
    """A number in a format; a dash for one that is missing."""
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else "–"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _duration(seconds: Any) -> str:
    if _shown(seconds, "{}") == "–":
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _write_html(page: Path, template: str, *, figures: bool, **content: Any) -> Path:
    """Fill a template of ours, with plotly.js if there are figures, and write it whole or not at all."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("fervit_lib"), autoescape=True, trim_blocks=True)
    environment.filters |= {
        "revision": _revision,
        "date": _date,
        "shown": _shown,
        "duration": _duration,
        "literal": _literal,
    }
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    html = environment.get_template(template).render(
        code_css=f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}",
        plotly_js=get_plotlyjs() if figures else "",
        **content,
    )
    with atomic_write(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def _is_synthetic(folder: Path) -> bool:
    """Whether a run was made from synthetic faces. One that failed has no result: its experiment's others say it."""
    if result := _read(folder / "result.json"):
        return bool(result.get("synthetic"))
    if not (folder / "config.json").is_file():
        return False
    return any(_read(path).get("synthetic") for path in folder.parents[1].glob("*/*/result.json"))


def write_page(notebook: Path, page: Path, title: str | None = None) -> Path:
    """Turn an executed notebook, failed or not, into one HTML file that shows its figures without a network.

    Args:
        notebook: the executed .ipynb; `config.json` and `result.json` beside it are used where they exist.
        page: the file to write.
        title: of the browser's tab; default is the notebook's first heading, and its run.

    Raises:
        FileNotFoundError: there is no such notebook.
        ValueError: the file is not a notebook.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # cells without an id, which older notebooks have
            content = nbformat.read(notebook, as_version=4)
    except nbformat.reader.NotJSONError as error:
        raise ValueError(f"{notebook}: expected a Jupyter notebook, but it does not parse; run it anew") from error
    content.cells = [cell for cell in content.cells if PAPERMILL_TAG not in cell.metadata.get("tags", [])]
    if failure := _find_failure(content):
        _mark_failure(failure)
    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    exporter.register_preprocessor(PageOutputs, enabled=True)
    cells, _ = exporter.from_notebook_node(content, {"metadata": {"path": str(notebook.parent)}})

    config = _read(notebook.parent / "config.json")
    texts = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", texts, re.MULTILINE)
    named = heading[1].replace("`", "") if heading else notebook.stem
    return _write_html(
        page,
        "notebook.html.j2",
        figures='class="figure"' in cells,
        title=title or " – ".join(filter(None, (named, config.get("variant")))),
        has_heading=heading is not None,
        synthetic=SYNTHETIC if _is_synthetic(notebook.parent) else "",
        failure=failure,
        not_run=_not_run(content),
        config=config,
        cells=cells,
    )


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
        return _read(self.folder / "config.json")

    @cached_property
    def result(self) -> dict[str, Any]:
        return _read(self.folder / "result.json")

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
        interval = f"{_shown(best.get('accuracy_low'), '{:.1%}')} – {_shown(best.get('accuracy_high'), '{:.1%}')}"
        texts.append(
            f"Highest accuracy: {best['variant']} with {best['accuracy']:.1%} ({interval}) "
            f"of {_shown(best.get('num_test'), '{:,}')} test faces, {_shown(best['above'], '{:.1f}')} points above "
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
    return _write_html(
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
        figures_html=[_figure_div(figure) for figure in figures],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fervit_lib.report", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="an executed notebook as one HTML page")
    page.add_argument("notebook", type=Path)
    page.add_argument("page", type=Path)
    index = commands.add_parser("index", help="index.html of an experiment")
    index.add_argument("experiment_dir", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "page":
        write_page(options.notebook, options.page)
    else:
        write_index(options.experiment_dir)


if __name__ == "__main__":
    main()
