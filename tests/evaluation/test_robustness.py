import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fervit_lib.datasets import FaceDataset, toy_face
from fervit_lib.evaluation import (
    CORRUPTIONS,
    Predictor,
    accuracy_on_subset,
    corrupt,
    count_macs,
    evaluate_corruptions,
    evaluate_tta,
    seen_in_training,
)
from fervit_lib.evaluation.robustness import mirrored, ten_crops
from fervit_lib.models import create_model


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [toy_face("happy", np.random.default_rng(i), 32) for i in range(6)]


def pixels(some: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.convert("RGB"), float) for picture in some])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_worse_at_each_level_and_the_same_for_one_seed(
    name: str, pictures: list[Image.Image]
) -> None:
    clean = pixels(pictures)
    harm = [
        np.abs(pixels(corrupt(pictures, name, level, seed=1)) - clean).mean() for level in (1, 2, 3)
    ]
    assert 0 < harm[0] < harm[1] < harm[2]
    assert np.array_equal(
        pixels(corrupt(pictures, name, 3, seed=1)), pixels(corrupt(pictures, name, 3, seed=1))
    )
    assert [picture.size for picture in corrupt(pictures, name, 2)] == [(32, 32)] * 6


def test_an_unknown_corruption_is_named(pictures: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="name, level: expected one of noise, .* got 'fog' and 1"):
        corrupt(pictures, "fog", 1)
    with pytest.raises(ValueError, match="got 'noise' and 4"):
        corrupt(pictures, "noise", 4)


def test_mirror_and_crops(pictures: list[Image.Image]) -> None:
    assert np.array_equal(pixels(mirrored(mirrored(pictures))), pixels(pictures))
    crops = ten_crops(pictures)
    assert len(crops) == 10
    assert crops[0][0].size == (29, 29)
    assert np.array_equal(pixels(crops[0]), pixels(pictures)[:, :29, :29])
    assert np.array_equal(pixels(crops[5]), pixels(crops[0])[:, :, ::-1]) or np.array_equal(
        pixels(crops[5]), pixels(mirrored(pictures))[:, :29, :29]
    )


def test_reading_harmed_and_augmented_faces(pictures: list[Image.Image]) -> None:
    torch.manual_seed(0)
    model = create_model("image", 3, model_name="resnet18", pretrained="none", image_size=32).eval()
    predictors = {"a": Predictor(model, ("x", "y", "z"), None, torch.device("cpu"))}
    labels = np.zeros(6, int)
    table = evaluate_corruptions(predictors, pictures, labels)
    assert len(table) == 1 + 3 * len(CORRUPTIONS)
    assert table["accuracy"].between(0, 1).all()
    [row] = evaluate_tta(predictors, pictures, labels).to_dict("records")
    assert row["plain"] == table["accuracy"][0]
    assert 0 <= row["ten_crop"] <= 1


def test_test_faces_that_were_trained_on_are_found() -> None:
    def faces(seeds: range) -> FaceDataset:
        drawn = [toy_face("sad", np.random.default_rng(i), 48).convert("L") for i in seeds]
        paths = tuple(f"{i}" for i in seeds)
        return FaceDataset(
            ("sad",),
            np.zeros(len(drawn), np.int64),
            paths,
            None,
            pixels=np.stack([np.asarray(d) for d in drawn]),
        )

    seen = seen_in_training(
        {"train": faces(range(10)), "val": faces(range(100, 104)), "test": faces(range(8, 13))}
    )
    assert seen[:2].all()
    assert not seen.all()


def test_accuracy_on_a_part() -> None:
    correct, part = np.array([True, True, False, False]), np.array([True, False, True, False])
    [row] = accuracy_on_subset({"a": correct}, part).to_dict("records")
    assert (row["all"], row["part"], row["faces"]) == (0.5, 0.5, 2)
    assert row["low"] <= 0.5 <= row["high"]
    [none] = accuracy_on_subset({"a": correct}, np.zeros(4, bool)).to_dict("records")
    assert np.isnan(none["part"])


def test_macs_of_known_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16 * 16, 5)
    )
    assert count_macs(model, torch.zeros(1, 3, 16, 16)) == 16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 5


def test_macs_count_attention() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_macs(Attend(), torch.zeros(1, 2, 10, 4)) == 2 * 2 * 10 * 10 * 4
