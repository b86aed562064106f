"""An executed notebook as one HTML page."""

import re
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fervit_lib.report.html import SYNTHETIC, figure_div, read_object, write_html
from fervit_lib.system.errors import explain_read_error, lower

# nbformat and nbconvert are imported where they are used: training kernels import this package,
# and need neither.
if TYPE_CHECKING:
    from nbformat import NotebookNode

_FAILED_TAG = "failed-here"  # the style sheet shows the code of a cell with this tag
_PAPERMILL_TAG = "papermill-error-cell-tag"  # papermill's own notes on a failure; ours replace them
# fastai puts this before the message of an exception.
_FASTAI_PREFIX = re.compile(r"Exception occured in `\w+` when calling event `\w+`:\s*")
_PLOTLY = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_VISIBLE = {"text/html", "image/png", "image/svg+xml"}
_LARGE_PNG = 100_000  # characters of base64
_PROGRESS = re.compile(r"\s*([^\n]*:\s*)?\d+%\|[^\n]*\s*")  # a tqdm bar and nothing else
_LIBRARY_WARNING = re.compile(
    r"^\S*site-packages\S*:\d+: \w*Warning: .*\n(?:  .*\n?)?", re.MULTILINE
)
_MARKUP = re.compile(r"<style.*?</style>|<progress.*?</progress>|<[^>]*>|&nbsp;", re.DOTALL)
_MEDIA = re.compile(r"<(img|svg|canvas|iframe|table|script)\b")


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped."""

    cell: "NotebookNode"
    number: int  # as Jupyter counts: the first executed code cell is 1
    notebook: str  # path of the source, if papermill stored it
    message: str


def read_notebook(path: Path) -> "NotebookNode":
    """Read a notebook, executed or not.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a notebook.
    """
    import nbformat

    with (
        explain_read_error(
            path, "expected a Jupyter notebook, but it does not parse", "execute it again"
        ),
        warnings.catch_warnings(action="ignore"),  # older notebooks have cells without an ID
    ):
        content = nbformat.read(path, as_version=4)
        nbformat.validate(content)
    return content


def find_failure(notebook: "NotebookNode") -> Failure | None:
    """Where an executed notebook stopped; None if it ran to its end."""
    from nbconvert.filters import strip_ansi

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    source = notebook.metadata.get("papermill", {}).get("input_path", "this notebook")
    for position, cell in enumerate(code, 1):
        number = cell.execution_count or position
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors and "raises-exception" not in cell.metadata.get("tags", []):
            reason = _FASTAI_PREFIX.sub("", errors[0].evalue)
            return Failure(cell, number, source, strip_ansi(f"{errors[0].ename}: {reason}"))
        if not errors and cell.metadata.get("papermill", {}).get("exception"):
            reason = f"the kernel died without a message (no memory?). {lower(code[0].source)}"
            return Failure(cell, number, source, reason)
    return None


def _mark_failure(failure: Failure) -> None:
    """Show the failed cell's code, and the error above its traceback."""
    from nbformat.v4 import new_output

    cell = failure.cell
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), _FAILED_TAG]
    text = f"Cell {failure.number} failed: {escape(failure.message)}"
    heading = f'<p class="failed-here" id="failed">{text}</p>'
    cell.outputs.append(new_output("display_data", {"text/html": heading}))
    cell.outputs.sort(key=lambda output: output.output_type == "error")


def _count_not_run(notebook: "NotebookNode") -> str:
    """How many code cells were not executed, in words; empty if all were."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    missing = sum(cell.execution_count is None for cell in code)
    return f"{missing} of {len(code)} code cells were not executed" if missing else ""


def _is_synthetic(folder: Path) -> bool:
    """Whether a run used synthetic data; for a failed run, whether any other run has."""
    if result := read_object(folder / "result.json"):
        return bool(result.get("synthetic"))
    if not (folder / "config.json").is_file():
        return False
    others = folder.parents[1].glob("*/*/result.json")
    return any(read_object(path).get("synthetic") for path in others)


def _prepare(output: "NotebookNode") -> bool:
    """Rewrite an output of a code cell in place; False if nothing is left to show.

    A figure becomes a div. Progress bars and warnings of libraries are removed. A control is
    replaced by a note.
    """
    if output.output_type == "error":
        return True
    if output.output_type == "stream":
        lines = output.text.splitlines(keepends=True)
        text = "".join(line for line in lines if not _PROGRESS.fullmatch(line))
        output.text = _LIBRARY_WARNING.sub("", text)
        return bool(output.text.strip())
    data = output.data
    data.pop("application/javascript", None)
    if _PLOTLY in data:
        stored = data[_PLOTLY]
        figure = {key: stored[key] for key in ("data", "layout", "frames") if stored.get(key)}
        data.clear()
        data["text/html"] = figure_div(figure)
        return True
    if _WIDGET in data:
        del data[_WIDGET]
        if not _VISIBLE & data.keys():
            if _PROGRESS.fullmatch(data.get("text/plain", "")):
                return False
            # its text is the repr of a Python object
            data["text/plain"] = "(Interactive control: open the notebook in JupyterLab to use it.)"
    if "image/jpeg" in data and len(data.get("image/png", "")) > _LARGE_PNG:
        del data["image/png"]  # Pillow stores an image as both; of a photo, PNG is the larger
    for kind in data.keys() & {"image/png", "image/jpeg"}:
        output.metadata.setdefault(kind, {}).setdefault("alt", "image made by this cell")
    html = data.get("text/html")
    if html is not None and not _MEDIA.search(html):
        return bool(_MARKUP.sub("", html).strip())  # fastai's progress bars are empty at the end
    return bool(data)


def write_page(notebook: Path, page: Path) -> Path:
    """Write an executed notebook, failed or not, as one HTML file that needs no network.

    Args:
        notebook: the executed .ipynb; `config.json` and `result.json` beside it are used if they
            exist.
        page: the file to write.

    Raises:
        FileNotFoundError: the notebook does not exist.
        ValueError: the file is not a notebook.
    """
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    content = read_notebook(notebook)
    content.cells = [
        cell for cell in content.cells if _PAPERMILL_TAG not in cell.metadata.get("tags", [])
    ]
    if failure := find_failure(content):
        _mark_failure(failure)
    content, _ = CoalesceStreamsPreprocessor().preprocess(content, {})
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _prepare(output)]
    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = True
    exporter.exclude_output_prompt = True
    cells, _ = exporter.from_notebook_node(content, {"metadata": {"path": str(notebook.parent)}})

    config = read_object(notebook.parent / "config.json")
    texts = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", texts, re.MULTILINE)
    title = heading[1].replace("`", "") if heading else notebook.stem
    if "variant" in config:
        title = f"{title} – {config['variant']}"
    return write_html(
        page,
        "notebook.html.j2",
        figures='class="figure' in cells,
        title=title,
        has_heading=heading is not None,
        synthetic=SYNTHETIC if _is_synthetic(notebook.parent) else "",
        failure=failure,
        not_run=_count_not_run(content),
        config=config,
        cells=cells,
    )
