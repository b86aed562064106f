import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib.datasets import FaceDataset
from fervit_lib.datasets.toy_faces import toy_face
from fervit_lib.evaluation import (
    CORRUPTIONS,
    accuracy_on_subset,
    corrupt,
    evaluate_corruptions,
    evaluate_tta,
    seen_in_training,
)
from fervit_lib.evaluation.predict import Predictor
from fervit_lib.evaluation.robustness import ten_crops
from fervit_lib.models import create_model


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [toy_face("happy", np.random.default_rng(i), 32) for i in range(6)]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.convert("RGB"), float) for image in images])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_level_and_is_reproducible(
    name: str, images: list[Image.Image]
) -> None:
    clean = pixels(images)
    differences = [
        np.abs(pixels(corrupt(images, name, level, seed=1)) - clean).mean() for level in (1, 2, 3)
    ]
    assert 0 < differences[0] < differences[1] < differences[2]
    assert np.array_equal(
        pixels(corrupt(images, name, 3, seed=1)), pixels(corrupt(images, name, 3, seed=1))
    )
    assert [image.size for image in corrupt(images, name, 2)] == [(32, 32)] * 6


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_of_an_image_does_not_depend_on_the_others(
    name: str, images: list[Image.Image]
) -> None:
    together = pixels(corrupt(images, name, 3))
    assert np.array_equal(pixels(corrupt(images[:1:-1], name, 3)), together[:1:-1])


def test_an_unknown_corruption_is_refused(images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="name.*fog"):
        corrupt(images, "fog", 1)
    with pytest.raises(ValueError, match="level.*4"):
        corrupt(images, "noise", 4)


def test_ten_crops_are_five_crops_and_their_mirror_images(images: list[Image.Image]) -> None:
    crops = [pixels(crop) for crop in ten_crops(images)]
    assert len(crops) == 10
    assert np.array_equal(crops[0], pixels(images)[:, :29, :29])
    mirrored = pixels(images)[:, :, ::-1]
    assert np.array_equal(crops[5], mirrored[:, :29, :29])


def test_accuracy_under_corruptions_and_with_augmentation(images: list[Image.Image]) -> None:
    torch.manual_seed(0)
    model = create_model("image", 3, model_name="resnet18", pretrained="none", image_size=32).eval()
    predictors = {"a": Predictor(model, ("x", "y", "z"), None, torch.device("cpu"))}
    labels = np.zeros(6, int)
    table = evaluate_corruptions(predictors, images, labels)
    assert len(table) == 1 + 3 * len(CORRUPTIONS)
    assert table["accuracy"].between(0, 1).all()
    [row] = evaluate_tta(predictors, images, labels).to_dict("records")
    assert row["plain"] == table["accuracy"][0]
    assert 0 <= row["ten_crop"] <= 1


def test_faces_seen_in_training_are_found() -> None:
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


def test_accuracy_on_a_subset() -> None:
    correct = np.array([True, True, False, False])
    subset = np.array([True, False, True, False])
    [row] = accuracy_on_subset({"a": correct}, subset).to_dict("records")
    assert (row["all"], row["part"], row["faces"]) == (0.5, 0.5, 2)
    assert row["low"] <= 0.5 <= row["high"]
    [none] = accuracy_on_subset({"a": correct}, np.zeros(4, bool)).to_dict("records")
    assert np.isnan(none["part"])
