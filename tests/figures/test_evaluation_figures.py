import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_runs import RUNS
from figure_look import check_look
from PIL import Image
from plotly.offline import get_plotlyjs

from fervit_lib.figures import evaluation as plots

CLASSES = ["angry", "<b>happy</b>", "sad"]
F1 = pd.DataFrame(np.eye(3)[:2], ["a", "<b>b"], CLASSES)
MATRIX = np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]])
PAIRS = pd.DataFrame(
    {
        "a": ["x", "x", "y"],
        "b": ["y", "z", "z"],
        "difference": [0.2, 0.0, -0.2],
        "p_holm": [0.01, 1, 0.2],
    }
)
BINS = pd.DataFrame({"confidence": [0.3, 0.9], "accuracy": [0.4, 0.8], "faces": [10, 30]})
CONFIDENCES = pd.DataFrame({"confidence": [0.3, 0.9, 1.0], "correct": [False, True, True]})
CURVES = pd.DataFrame(
    [
        ["a", "fraction", 0.1, 7, 2, 70, 0.3, 0.2, 0.4],
        ["a", "fraction", 1, 70, 2, 1400, 0.8, 0.7, 0.9],
        ["b", "shots", 5, 35, 1, 35, 0.3, 0.2, 0.4],
    ],
    columns=["recipe", "kind", "share", "faces", "runs", "seen_faces", "mean", "low", "high"],
)
CORRUPTED = pd.DataFrame(
    [
        ("a", "none", 0, 0.8),
        *(("a", kind, level, 0.8 - level / 10) for kind in ("blur", "dark") for level in (1, 2, 3)),
    ],
    columns=["run", "corruption", "level", "accuracy"],
)


@functools.cache
def every_figure() -> dict:
    return {
        "confusion": plots.plot_confusion({"a": MATRIX, "<b>b</b>": MATRIX}, CLASSES),
        "class_scores": plots.plot_class_scores({"F1": F1, "recall": F1 / 2}, [3, 4, 5]),
        "intervals": plots.plot_accuracy_intervals(RUNS, 0.4),
        "pairs": plots.plot_pairs(PAIRS, 800),
        "confidence": plots.plot_confidence({"a": CONFIDENCES, "b": CONFIDENCES[:1]}),
        "reliability": plots.plot_reliability({"a": (BINS, BINS), "b": (BINS, BINS)}),
        "parameters": plots.plot_costs(RUNS, ["trainable_parameters"]),
        "costs": plots.plot_costs(RUNS),
        "curves": plots.plot_learning_curves(CURVES),
        "corruptions": plots.plot_corruptions(CORRUPTED, 200),
    }


@pytest.mark.parametrize("name", every_figure())
def test_every_figure_has_a_title_the_theme_the_width_of_its_page_and_no_markup(name: str) -> None:
    check_look(every_figure()[name])


def test_confusion_shows_counts_or_shares_of_the_true_class() -> None:
    figure = plots.plot_confusion({"a": MATRIX}, CLASSES)
    [cells] = figure.data
    assert list(cells.text[2]) == ["2", "2", "4"] and cells.texttemplate == "%{text}"
    np.testing.assert_allclose(cells.z, [[0.75, 0.25, 0], [np.nan] * 3, [0.25, 0.25, 0.5]])
    [buttons] = figure.layout.updatemenus
    assert buttons.buttons[1].args[0]["texttemplate"] == "%{z:.0%}"
    assert "n = 12 faces, accuracy 58.3%" in figure.layout.title.subtitle.text


@pytest.mark.parametrize(
    ("name", "per_run", "shared"),
    [("confusion", 1, 0), ("confidence", 2, 0), ("reliability", 2, 1)],
)
def test_a_menu_shows_one_run_at_a_time(name: str, per_run: int, shared: int) -> None:
    figure = every_figure()[name]
    menu = figure.layout.updatemenus[0]
    assert len(figure.data) == 2 * per_run + shared
    at_start = [trace.visible in (None, True) for trace in figure.data]
    assert (
        at_start
        == list(menu.buttons[0].args[0]["visible"])
        == [True] * per_run + [False] * per_run + [True] * shared
    )
    assert (
        list(menu.buttons[1].args[0]["visible"])
        == [False] * per_run + [True] * per_run + [True] * shared
    )


def test_runs_are_sorted_and_intervals_reach_from_low_to_high() -> None:
    [dots] = plots.plot_accuracy_intervals(RUNS, 0.4).data
    assert list(dots.y) == ["b", "a", "c"]  # plotly draws the last on top
    np.testing.assert_allclose(dots.x - dots.error_x.arrayminus, [0.45, 0.65, 0.85])
    np.testing.assert_allclose(dots.x + dots.error_x.array, [0.55, 0.72, 0.95])


def test_only_significant_differences_are_written() -> None:
    [cells] = plots.plot_pairs(PAIRS, 800).data
    assert [list(row) for row in cells.text] == [["", "+20.0", ""], ["-20.0", "", ""], ["", "", ""]]


