from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics

from fervit_lib import runs
from fervit_lib.evaluation import (
    bootstrap_interval,
    class_metrics,
    evaluate_run,
    export_onnx,
    majority_accuracy,
    onnx_difference,
    read_predictions,
    runs_to_compare,
    summary_metrics,
)
from fervit_lib.latents import complete_store
from fervit_lib.models import create_model, save_model

CPU = torch.device("cpu")
OPTIONS = {"embed_dim": 32, "depth": 1, "num_heads": 2}


def random_labels(n: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=n)
    return labels, np.where(rng.random(n) < 0.6, labels, rng.integers(classes, size=n))


def test_metrics_are_scikit_learns() -> None:
    labels, predicted = random_labels()
    found = summary_metrics(labels, predicted)
    assert found["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert found["macro_f1"] == metrics.f1_score(labels, predicted, average="macro")
    assert found["weighted_f1"] == metrics.f1_score(labels, predicted, average="weighted")
    table = class_metrics(labels, predicted, "abcd")
    assert table["recall"].tolist() == metrics.recall_score(labels, predicted, average=None).tolist()
    assert table["support"].sum() == len(labels)


def test_a_class_that_is_never_predicted_or_absent_is_no_error() -> None:
    table = class_metrics(np.array([0, 0, 1]), np.array([0, 0, 0]), "abc")
    assert table["f1"].tolist() == [pytest.approx(0.8), 0, 0]
    assert majority_accuracy(np.array([0, 0, 1])) == pytest.approx(2 / 3)


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.random(200) < 0.7)
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100
    assert bootstrap_interval(np.ones(10, bool)) == (1, 1)


def test_onnx_agrees_with_torch_at_any_batch_size(tmp_path: Path) -> None:
    model = create_model("scratch", 3, **OPTIONS)
    path = export_onnx(model, tmp_path / "m.onnx")
    for batch in (1, 7):
        assert onnx_difference(path, model, torch.randn(batch, 18, 512)) < 1e-4
    other = create_model("scratch", 3, **OPTIONS)
    assert onnx_difference(path, other, torch.randn(2, 18, 512)) > 1e-3
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def finished_run(reports: Path, store: Path, classes: str = "ahs") -> runs.Run:
    run = runs.start_run(
        reports, "tiny", "train", "scratch-full", parameters={"latents": str(store)}, seed=0, device="cpu"
    )
    model = create_model("scratch", len(classes), **OPTIONS)
    save_model(run.best_checkpoint, model, approach="scratch", classes=classes, options=OPTIONS)
    numbers = {"total_parameters": 1, "trainable_parameters": 1, "train_seconds": 1.0, "peak_memory_gb": 1.0}
    run.write_result(approach="scratch", strategy="full", seed=0, **numbers)
    return run


def test_evaluate_run(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with pytest.raises(FileNotFoundError, match="no finished training run there; run 02_train"):
        runs_to_compare(tmp_path / "reports", "tiny")
    finished_run(tmp_path / "reports", store)
    [run] = runs_to_compare(tmp_path / "reports", "tiny")
    with pytest.raises(ValueError, match="trained on the classes a, h, s, but .* has angry, happy, sad"):
        evaluate_run(run, tmp_path, CPU)
    complete_store(
        store, {"train": 96, "val": 30, "test": 30}, classes="ahs", encoder="a", faces=Path("faces"), synthetic=True
    )
    found = evaluate_run(run, tmp_path, CPU)
    assert found.confusion.sum() == found.figures["num_test"] == 30
    assert found.figures["accuracy"] == pytest.approx(np.trace(found.confusion) / 30)
    frame = read_predictions(tmp_path / "predictions-scratch-full.parquet")
    assert (frame["label"] == frame["predicted"]).mean() == pytest.approx(found.figures["accuracy"])
    np.testing.assert_allclose(frame.filter(like="prob_").sum(axis=1), 1, atol=1e-5)
    assert frame["path"][3] == "test/3.png"
