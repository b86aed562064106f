import numpy as np
import pandas as pd
import pytest
from figure_look import check_look

from fervit_lib.figures import distill

SCORES = ("miou", "fg_iou", "fg_iou_per_image", "boundary_iou", "teacher_agreement")
ENDS = {"": 0, "_low": -0.1, "_high": 0.1}
PAIRS = pd.DataFrame({"what": ["a_b less <b>c</b>"], "difference": 0.1, "low": -0.1, "high": 0.2})
CURVES = pd.DataFrame(
    {"arm": ["none", "none", "<b>x</b>", "<b>x</b>"], "seed": [0, 1, 0, 1], "epoch": 0}
).assign(
    fg_iou=[0.2, 0.4, 0.5, 0.5],
    boundary_iou=0.5,
    teacher_agreement=0.5,
    kd_term=[np.nan, np.nan, 1, 2],
    unused_term=np.nan,
)


@pytest.mark.parametrize(
    "figure",
    [
        distill.plot_differences(PAIRS, seeds=2, images=9),
        distill.plot_arm_curves(CURVES),
        distill.plot_term_curves(CURVES),
    ],
)
def test_every_figure_has_a_title_the_theme_the_width_of_its_page_and_no_markup(figure) -> None:
    check_look(figure)


def test_curves_are_means_over_seeds_and_terms_that_were_never_used_have_no_panel() -> None:
    means = [line.y[0] for line in distill.plot_arm_curves(CURVES).data[::3]]
    np.testing.assert_allclose(means, [0.3, 0.5])
    panels = [title.text for title in distill.plot_term_curves(CURVES).layout.annotations]
    assert panels == ["kd"]


def test_scores_stand_with_their_intervals() -> None:
    ends = {f"{name}{end}": 0.5 + value for name in SCORES for end, value in ENDS.items()}
    html = distill.table_of_scores(pd.DataFrame([{"arm": "a_b", "seeds": 2, **ends}])).to_html()
    assert "a b" in html and html.count("50.0 (40.0–60.0)") == len(SCORES)


def test_a_table_without_a_column_is_named() -> None:
    with pytest.raises(ValueError, match="rows: expected .*, got "):
        distill.table_of_sizes(CURVES.assign(model="a"))
