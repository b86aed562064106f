"""Properties of every figure of the project."""

import plotly.graph_objects as go

from fervit_lib.figures import theme


def check_look(figure: go.Figure) -> None:
    assert 0 < len(figure.layout.title.text) <= 40  # plotly cuts a longer title on a phone
    assert figure.layout.template.layout.colorway == theme.PALETTE
    assert figure.layout.width is None
    assert figure.layout.height >= 200
    assert "<b>" not in figure.to_json().replace("\\u003c", "<")  # names are not markup
