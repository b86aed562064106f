import base64
import functools
import io

import numpy as np
import pandas as pd
import plotly.io
import pytest
from figure_look import check_look
from PIL import Image

from fervit_lib import figures
from fervit_lib.figures import theme

CLASSES = ["angry", "<b>happy</b>", "sad"]
METRICS = pd.DataFrame(
    {
        "epoch": [0, 1],
        "train_loss": [2.0, 1.0],
        "valid_loss": [2.0, 1.5],
        "accuracy": [0.3, 0.5],
        "time": ["0:01"] * 2,
    }
)
STEPS = pd.DataFrame({"step": [1, 2], "learning_rate": [0.1, 0.2], "gradient_norm": [3.0, 4.0]})


@functools.cache
def every_figure() -> dict:
    counts = pd.DataFrame({"train": [1, 2, 3], "total": [1, 2, 3]}, index=CLASSES)
    return {
        "counts": figures.plot_class_counts(counts),
        "curves": figures.plot_training_curves(METRICS),
        "codes": figures.plot_code_statistics(np.ones((2, 18, 4))),
        "codes of a smaller StyleGAN": figures.plot_code_statistics(np.ones((2, 14, 4))),
        "code": figures.plot_code(np.random.default_rng(0).normal(size=(3, 18, 8)), "A code"),
        "steps": figures.plot_steps(STEPS),
        "distances": figures.plot_code_distances(np.geomspace(1, 50, 100), 10.0, 0.5, 50.0),
        "lr": figures.plot_lr_search(pd.DataFrame({"lr": [1e-4, 1e-3], "loss": [2, 1]}), 1e-3),
        "reconstruction": figures.plot_reconstruction(
            pd.DataFrame({"model": [0.6, 0.8], "ridge": [1.0, 0.9], "faces": 100})
        ),
        "embedding": figures.plot_embedding(np.zeros((3, 2)), np.arange(3), CLASSES, 0.5),
    }


@pytest.mark.parametrize("name", every_figure())
def test_every_figure_has_a_title_the_theme_the_width_of_its_page_and_no_markup(name: str) -> None:
    check_look(every_figure()[name])


def test_counts_leave_the_total_out() -> None:
    assert [bar.name for bar in every_figure()["counts"].data] == ["train"]


def test_curves_show_losses_and_scores_but_not_the_time() -> None:
    assert [line.name for line in every_figure()["curves"].data] == [
        "training loss",
        "validation loss",
        "accuracy",
    ]


def test_a_slider_flips_through_pictures_and_starts_with_the_last() -> None:
    pictures = {str(step): Image.new("RGB", (60, 40), (step, 0, 0)) for step in (0, 100, 200)}
    figure = figures.flip_through(pictures, "Moved", "steps")
    slider = figure.layout.sliders[0]
    assert [step.label for step in slider.steps] == list(pictures)
    sources = [step.args[0]["source"][0] for step in slider.steps]
    assert slider.active == 2 and figure.data[0].source == sources[2]
    for source, picture in zip(sources, pictures.values(), strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert np.abs(np.asarray(shown, float) - np.asarray(picture, float)).max() < 10


def test_captions_of_a_contact_sheet_stand_below_their_images() -> None:
    rows = {"a": [Image.new("RGB", (8, 8))] * 11, "b": [Image.new("RGB", (8, 8))]}
    plain = figures.contact_sheet(rows, size=32)
    with_captions = figures.contact_sheet(rows, size=32, captions={"a": ["happy"] * 11})
    assert with_captions.height > plain.height


def test_contact_sheet_has_rows_per_class_and_wraps() -> None:
    red, grey = Image.new("RGB", (48, 24), "red"), Image.new("L", (10, 10), 128)
    short = figures.contact_sheet({"happy": [red] * 10, "sad": [grey]}, size=32)
    tall = figures.contact_sheet({"happy": [red] * 11, "sad": [grey]}, size=32)
    assert short.mode == "RGB"
    assert tall.height - short.height == 40
    assert (np.asarray(short) == (255, 0, 0)).all(-1).sum() == pytest.approx(10 * 32 * 16, rel=0.02)
    empty = figures.contact_sheet({"disgust": []})
    assert (np.asarray(empty) < 100).any()  # its name and "none" are written


def test_picture_grid_shows_every_picture_whole_beside_the_others() -> None:
    red = Image.new("RGB", (48, 48), "red")
    for captions in (["a"] * 10, ["a caption that is wider\nthan its picture"] * 10):
        grid = figures.picture_grid([red] * 10, captions, "Ten", size=32)
        is_red = (np.asarray(grid) == (255, 0, 0)).all(-1)
        assert is_red.sum() == 10 * 32 * 32
        # Two rows of five, whose columns are separated.
        edges = np.flatnonzero(np.diff(is_red.any(0).astype(int)))
        assert len(edges) == 10 and (np.diff(edges)[::2] == 32).all()


def test_a_code_is_shown_against_the_mean_of_all() -> None:
    codes = np.zeros((4, 2, 3))
    codes[0, 1, 2] = 4.0
    [heat_map] = figures.plot_code(codes, "A code").data
    assert heat_map.z[1][2] == pytest.approx(3**0.5, abs=0.1)
    assert np.abs(np.asarray(heat_map.z)).sum() == pytest.approx(heat_map.z[1][2])


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("labels", lambda: figures.plot_embedding(np.ones((1, 2)), np.array([3]), CLASSES, 0.5)),
        ("images_by_class", lambda: figures.contact_sheet({})),
    ],
)
def test_a_wrong_argument_is_named(argument: str, call) -> None:
    with pytest.raises(ValueError, match=f"{argument}.*: expected .*, got "):
        call()


def test_use_theme_sets_the_default_and_nothing_before_does() -> None:
    before = plotly.io.templates.default, plotly.io.renderers.default
    try:
        figures.use_theme()
        assert plotly.io.renderers.default == "plotly_mimetype"
        assert plotly.io.templates[plotly.io.templates.default].layout.colorway == theme.PALETTE
    finally:
        plotly.io.templates.default, plotly.io.renderers.default = before
