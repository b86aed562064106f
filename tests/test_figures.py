import numpy as np
import pandas as pd
import plotly.io
import pytest
from PIL import Image

from fervit_lib import figures

CLASSES = ["angry", "<b>happy</b>", "sad"]
RUNS = pd.DataFrame(
    {
        "variant": ["a", "b", "c"],
        "approach": ["scratch", "scratch", "hybrid"],
        "strategy": ["full", "linear_probe", "full"],
        "accuracy": [0.7, 0.5, 0.9],
        "accuracy_low": [0.65, 0.45, 0.85],
        "accuracy_high": [0.72, 0.55, 0.95],
        "trainable_parameters": [10_000, 100, 1_000_000],
    }
)
METRICS = pd.DataFrame(
    {"epoch": [0, 1], "train_loss": [2.0, 1.0], "valid_loss": [2.0, 1.5], "accuracy": [0.3, 0.5], "time": ["0:01"] * 2}
)
CLASS_METRICS = pd.DataFrame(
    {"precision": [0.5] * 3, "recall": [0.6] * 3, "f1": [0.55] * 3, "support": [3, 4, 5]}, index=CLASSES
)


def every_figure() -> dict:
    counts = pd.DataFrame({"train": [1, 2, 3], "total": [1, 2, 3]}, index=CLASSES)
    return {
        "counts": figures.plot_class_counts(counts),
        "curves": figures.plot_training_curves(METRICS),
        "confusion": figures.plot_confusion(np.eye(3, dtype=int), CLASSES),
        "shares": figures.plot_confusion(np.eye(3, dtype=int), CLASSES, normalise=True),
        "class_metrics": figures.plot_class_metrics(CLASS_METRICS),
        "intervals": figures.plot_accuracy_intervals(RUNS, 0.4),
        "parameters": figures.plot_accuracy_by_parameters(RUNS),
        "codes": figures.plot_code_statistics(np.ones(18), np.ones(18)),
        "codes of a smaller StyleGAN": figures.plot_code_statistics(np.ones(14), np.ones(14)),
        "distances": figures.plot_code_distances(np.geomspace(1, 50, 100), 10.0, 0.5, 50.0),
        "embedding": figures.plot_embedding(np.zeros((4, 2)), np.array([0, 1, 2, 2]), CLASSES),
    }


@pytest.mark.parametrize("name", every_figure())
def test_every_figure_has_a_title_the_theme_and_the_width_of_its_page(name: str) -> None:
    figure = every_figure()[name]
    assert 0 < len(figure.layout.title.text) <= 40  # plotly cuts a longer one off on a phone
    assert figure.layout.template.layout.colorway == figures.PALETTE
    assert figure.layout.width is None
    assert figure.layout.height >= 200


def test_class_names_are_no_markup() -> None:
    for figure in every_figure().values():
        assert "<b>" not in figure.to_json().replace("\\u003c", "<")


def test_counts_leave_the_total_out() -> None:
    assert [bar.name for bar in every_figure()["counts"].data] == ["train"]


def test_confusion_writes_each_value_and_divides_by_the_true_class() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])
    counts = figures.plot_confusion(matrix, CLASSES).data[0]
    assert [list(row) for row in counts.text] == [["3", "1", "0"], ["0", "0", "0"], ["2", "2", "4"]]
    shares = figures.plot_confusion(matrix, CLASSES, normalise=True).data[0]
    assert [list(row) for row in shares.text] == [["75%", "25%", "0%"], ["–", "–", "–"], ["25%", "25%", "50%"]]


def test_intervals_are_sorted_and_reach_from_low_to_high() -> None:
    [dots] = figures.plot_accuracy_intervals(RUNS, 0.4).data
    assert list(dots.y) == ["b", "a", "c"]  # plotly draws the last on top
    np.testing.assert_allclose(dots.x - dots.error_x.arrayminus, [0.45, 0.65, 0.85])
    np.testing.assert_allclose(dots.x + dots.error_x.array, [0.55, 0.72, 0.95])


def test_curves_show_losses_and_scores_but_not_the_time() -> None:
    assert [line.name for line in every_figure()["curves"].data] == ["train loss", "valid loss", "accuracy"]


def test_contact_sheet_has_a_row_a_class_and_wraps() -> None:
    red, grey = Image.new("RGB", (48, 24), "red"), Image.new("L", (10, 10), 128)
    short = figures.contact_sheet({"happy": [red] * 3, "sad": [grey]}, size=32, columns=10)
    tall = figures.contact_sheet({"happy": [red] * 3, "sad": [grey]}, size=32, columns=2)
    assert short.mode == "RGB"
    assert tall.height - short.height == 36
    assert (np.asarray(short) == (255, 0, 0)).all(-1).sum() == pytest.approx(3 * 32 * 16, rel=0.02)
    empty = figures.contact_sheet({"disgust": []})
    assert (np.asarray(empty) < 100).any()  # its name and "none" are written


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("matrix", lambda: figures.plot_confusion(np.eye(2), CLASSES)),
        ("metrics", lambda: figures.plot_training_curves(METRICS.drop(columns="valid_loss"))),
        ("metrics", lambda: figures.plot_training_curves(METRICS[:0])),
        ("metrics", lambda: figures.plot_class_metrics(CLASS_METRICS.drop(columns="support"))),
        ("runs", lambda: figures.plot_accuracy_intervals(RUNS.drop(columns="accuracy_low"), 0.3)),
        ("majority", lambda: figures.plot_accuracy_intervals(RUNS, 30)),
        ("mean_norm", lambda: figures.plot_code_statistics(np.ones(14), np.ones(18))),
        ("spread", lambda: figures.plot_code_statistics(np.ones(18), np.ones((18, 512)))),
        ("points", lambda: figures.plot_embedding(np.ones((4, 3)), np.zeros(4), CLASSES)),
        ("labels", lambda: figures.plot_embedding(np.ones((4, 2)), np.zeros(3), CLASSES)),
        ("labels", lambda: figures.plot_embedding(np.ones((1, 2)), np.array([3]), CLASSES)),
        ("counts", lambda: figures.plot_class_counts(pd.DataFrame())),
        ("images_by_class", lambda: figures.contact_sheet({})),
    ],
)
def test_a_wrong_input_is_named(argument: str, call) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected .*, got "):
        call()


def test_use_theme_sets_the_default_and_nothing_before_does() -> None:
    before = plotly.io.templates.default, plotly.io.renderers.default
    try:
        figures.use_theme()
        assert plotly.io.renderers.default == "plotly_mimetype"
        assert plotly.io.templates[plotly.io.templates.default].layout.colorway == figures.PALETTE
    finally:
        plotly.io.templates.default, plotly.io.renderers.default = before


def test_a_table_of_runs_names_its_columns() -> None:
    more = {
        "balanced_accuracy": 0.5,
        "macro_f1": 0.5,
        "weighted_f1": 0.5,
        "train_seconds": 1234.5,
        "peak_memory_gb": 1.0,
    }
    html = figures.table_of_runs(RUNS.assign(**more)).to_html()
    for text in ("70.0%", "1,000,000", "1,234", "macro-F1"):
        assert text in html
    with pytest.raises(ValueError, match="runs: expected columns .*, got none named macro_f1"):
        figures.table_of_runs(RUNS.assign(**more).drop(columns="macro_f1"))
