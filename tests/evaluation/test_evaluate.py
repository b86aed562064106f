from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fervit_lib import runs
from fervit_lib.datasets import SPLITS, draw_toy_faces, load_faces, move_to_train
from fervit_lib.evaluation import Faces, evaluate_run, first_of_each_recipe
from fervit_lib.evaluation.evaluate import recipe
from fervit_lib.latents import complete_store, shard_path, write_shard

CPU = torch.device("cpu")


def test_metrics_follow_from_the_predictions_that_are_written(
    make_store: Callable[..., Path], finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    evaluated = evaluate_run(finish_run(tmp_path / "reports", store), Faces(store), tmp_path, CPU)
    assert evaluated.test.confusion.sum() == evaluated.metrics["num_test"] == 30
    accuracy = pytest.approx(evaluated.metrics["accuracy"])
    assert np.trace(evaluated.test.confusion) / 30 == accuracy
    frame = pd.read_parquet(tmp_path / "predictions-scratch-full-seed0.parquet")
    assert list(frame["split"].unique()) == ["val", "test"]
    test = frame[frame["split"] == "test"].reset_index()
    assert (test["label"] == test["predicted"]).mean() == accuracy
    probs = test.filter(like="prob_").to_numpy()
    assert np.array_equal(probs, evaluated.test.probs)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert test["path"][3] == "test/fer0000003.png"


def test_recipes_are_names_without_seeds_and_number_of_faces() -> None:
    assert recipe("scratch-full-seed12") == "scratch-full"
    name = "image-full-model_name=resnet18"
    assert recipe("image-full-seed0-model_name=resnet18") == name
    drawn = "image-full-seed0-model_name=resnet18-data_fraction=0.1-data_seed=3"
    assert recipe(drawn) == name
    assert recipe("scratch-full-seed0-shots=5-data_seed=1") == "scratch-full"


def test_the_lowest_seed_of_each_recipe_is_taken(
    make_store: Callable[..., Path], finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    seeds = {"scratch-full-seed1": 1, "scratch-full-seed0": 0, "scratch-other-seed2": 2}
    evaluated = []
    for name, seed in seeds.items():
        run = finish_run(tmp_path, store, name, seed=seed)
        evaluated.append(evaluate_run(run, Faces(store), tmp_path, CPU))
    chosen = [run.variant for run in first_of_each_recipe(evaluated)]
    assert chosen == ["scratch-full-seed0", "scratch-other-seed2"]


def test_faces_that_were_moved_from_val_to_train_are_found(tmp_path: Path) -> None:
    draw_toy_faces(tmp_path / "toy", 140, size=32)
    splits = {split: load_faces(tmp_path / "toy", split) for split in SPLITS}
    splits = move_to_train(splits, 0.5, seed=0)
    for split, part in splits.items():
        path = shard_path(tmp_path / "codes", split, 0)
        write_shard(path, torch.zeros(len(part), 18, 512), part.labels, part.paths, "made")
    complete_store(
        tmp_path / "codes",
        {split: len(part) for split, part in splits.items()},
        classes=splits["train"].classes,
        encoder="a",
        faces=tmp_path / "toy",
        synthetic=True,
    )
    faces = Faces(tmp_path / "codes")
    for split, part in splits.items():
        assert faces.dataset(split).paths == part.paths
        assert list(faces.dataset(split).labels) == list(part.labels)
    assert any(path.startswith("val/") for path in faces.dataset("train").paths)
