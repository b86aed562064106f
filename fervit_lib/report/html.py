"""Parts of all pages: figures as divs, formats of numbers and dates, writing a filled template."""

import base64
import gzip
import json
import math
from collections.abc import Mapping
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.io

from fervit_lib.figures.theme import CONFIG
from fervit_lib.system.atomic import read_json, write_text

SYNTHETIC = (
    "Results on synthetic toy faces and people, drawn by code: they show that the pipeline works, "
    "not how accurate it is on real images."
)


def figure_div(figure: Any) -> str:
    """A plotly figure, or its JSON from a notebook, as a div for a page that contains plotly.js."""
    content = figure if isinstance(figure, Mapping) else figure.to_plotly_json()
    html = plotly.io.to_html(
        figure,
        config=CONFIG,
        include_plotlyjs=False,
        full_html=False,
        validate=False,
        default_height="450px",
    )
    return f'<div class="figure{" wide" if _is_wide(content) else ""}">{html}</div>'


def _is_wide(figure: Mapping) -> bool:
    """Whether a figure is too wide for a phone: panels, a menu, many traces, a long subtitle."""
    layout = figure.get("layout", {})
    axes = [axis for name, axis in layout.items() if name.startswith("xaxis")]
    panels = {axis["domain"][0] for axis in axes if "domain" in axis}
    subtitle = layout.get("title", {}).get("subtitle", {}).get("text") or ""
    long = len(subtitle) > 50 or len(figure.get("data", [])) > 4
    return long or len(panels) > 1 or "updatemenus" in layout


def read_object(path: Path) -> dict:
    """The JSON object in `path`; an empty one if the file is missing or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _revision(config: Mapping) -> str:
    if not config.get("git_revision"):
        return "no git revision"
    changes = " with uncommitted changes" if config.get("git_dirty") else ""
    return config["git_revision"][:10] + changes


def _versions(config: Mapping) -> str:
    return ", ".join(f"{name} {number}" for name, number in config.get("versions", {}).items())


def _date(iso: Any) -> str:
    time = pd.to_datetime(str(iso), utc=True, errors="coerce")
    return "–" if pd.isna(time) else f"{time:%Y-%m-%d %H:%M UTC}"


def shown(value: Any, form: str) -> str:
    """A formatted number; a dash if it is missing."""
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else "–"


def _duration(seconds: Any) -> str:
    """h:mm:ss."""
    return "–" if shown(seconds, "{}") == "–" else str(timedelta(seconds=round(seconds)))


@cache
def packed_plotly() -> str:
    """plotly.js compressed as `unpack.js` expects it: base64 of gzip."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _code_css() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


@cache
def _environment() -> Any:
    import jinja2  # here and not above: training kernels import this package, and need no jinja

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fervit_lib"), autoescape=True, trim_blocks=True
    )
    environment.filters |= {
        "revision": _revision,
        "versions": _versions,
        "date": _date,
        "shown": shown,
        "duration": _duration,
        "literal": partial(json.dumps, ensure_ascii=False),
    }
    return environment


def fill_template(template: str, **content: Any) -> str:
    return _environment().get_template(template).render(content)


def write_html(page: Path, template: str, *, figures: bool, **content: Any) -> Path:
    """Fill a template and write it atomically, with plotly.js inside if there are figures."""
    plotly_js = packed_plotly() if figures else ""
    html = fill_template(template, code_css=_code_css(), plotly_js=plotly_js, **content)
    write_text(page, html)
    return page