def test_a_cost_that_was_not_measured_has_no_panel() -> None:
    titles = [axis.title.text for axis in plots.plot_costs(RUNS).select_xaxes() if axis.title.text]
    assert titles == ["trained parameters", "parameters", "MACs per face"]


def test_a_run_that_was_timed_on_a_busy_machine_is_hollow() -> None:
    dots = plots.plot_costs(RUNS).data[:3]
    assert ["-open" in dot.marker.symbol[0] for dot in dots] == [False, True, False]


def test_buttons_choose_the_score_of_the_heat_map() -> None:
    figure = every_figure()["class_scores"]
    recall = figure.layout.updatemenus[0].buttons[1]
    assert recall.label == "recall"
    np.testing.assert_array_equal(recall.args[0]["z"], [F1 / 2])


def test_points_of_a_learning_curve_show_their_budget() -> None:
    ticks = every_figure()["curves"].layout.xaxis.ticktext
    assert ["70" in ticks[0], "1,400" in ticks[1]] == [True, True]


def test_a_table_leaves_out_columns_without_values() -> None:
    rows = pd.DataFrame(
        {"run": ["a_b"], "plain": [0.5], "flip": [0.6], "ten_crop": [np.nan], "corrupted": [0.4]}
    )
    html = plots.table_of(rows, "augmentation").to_html()
    assert "50.0%" in html
    assert "with mirror image" in html
    assert "ten crops" not in html


def test_a_written_figure_needs_no_network(tmp_path: Path) -> None:
    path = plots.write_figure(plots.plot_costs(RUNS), tmp_path / "a.html")
    assert path == tmp_path / "a.html"
    page = path.read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page
    assert 'src="plotly.min.js"' in page and len(page) < 100_000


def test_the_shared_script_is_that_of_this_plotly(tmp_path: Path) -> None:
    script = tmp_path / "plotly.min.js"
    script.write_text("of an earlier version")
    plots.write_figure(plots.plot_costs(RUNS), tmp_path / "a.html")
    assert script.read_text(encoding="utf-8") == get_plotlyjs()


@pytest.mark.parametrize("further", [0, 300])
def test_pictures_of_a_run_are_written(further: int, tmp_path: Path) -> None:
    classes = [r"$\x$", *CLASSES[1:], *map(str, range(further))]  # no formula
    scores = pd.DataFrame(0.5, index=classes, columns=["precision", "recall", "f1", "support"])
    confidences = pd.DataFrame({"confidence": [0.4, 0.9, 1.0], "correct": [False, True, True]})
    size = len(classes)
    for faces in (confidences, confidences[confidences["correct"]]):  # no face is wrong
        counts = np.eye(size, dtype=int)
        paths = plots.write_evaluation_pngs(tmp_path, "<b>a</b>_b", counts, scores, faces)
        names = ["confusion_matrix.png", "class_metrics.png", "prediction_confidence.png"]
        assert [path.name for path in paths] == names
        for path in paths:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            assert min(pixels.shape[:2]) > 500 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 9


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("matrices", lambda: plots.plot_confusion({"a": np.eye(2)}, CLASSES)),
        ("runs", lambda: plots.plot_confusion({}, CLASSES)),
        ("rows", lambda: plots.table_of(RUNS, "augmentation")),
        ("name", lambda: plots.table_of(RUNS, "rnus")),
    ],
)
def test_a_wrong_argument_is_named(argument: str, call) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected .*, got "):
        call()


def test_of_many_classes_a_matrix_shows_the_most_frequent_and_all_others_together() -> None:
    classes = [f"c{number}" for number in range(200)]
    matrix = np.diag(np.arange(200)) + np.eye(200, k=1, dtype=int)
    shown = plots.plot_confusion({"a": matrix}, classes)
    heat = shown.data[0]
    assert list(heat.y) == [*classes[180:], "180 others"]
    counts = np.array([[int(cell.replace(",", "")) for cell in row] for row in heat.text])
    assert counts.sum() == matrix.sum() and counts[0, 0] == 180 and counts[-1, 0] == 1
    assert "c180" in heat.x and f"n = {matrix.sum():,} faces" in str(shown.layout.title)


def test_of_many_classes_the_lowest_scores_are_shown_with_their_faces() -> None:
    classes = [f"c{number}" for number in range(200)]
    f1 = pd.DataFrame([np.linspace(1, 0, 200)], ["a"], classes)
    shown = plots.plot_class_scores({"F1": f1, "recall": f1}, list(range(200)))
    assert list(shown.data[0].x) == [f"c{number}<br>n = {number}" for number in range(180, 200)]
    assert "20 of 200 classes" in shown.layout.title.subtitle.text
    assert np.shape(shown.layout.updatemenus[0].buttons[1].args[0]["z"][0]) == (1, 20)
