"""Figures of the attention explorer, with their menus and sliders."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from figure_look import check_look
from PIL import Image

from fervit_lib.figures import explain as figures_explain

RNG = np.random.default_rng(0)
NAMES = ["all faces", "<b>happy</b>", "face 1"]
MAPS = RNG.random((3, 2, 4, 19, 19))
STYLES = {1024: 18, 512: 16, 256: 14}  # layers of the codes of a StyleGAN2, by its output size
CLASSES = ["angry", "<b>happy</b>", "sad"]


@functools.cache
def every_figure(num_layers: int = 18) -> dict:
    matrix = (np.eye(2), ["block 1", "block 2"], ["block 1", "block 2"])
    probes = pd.DataFrame(
        {
            "run": ["a", "a", "<b>b</b>"],
            "layer": ["block 1", "block 2", "block 1"],
            "accuracy": 0.5,
        }
    ).assign(lowest=0.4, highest=0.6)
    swaps = pd.DataFrame(
        {"mixture": ["coarse", "all"], "kept": [0.9, 0], "taken": [0.1, 1], "num_pairs": 30}
    )
    scores = pd.DataFrame({"a": np.arange(num_layers) / 18, "b": np.ones(num_layers)})
    steps = num_layers + 1
    curves = {"attention": np.linspace(1, 0, steps), "random": RNG.random((3, steps))}
    maps = MAPS[..., :steps, :steps]
    heads = {"entropy": RNG.random((2, 4)), "importance": RNG.random((2, 4))}
    ends = {"a": (scores["a"] - 1, scores["a"] + 1)}
    pairs = dict.fromkeys(["a × b", "a × c"], matrix)
    points = {"block 1": RNG.random((9, 2)), "block 2": RNG.random((9, 2))}
    responses = pd.DataFrame(RNG.random((3, 3)), columns=[0.0, 1.0, "rising"])
    return {
        "responses": figures_explain.plot_responses(responses, [responses] * 2, CLASSES, "<b>a"),
        "attention": figures_explain.plot_attention(maps, NAMES, maps[..., 0, :] / 10, "run"),
        "layers": figures_explain.plot_layer_scores(scores, "Methods", "<b>a", "share (%)", ends),
        "removal": figures_explain.plot_removal_curves(
            {"deletion": curves, "insertion": curves}, "Removal", "accuracy", "layers", 9
        ),
        "heads": figures_explain.plot_heads(heads, "<b>a"),
        "similarity": figures_explain.plot_head_similarity({"output": RNG.random((2, 4, 4))}, 9),
        "cka": figures_explain.plot_cka(pairs, 9),
        "probes": figures_explain.plot_probes(probes, "n = 3"),
        "swaps": figures_explain.plot_swaps(swaps, "Swaps", "layers"),
        "positions": figures_explain.plot_positions(
            {"learned": np.eye(num_layers), "of another store": np.eye(14)}
        ),
        "values": figures_explain.plot_position_values(
            {"<b>learned": RNG.normal(size=(num_layers, 32)), "other": np.ones((14, 8))}
        ),
        "depths": figures_explain.plot_features_by_block(points, np.arange(9) % 3, CLASSES, "CLS"),
    }


@pytest.mark.parametrize("name", every_figure())
@pytest.mark.parametrize("num_layers", STYLES.values())
def test_every_figure_has_a_title_the_theme_the_width_of_its_page_and_no_markup(
    num_layers: int, name: str
) -> None:
    check_look(every_figure(num_layers)[name])


@pytest.mark.parametrize("num_layers", STYLES.values())
def test_bands_end_with_the_layers(num_layers: int) -> None:
    figures = every_figure(num_layers)
    assert [shape.x1 for shape in figures["layers"].layout.shapes] == [2.5, 6.5, num_layers - 0.5]
    attention = figures["attention"]
    tokens = ["CLS", *map(str, range(num_layers))]
    assert list(attention.layout.xaxis.ticktext) == tokens * 3
    assert len(attention.data[0].marker.color) == len(attention.data[0].y) == len(tokens) * 3
    # The end of the bands of the first and of the second group; CLS comes before each.
    ends = [shape.x1 for shape in attention.layout.shapes]
    assert ends[:6] == [3.5, 7.5, num_layers + 0.5, *(num_layers + 1 + x for x in ends[:3])]
    [first, second] = figures["positions"].data
    assert (len(first.x), len(second.x)) == (num_layers, 14)


def test_the_block_slider_gives_the_maps_of_that_block_for_every_head() -> None:
    figure = every_figure()["attention"]
    [blocks, heads] = figure.layout.sliders
    update = blocks.steps[1].args[0]
    shown = np.concatenate([MAPS.mean(2, keepdims=True), MAPS], axis=2)[:, 1]
    for h in range(5):
        np.testing.assert_allclose(update["z"][5 + h], 100 * shown[:, h].reshape(-1, 19), atol=0.1)
        np.testing.assert_allclose(update["y"][h], shown[:, h, 0].ravel(), atol=1e-4)
    np.testing.assert_allclose(figure.data[6].z, 100 * MAPS[:, 0, 0].reshape(-1, 19), atol=0.1)
    assert [step.label for step in heads.steps] == ["mean", "1", "2", "3", "4"]
    assert heads.steps[2].args[0]["visible"] == [False, False, True, False, False] * 2
    windows = [button.args[1] for button in figure.layout.updatemenus[0].buttons]
    assert windows[1]["xaxis.range"] == [18.5, 37.5] and windows[1]["yaxis2.range"] == [37.5, 18.5]


def test_the_head_mean_has_no_interval_and_a_head_has_its_own() -> None:
    bars = every_figure()["attention"].data
    assert not np.any(bars[0].error_y.array)
    np.testing.assert_allclose(bars[2].error_y.array, MAPS[:, 0, 1, 0].ravel() / 10, atol=1e-4)


def test_a_figure_of_blocks_moves_every_class() -> None:
    figure = every_figure()["depths"]
    [slider] = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["block 1", "block 2"]
    assert [len(x) for x in slider.steps[1].args[0]["x"]] == [len(dots.x) for dots in figure.data]


def test_position_embeddings_are_drawn_on_their_own_scale() -> None:
    learned, other = every_figure(16)["values"].data
    assert np.shape(learned.z) == (16, 32) and np.shape(other.z) == (14, 8)
    assert np.abs(learned.z).max() == np.abs(other.z).max() == 1
    assert list(learned.y) == list(range(16)) and list(other.x) == list(range(8))


def test_probes_of_models_of_other_depths_end_at_the_same_place() -> None:
    short, long = (trace.x for trace in every_figure()["probes"].data[::-1])
    assert list(short) == [1] and list(long) == [0.5, 1]


def test_a_menu_of_pairs_shows_one_at_a_time() -> None:
    figure = every_figure()["cka"]
    assert [trace.visible for trace in figure.data] == [True, False]
    second = figure.layout.updatemenus[0].buttons[1]
    assert second.label == "a × c" and second.args[0]["visible"] == [False, True]
    assert second.args[1]["title.subtitle.text"].startswith("a × c (rows × columns); n = 9 faces")


@pytest.mark.parametrize("num_layers", STYLES.values())
def test_a_picture_of_the_attention_of_a_face_is_written(num_layers: int, tmp_path: Path) -> None:
    maps = MAPS[0, 0, :2, : num_layers + 1, : num_layers + 1]
    path = figures_explain.write_attention_png(*maps, "a", tmp_path / "attention_sample_1.png")
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels.shape) > 1000 and pixels.std() > 10
    assert list(tmp_path.iterdir()) == [path]


def test_an_overlay_is_darkest_where_the_map_is_highest() -> None:
    scores = np.zeros((4, 4))
    scores[0, 3] = 1
    white = Image.new("RGB", (64, 64), "white")
    brightness = np.asarray(figures_explain.overlay_map(white, scores)).sum(-1)
    assert brightness.shape == (64, 64)
    assert brightness[:8, -8:].mean() < brightness[32:, :32].mean() == 3 * 255
    flat = figures_explain.overlay_map(Image.new("L", (8, 8), 100), np.ones((2, 2)))
    assert np.asarray(flat).max() == 100


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("names", lambda: figures_explain.plot_attention(MAPS, ["all"], 0, "run")),
    ],
)
def test_a_wrong_argument_is_named(argument: str, call) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected .*, got "):
        call()


def test_responses_are_solid_and_random_ones_dashed_in_one_colour() -> None:
    response = pd.DataFrame({0.0: [0.1, 0.2], 2.0: [0.9, 0.4], "rising": [1.0, 0.5]})
    figure = figures_explain.plot_responses(response, [response / 2], ["happy", "sad"], "n = 2")
    pairs = [figure.data[:2], figure.data[2:]]
    for i, (direction, random) in enumerate(pairs):
        assert list(direction.x) == [0, 2]
        assert list(direction.y) == list(response.iloc[i, :2])
        assert list(random.y) == list(response.iloc[i, :2] / 2)
        assert direction.line.color == random.line.color
        assert (direction.line.dash, random.line.dash) == ("solid", "dot")
    assert pairs[0][0].line.color != pairs[1][0].line.color
