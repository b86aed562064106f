"""An executed notebook as one page."""

import re
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor
from nbformat import NotebookNode

from fervit_lib.report.html import SYNTHETIC, figure_div, read_object, write_html
from fervit_lib.system.errors import explain_read_error

PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
LARGE_PNG = 100_000  # characters in base64
FAILED_TAG = "failed-here"  # the style sheet shows the code of a cell tagged so
PAPERMILL_TAG = (
    "papermill-error-cell-tag"  # papermill's own remarks on a failure; ours replace them
)
PROGRESS = re.compile(r"\s*([^\n]*:\s*)?\d+%\|[^\n]*\s*")  # a bar of tqdm, alone
LIBRARY_WARNING = re.compile(
    r"^\S*site-packages\S*:\d+: \w*Warning: .*\n(?:  .*\n?)?", re.MULTILINE
)
FASTAI_REMARK = re.compile(
    r"Exception occured in `\w+` when calling event `\w+`:\s*"
)  # before the message itself
MARKUP = re.compile(r"<style.*?</style>|<progress.*?</progress>|<[^>]*>", re.DOTALL)


class PageOutputs(Preprocessor):
    """Outputs as a page without a kernel or a network can show them.

    Figures become divs; progress bars and what has no visible content go; of an interactive control its text stays,
    or a remark where it has none.
    """

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict, cell_index: int
    ) -> tuple[NotebookNode, dict]:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if self._prepare(output)]
        return cell, resources

    def _prepare(self, output: NotebookNode) -> bool:
        """Rewrite one output for the page; False if nothing is left to show."""
        if output.output_type == "error":
            return True
        if output.output_type == "stream":
            lines = output.text.splitlines(keepends=True)
            output.text = LIBRARY_WARNING.sub(
                "", "".join(line for line in lines if not PROGRESS.fullmatch(line))
            )
            return bool(output.text.strip())
        data = output.data
        data.pop("application/javascript", None)
        if PLOTLY in data:
            stored = data[PLOTLY]
            figure = {key: stored[key] for key in ("data", "layout", "frames") if stored.get(key)}
            output.data = NotebookNode({"text/html": figure_div(figure)})
            return True
        if data.pop(WIDGET, None) is not None and not data.keys() & {
            "text/html",
            "image/png",
            "image/svg+xml",
        }:
            text = data.get("text/plain", "")
            if PROGRESS.fullmatch(text):
                return False
            if not text.strip() or re.match(r"\s*\w+\(", text):  # nothing, or the control's repr
                data["text/plain"] = (
                    "(An interactive control: open the notebook in JupyterLab to use it.)"
                )
        if "image/jpeg" in data and len(data.get("image/png", "")) > LARGE_PNG:
            del data["image/png"]  # of a photograph; the same picture, several times as large
        for kind in data.keys() & {"image/png", "image/jpeg"}:
            output.metadata.setdefault(kind, NotebookNode()).setdefault(
                "alt", "picture made by this cell"
            )
        html = data.get("text/html")
        if html is not None and not re.search(r"<(img|svg|canvas|iframe|table|script)\b", html):
            return bool(MARKUP.sub("", html).replace("&nbsp;", " ").strip())
        return bool(data)


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped."""

    cell: NotebookNode
    number: int  # as Jupyter counts: the first code cell that ran is 1
    notebook: str  # that was executed, where papermill says it
    message: str


def read_notebook(path: Path) -> NotebookNode:
    """A notebook, executed or not.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is not a notebook.
    """
    with (
        explain_read_error(
            path, "expected a Jupyter notebook, but it does not parse", "run it anew"
        ),
        warnings.catch_warnings(action="ignore"),  # cells without an id, which older notebooks have
    ):
        content = nbformat.read(path, as_version=4)
        nbformat.validate(content)
    return content


def find_failure(path: Path) -> Failure | None:
    """Where an executed notebook stopped; None if it ran to its end. Raises as `read_notebook`."""
    return _find_failure(read_notebook(path))


def _find_failure(notebook: NotebookNode) -> Failure | None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    source = notebook.metadata.get("papermill", {}).get("input_path", "this notebook")
    for position, cell in enumerate(code, 1):
        number = cell.execution_count or position
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors and "raises-exception" not in cell.metadata.get("tags", []):
            reason = FASTAI_REMARK.sub("", errors[0].evalue)
            return Failure(cell, number, source, strip_ansi(f"{errors[0].ename}: {reason}"))
        if not errors and cell.metadata.get("papermill", {}).get("exception"):
            return Failure(
                cell, number, source, "the kernel stopped without a message (was memory short?)"
            )
    return None


def _mark_failure(failure: Failure) -> None:
    """Show the failing cell's code and say so there."""
    failure.cell.metadata["tags"] = [*failure.cell.metadata.get("tags", []), FAILED_TAG]
    heading = f'<p class="failed-here" id="failed">Cell {failure.number} failed: {escape(failure.message)}</p>'
    failure.cell.outputs.append(nbformat.v4.new_output("display_data", {"text/html": heading}))
    failure.cell.outputs.sort(
        key=lambda output: output.output_type == "error"
    )  # the traceback comes last


def _not_run(notebook: NotebookNode) -> str:
    """In words, how many code cells never ran; empty if all did."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    missing = sum(cell.execution_count is None for cell in code)
    return f"{missing} of {len(code)} code cells have not run" if missing else ""


def _is_synthetic(folder: Path) -> bool:
    """Whether a run was made from synthetic faces. One that failed has no result: its experiment's others say it."""
    if result := read_object(folder / "result.json"):
        return bool(result.get("synthetic"))
    if not (folder / "config.json").is_file():
        return False
    return any(
        read_object(path).get("synthetic") for path in folder.parents[1].glob("*/*/result.json")
    )


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
    content = read_notebook(notebook)
    content.cells = [
        cell for cell in content.cells if PAPERMILL_TAG not in cell.metadata.get("tags", [])
    ]
    if failure := _find_failure(content):
        _mark_failure(failure)
    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    exporter.register_preprocessor(PageOutputs, enabled=True)
    cells, _ = exporter.from_notebook_node(content, {"metadata": {"path": str(notebook.parent)}})

    config = read_object(notebook.parent / "config.json")
    texts = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", texts, re.MULTILINE)
    named = heading[1].replace("`", "") if heading else notebook.stem
    return write_html(
        page,
        "notebook.html.j2",
        figures='class="figure' in cells,
        title=title or " – ".join(filter(None, (named, config.get("variant")))),
        has_heading=heading is not None,
        synthetic=SYNTHETIC if _is_synthetic(notebook.parent) else "",
        failure=failure,
        not_run=_not_run(content),
        config=config,
        cells=cells,
    )
