"""Tables for notebooks: which columns, with which headings, in which format."""

from collections.abc import Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from fervit_lib.figures.theme import require_columns


def style_table(rows: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> Styler:
    """The chosen columns of `rows`, text to the left, a dash for a missing number.

    Args:
        columns: per column its heading and format; several columns may have the same heading. A
            column without any value is left out.
    """
    require_columns("rows", rows, tuple(columns))
    filled = [name for name in columns if rows[name].notna().any()]
    shown = rows[filled].reset_index(drop=True)
    text = [name for name in filled if pd.api.types.is_string_dtype(shown[name])]
    formats = {name: columns[name][1] for name in filled}
    # escape: names of runs, files and classes are arbitrary text, which pandas would show as HTML.
    styler = shown.style.hide().format(formats, na_rep="–", escape="html")
    styler = styler.set_properties(text, **{"text-align": "left", "white-space": "nowrap"})
    heads = [f"th.col{filled.index(name)}" for name in text]
    style = {"selector": ", ".join(heads) or "none", "props": "text-align: left"}
    return styler.set_table_styles([style]).relabel_index(
        [columns[name][0] for name in filled], axis="columns"
    )
