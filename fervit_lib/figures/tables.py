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
        columns: per column its heading, and its format if it has numbers; several columns may have
            the same heading. A column without any value is left out.
    """
    expected = f"at least one row with columns {', '.join(columns)}"
    complete = len(rows) > 0 and set(columns) <= set(rows)
    require(complete, "rows", expected, f"{len(rows)} rows with {', '.join(map(str, rows))}")
    filled = {name: column for name, column in columns.items() if rows[name].notna().any()}
    headings = [column[0] if isinstance(column, tuple) else column for column in filled.values()]
    shown = rows[list(filled)].reset_index(drop=True)
    text = [name for name in filled if pd.api.types.is_string_dtype(shown[name])]
    formats = {name: column[1] for name, column in filled.items() if isinstance(column, tuple)}
    # escape: names of runs, files and classes are arbitrary text, which pandas would show as HTML.
    styler = shown.style.hide().format(formats, na_rep="–", escape="html")
    # Long names break, else the first column would fill a phone.
    wrapped = {"text-align": "left", "white-space": "normal", "overflow-wrap": "anywhere"}
    for name in text:
        longest = shown[name].str.len().max()
        styler = styler.set_properties(
            [name], **wrapped, **{"min-width": f"calc({min(longest, 22)}ch + 2rem)"}
        )
    heads = [f"th.col{number}" for number, name in enumerate(filled) if name in text]
    style = {"selector": ", ".join(heads) or "none", "props": "text-align: left"}
    return styler.set_table_styles([style]).relabel_index(headings, axis="columns")
