"""Trained on × tested on: which classes, which faces, which codes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fervit_lib import runs
from fervit_lib.datasets import draw_toy_faces
from fervit_lib.encoders import Autoencoder
from fervit_lib.encoders.autoencoder import save_autoencoder
from fervit_lib.evaluation import (
    Faces,
    cross_evaluate,
    find_test_sets,
    load_predictor,
    runs_to_compare,
)
from fervit_lib.evaluation.predict import find_encoder
from fervit_lib.latents import LatentStore

CPU = torch.device("cpu")
LEFT = "disgust"  # the class that the second set does not have


class Two(NamedTuple):
    reports: Path
    stores: dict[str, Path]  # both sets by the same encoder, and the second one by another
    runs: dict[str, runs.Run]


def save_encoder(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_autoencoder(path, Autoencoder(32), "toy")
    return path


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory,
    encode_toy: Callable[..., Path],
    finish_run: Callable[..., runs.Run],
) -> Two:
    """Two sets of toy faces, one without a class, and untrained models of each."""
    folder = tmp_path_factory.mktemp("two")
    faces = {
        "first": draw_toy_faces(folder / "faces" / "first", 84, size=32),
        "second": draw_toy_faces(folder / "faces" / "second", 84, size=32, seed=1),
    }
    for split in faces["second"].glob(f"*/{LEFT}"):
        shutil.rmtree(split)
    shared = save_encoder(folder / "shared.safetensors", 0)
    other = save_encoder(folder / "other.safetensors", 1)
    stores = {
        "first-autoencoder": ("first", shared),
        "second-autoencoder": ("second", other),
        "second-autoencoder@first": ("second", shared),
    }
    reports = folder / "reports"
    for variant, (dataset, checkpoint) in stores.items():
        store = folder / "latents" / dataset / variant.removeprefix(f"{dataset}-")
        stores[variant] = encode_toy(store, faces[dataset], checkpoint)
        about = {"parameters": {"dataset": dataset}, "seed": 0, "device": "cpu"}
        run = runs.start_run(reports, "tiny", "encode", variant, **about)
        run.write_result(latents=str(store))
    trained = {}
    for approach in ("image", "scratch"):
        for variant in ("first-autoencoder", "second-autoencoder"):
            classes = LatentStore.open(stores[variant], "test").classes
            name = f"{approach}-{variant}"
            trained[name] = finish_run(reports, stores[variant], name, classes=classes)
    return Two(reports, stores, trained)


def test_the_matrix_holds_every_pair_on_common_classes(two: Two) -> None:
    test_sets = find_test_sets(two.reports, "tiny", "first, second")
    assert {name: len(encodings) for name, encodings in test_sets.items()} == {
        "first": 1,
        "second": 2,
    }
    comparison = runs_to_compare(two.reports, "tiny")
    cells = cross_evaluate(comparison.single_runs, test_sets, CPU).set_index(["run", "tested_on"])
    assert len(cells) == 4 * 2
    first = LatentStore.open(two.stores["first-autoencoder"], "test")
    of_left = int((first.labels == first.classes.index(LEFT)).sum())
    # The faces of a class that the model does not know are left out; they are no errors.
    on_first = cells.loc[("image-second-autoencoder", "first")]
    assert on_first["other_classes"] == of_left > 0
    assert on_first["num_test"] == len(first) - of_left and on_first["num_classes"] == 6
    assert cells.loc[("image-first-autoencoder", "first"), "num_test"] == len(first)
    assert (cells["accuracy_low"] <= cells["accuracy"]).loc[cells["accuracy"].notna()].all()
    assert (cells["seen"].dropna() == 0).all()
    # A model of codes: those of its own encoder are there for the first set's, not the second's.
    reasons = cells["reason"].dropna()
    assert list(reasons.index) == [("scratch-second-autoencoder", "first")]
    assert "another encod" in reasons.iloc[0]


@pytest.mark.parametrize("approach", ["image", "scratch"])
def test_a_score_is_that_of_the_model_on_these_faces(approach: str, two: Two) -> None:
    name = f"{approach}-first-autoencoder"
    test_sets = find_test_sets(two.reports, "tiny", "second")
    [cell] = cross_evaluate([two.runs[name]], test_sets, CPU).to_dict("records")
    faces = test_sets["second"][0].dataset("test")
    table = load_predictor(two.runs[name].folder, "cpu").predict([image for image, _ in faces])
    # Without the class that these faces do not have.
    predicted = table.table.drop(columns=["emotion", "confidence", LEFT]).idxmax(axis=1)
    labels = np.array(faces.classes)[faces.labels]
    assert cell["accuracy"] == pytest.approx((predicted.to_numpy() == labels).mean())
    assert cell["num_test"] == len(faces) and cell["num_classes"] == 6


def test_too_few_common_classes_are_a_reason(
    two: Two, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    store = two.stores["first-autoencoder"]
    run = finish_run(tmp_path, store, "image-own", classes=("calm", "happy"))
    [cell] = cross_evaluate([run], {"first": [Faces(store)]}, CPU).to_dict("records")
    assert "happy" in cell["reason"] and "calm" in cell["reason"]


def test_a_model_of_codes_that_were_encoded_again_is_skipped(
    two: Two, encode_toy: Callable[..., Path], finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    source = LatentStore.open(two.stores["first-autoencoder"], "test").faces
    classes = LatentStore.open(two.stores["first-autoencoder"], "test").classes
    store = encode_toy(tmp_path / "codes", source, save_encoder(tmp_path / "e.safetensors", 2))
    for name in ("scratch-full", "image-full"):
        finish_run(tmp_path, store, name, classes=classes)
    assert len(runs_to_compare(tmp_path, "tiny").runs) == 2
    encode_toy(store, source, save_encoder(tmp_path / "f.safetensors", 3))
    comparison = runs_to_compare(tmp_path, "tiny")
    assert [run.variant for run in comparison.runs] == ["image-full"]
    assert "encoding" in comparison.skipped["scratch-full"]
    for encoder in (None, find_encoder(store, CPU)):
        with pytest.raises(ValueError, match="encoding .*scratch-full"):
            load_predictor(tmp_path / "tiny" / "train" / "scratch-full", "cpu", encoder)
    assert load_predictor(tmp_path / "tiny" / "train" / "image-full", "cpu").encoder is None


def test_an_unknown_data_set_is_named(two: Two) -> None:
    assert find_test_sets(two.reports, "tiny", "") == {}
    with pytest.raises(ValueError, match="test_on: .*'secnd'.*'second'"):
        find_test_sets(two.reports, "tiny", "first, secnd")
