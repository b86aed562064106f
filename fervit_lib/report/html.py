"""What all pages need: figures as divs, formats of numbers and dates, a template filled and written."""

import base64
import gzip
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import plotly.io
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from fervit_lib.figures.theme import CONFIG
from fervit_lib.system.atomic import atomic_write, read_json

SYNTHETIC = (
    "Made from synthetic toy faces and people drawn by code: the figures show that the pipeline works, "
    "not how well it reads real ones."
)


def figure_div(figure: Any) -> str:
    """A figure, or its JSON as a notebook stores it, as a div for a page that has plotly.js."""
    options = {
        "include_plotlyjs": False,
        "full_html": False,
        "validate": False,
        "default_height": "450px",
    }
    kind = (
        "figure wide"
        if _is_wide(figure if isinstance(figure, Mapping) else figure.to_plotly_json())
        else "figure"
    )
    return f'<div class="{kind}">{plotly.io.to_html(figure, config=CONFIG, **options)}</div>'


def _is_wide(figure: Mapping[str, Any]) -> bool:
    """Whether a figure needs more than the width of a phone: panels side by side, a menu, a long legend or subtitle."""
    layout, data = figure.get("layout", {}), figure.get("data", [])
    starts = {
        axis["domain"][0]
        for name, axis in layout.items()
        if name.startswith("xaxis") and "domain" in axis
    }
    names = {trace["name"] for trace in data if trace.get("name") and trace.get("showlegend", True)}
    subtitle = layout.get("title", {}).get("subtitle", {}).get("text") or ""
    return (
        len(starts) > 1 or bool(layout.get("updatemenus")) or len(names) > 4 or len(subtitle) > 60
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; an empty one if there is none, or half of one."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def revision(config: Mapping[str, Any]) -> str:
    if not config.get("git_revision"):
        return "no git revision"
    return f"{config['git_revision'][:10]}{' with uncommitted changes' if config.get('git_dirty') else ''}"


def _date(iso: Any) -> str:
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError):
        return "–"


def shown(value: Any, form: str) -> str:
    """A number in a format; a dash for one that is missing."""
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else "–"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _duration(seconds: Any) -> str:
    if shown(seconds, "{}") == "–":
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min"
        if hours
        else f"{minutes} min {rest:02} s"
        if minutes
        else f"{rest} s"
    )


def _packed_plotly() -> str:
    """plotly.js as `unpack.js` takes it: base64 of gzip."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def write_html(page: Path, template: str, *, figures: bool, **content: Any) -> Path:
    """Fill a template of ours, with plotly.js if there are figures, and write it whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fervit_lib"), autoescape=True, trim_blocks=True
    )
    environment.filters |= {
        "revision": revision,
        "date": _date,
        "shown": shown,
        "duration": _duration,
        "literal": _literal,
    }
    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    html = environment.get_template(template).render(
        code_css=f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}",
        plotly_js=_packed_plotly() if figures else "",
        **content,
    )
    with atomic_write(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page
