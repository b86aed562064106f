"""Outputs of notebook cells, as a page can show them without a kernel or a network."""

import re
from typing import TYPE_CHECKING

from fervit_lib.report.html import figure_div

if TYPE_CHECKING:
    from nbformat import NotebookNode

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


def prepare_output(output: "NotebookNode") -> bool:
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
