"""Cross-validation by subject: each face is tested once, and all predictions are one row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fervit_lib import runs
from fervit_lib.datasets import Protocol
from fervit_lib.encoders import Autoencoder
from fervit_lib.encoders.autoencoder import save_autoencoder
from fervit_lib.evaluation import (
    Faces,
    check_folds,
    compare_pairs,
    cross_evaluate,
    evaluate_run,
    runs_to_compare,
)
from fervit_lib.evaluation.metrics import summary_metrics

CPU = torch.device("cpu")
CLASSES = ("angry", "happy", "sad")
SUBJECTS = 7


class Folds(NamedTuple):
    source: Path
    checkpoint: Path
    stores: list[Path]
    reports: Path


@pytest.fixture(scope="module")
def folds(
    tmp_path_factory: pytest.TempPathFactory,
    encode_toy: Callable[..., Path],
    finish_run: Callable[..., runs.Run],
) -> Folds:
    """Three folds over faces of seven persons, and untrained models of two recipes for each."""
    folder = tmp_path_factory.mktemp("folds")
    rng = np.random.default_rng(0)
    source = folder / "faces"
    for subject in range(SUBJECTS):
        for name in CLASSES:
            path = source / "train" / name / f"S{subject:02d}"
            path.mkdir(parents=True)
            for i in range(1 + subject % 2):
                pixels = rng.integers(0, 255, (32, 32), dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"{i}.png")
    torch.manual_seed(0)
    checkpoint = folder / "encoder.safetensors"
    save_autoencoder(checkpoint, Autoencoder(32), "toy")
    stores = [
        encode_toy(folder / f"fold={i}", source, checkpoint, Protocol(folds=3, fold=i))
        for i in range(3)
    ]
    for i, store in enumerate(stores):
        torch.manual_seed(i)
        for recipe in ("image-full-seed0", "scratch-full-seed0"):
            finish_run(folder / "reports", store, f"{recipe}-fold={i}", classes=CLASSES)
    return Folds(source, checkpoint, stores, folder / "reports")


def test_the_folds_of_a_recipe_are_one_row(folds: Folds, tmp_path: Path) -> None:
    comparison = runs_to_compare(folds.reports, "tiny")
    assert comparison.stores == tuple(folds.stores)
    first = [f"{recipe}-full-seed0-fold=0" for recipe in ("image", "scratch")]
    assert [run.variant for run in comparison.runs] == first
    assert len(comparison.pooled) == 6 and comparison.single_runs == []
    faces = Faces(comparison.stores[0], comparison.stores[1:])
    assert f"{SUBJECTS} subjects" in check_folds(faces)
    evaluated = [
        evaluate_run(run, faces, tmp_path, CPU, further_folds=comparison.folds_of(run))
        for run in comparison.runs
    ]
    files = set(folds.source.rglob("*.png"))
    for row in evaluated:
        assert len(row.test.paths) == len(files) == row.metrics["num_test"]
        assert {folds.source / path for path in row.test.paths} == files
        assert faces.tested.paths == row.test.paths
        # The scores are those of all predictions, not means over folds.
        scores = summary_metrics(row.test.labels, row.test.predicted)
        assert {name: row.metrics[name] for name in scores} == scores
        assert row.metrics["interval_over"] == f"{SUBJECTS} subjects"
        assert row.calibrated.shape == row.test.probs.shape
        np.testing.assert_allclose(row.calibrated.sum(1), 1, atol=1e-5)
    names = ["image-full-seed0", "scratch-full-seed0"]
    assert [row.variant for row in evaluated] == names
    assert len(compare_pairs({row.variant: row.test.correct for row in evaluated})) == 1
    # Each fold's predictions are its own model's.
    parts = [
        pd.read_parquet(tmp_path / f"predictions-image-full-seed0-fold={i}.parquet")
        for i in range(3)
    ]
    tested = pd.concat([part[part["split"] == "test"] for part in parts])
    assert list(tested["path"]) == list(evaluated[0].test.paths)
    assert list(tested["confidence"]) == list(evaluated[0].test.confidence)


def test_a_recipe_without_all_folds_is_skipped(
    folds: Folds, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    for i in (0, 1, 2):
        finish_run(tmp_path, folds.stores[i], f"image-full-seed0-fold={i}", classes=CLASSES)
    finish_run(tmp_path, folds.stores[1], "scratch-full-seed0-fold=1", classes=CLASSES)
    comparison = runs_to_compare(tmp_path, "tiny")
    assert [run.variant for run in comparison.runs] == ["image-full-seed0-fold=0"]
    assert "fold 0, 2 of 3" in comparison.skipped["scratch-full-seed0-fold=1"]


def test_a_single_fold_is_a_run_like_any_other(
    folds: Folds, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    finish_run(tmp_path, folds.stores[1], "image-full-seed0", classes=CLASSES)
    comparison = runs_to_compare(tmp_path, "tiny")
    assert comparison.stores == (folds.stores[1],) and not comparison.further_folds
    assert [run.variant for run in comparison.single_runs] == ["image-full-seed0"]


def test_faces_that_a_model_was_trained_on_are_left_out_of_the_matrix(
    folds: Folds, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = finish_run(tmp_path, folds.stores[1], "image-full-seed0", classes=CLASSES)
    everyone = Faces(folds.stores[0], tuple(folds.stores[1:]))
    [cell] = cross_evaluate([run], {"all": [everyone]}, CPU).to_dict("records")
    assert cell["num_test"] == len(everyone.at(folds.stores[1]).stores["test"])
    assert cell["seen"] == len(everyone.tested) - cell["num_test"] > 0


class TestCheckFolds:
    def test_a_face_that_is_tested_twice_is_an_error(self, folds: Folds) -> None:
        with pytest.raises(ValueError, match="test split of one fold"):
            check_folds(Faces(folds.stores[0], (folds.stores[0],)))

    def test_a_subject_in_two_splits_is_an_error(self, folds: Folds) -> None:
        faces = Faces(folds.stores[0], tuple(folds.stores[1:]))
        train = faces.dataset("train")
        subjects = train.subjects.copy()
        subjects[0] = faces.dataset("test").subjects[0]
        faces._cache["train"] = replace(train, subjects=subjects)
        with pytest.raises(ValueError, match=f"got {subjects[0]} in several"):
            check_folds(faces)

    def test_unknown_subjects_are_said(self, folds: Folds) -> None:
        faces = Faces(folds.stores[0], tuple(folds.stores[1:]))
        for fold in faces.folds:
            for split in ("train", "val", "test"):
                fold._cache[split] = replace(fold.dataset(split), subjects=None)
        assert "unknown" in check_folds(faces)
