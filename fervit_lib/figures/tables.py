"""Tables for notebooks: which columns, with which headings, in which format."""

from collections.abc import Callable, Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from fervit_lib.figures.theme import require

# A heading; or a heading with the format of the values.
Column = str | tuple[str, str | Callable[[float], str]]


def format_p(p: float) -> str:
    """A p-value with three digits; a rounded 0.000 would claim certainty."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def style_table(rows: pd.DataFrame, columns: Mapping[str, Column]) -> Styler:
    """The chosen columns of `rows`, text to the left, a dash for a missing number.

    Args:
        columns: per column its heading, and the format of its numbers, by default three decimals or
            whole numbers; several columns may have the same heading. A column without any value is
            left out.
    """
    expected = f"at least one row with columns {', '.join(columns)}"
    complete = len(rows) > 0 and set(columns) <= set(rows)
    require(complete, "rows", expected, f"{len(rows)} rows with {', '.join(map(str, rows))}")
    filled = {name: column for name, column in columns.items() if rows[name].notna().any()}
    headings = [column[0] if isinstance(column, tuple) else column for column in filled.values()]
    formats = {name: column[1] for name, column in filled.items() if isinstance(column, tuple)}
    shown = rows[list(filled)].reset_index(drop=True)
    styles = {}
    for name, values in shown.items():
        if pd.api.types.is_string_dtype(values):
            # Long names break, else the first column would fill a phone.
            cell = (
                "text-align: left; white-space: normal; overflow-wrap: anywhere; "
                f"min-width: calc({min(values.str.len().max(), 22)}ch + 2rem)"
            )
            styles[name] = [
                {"selector": "th", "props": "text-align: left"},
                {"selector": "td", "props": cell},
            ]
    # escape: names of runs, files and classes are arbitrary text, which pandas would show as HTML.
    styler = shown.style.hide().format(
        formats, na_rep="–", precision=3, thousands=",", escape="html"
    )
    return styler.set_table_styles(styles).relabel_index(headings, axis="columns")
