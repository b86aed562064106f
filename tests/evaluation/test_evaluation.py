import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fervit_lib import runs
from fervit_lib.datasets import SPLITS, draw_toy_faces, load_faces, move_to_train
from fervit_lib.encoders import Autoencoder, encode_faces, load_encoder
from fervit_lib.encoders.autoencoder import save_autoencoder
from fervit_lib.evaluation import (
    Faces,
    evaluate_predictions,
    evaluate_run,
    export_run,
    first_of_each_recipe,
    learning_curves,
    load_predictor,
    measure_run,
    read_predictions,
    recipe,
    runs_to_compare,
    write_results,
)
from fervit_lib.latents import complete_store, shard_path, write_shard
from fervit_lib.models import create_model, save_model
from fervit_lib.system import atomic

CPU = torch.device("cpu")
OPTIONS = {"embed_dim": 32, "depth": 1, "num_heads": 2}
NUMBERS = {
    "total_parameters": 10,
    "trainable_parameters": 5,
    "train_seconds": 1.0,
    "peak_memory_gb": 1.0,
}


def finished_run(
    reports: Path, store: Path, variant: str = "scratch-full-seed0", classes=None, **parameters
) -> runs.Run:
    run = runs.start_run(
        reports,
        "tiny",
        "train",
        variant,
        parameters={"latents": str(store)} | parameters,
        seed=0,
        device="cpu",
    )
    approach = variant.split("-")[0]
    options = (
        OPTIONS
        if approach == "scratch"
        else {"model_name": "resnet18", "pretrained": "none", "image_size": 32}
    )
    classes = classes or ("angry", "happy", "sad")
    model = create_model(approach, len(classes), **options)
    save_model(run.best_checkpoint, model, approach=approach, classes=classes, options=options)
    pd.DataFrame({"epoch": [0, 1], "seconds": [1.0, 2.0]}).to_csv(
        run.folder / "metrics.csv", index=False
    )
    run.write_result(approach=approach, strategy="full", seed=0, train_faces=96, **NUMBERS)
    return run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Reports with a finished encode run, the codes it made, and the faces: 140 toy faces, an untrained encoder."""
    folder = tmp_path_factory.mktemp("toy")
    reports, store, source = (
        folder / "reports",
        folder / "store",
        draw_toy_faces(folder / "faces", 140, size=32),
    )
    run = runs.start_run(
        reports, "tiny", "encode", "autoencoder", parameters={}, seed=0, device="cpu"
    )
    torch.manual_seed(0)
    save_autoencoder(run.best_checkpoint, Autoencoder(32), "toy")
    encoder = load_encoder(run.best_checkpoint, "autoencoder")
    run.write_result(latents=str(store), encoder="autoencoder")
    sha256 = hashlib.sha256(run.best_checkpoint.read_bytes()).hexdigest()
    sets = {split: load_faces(source, split) for split in ("train", "val", "test")}
    for split, faces in sets.items():
        encode_faces(encoder, sha256, faces, store, split, device=CPU)
    sizes = {split: len(faces) for split, faces in sets.items()}
    about = {
        "classes": sets["train"].classes,
        "encoder": "autoencoder",
        "faces": source,
        "synthetic": True,
    }
    made_by = {"checkpoint": str(run.best_checkpoint), "sha256": sha256, "landmarks": "none"}
    complete_store(store, sizes, made_by=made_by, **about)
    return reports, store, source


def classes_of(source: Path) -> tuple[str, ...]:
    return load_faces(source, "test").classes


def test_a_run_that_cannot_be_compared_is_skipped_with_the_reason(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store, reports = make_store(tmp_path / "store"), tmp_path / "reports"
    with pytest.raises(FileNotFoundError, match="no finished training run there; run 02_train"):
        runs_to_compare(reports, "tiny")
    finished_run(reports, store)
    finished_run(reports, store, "scratch-classes", classes=("a", "h", "s"))
    (finished_run(reports, store, "scratch-killed").folder / "result.json").unlink()
    runs.Run(reports, "tiny", "train", "scratch-old").write_result(accuracy=1.0)
    old = finished_run(reports, store, "scratch-version")
    old.write_result(
        **{name: value for name, value in old.result.items() if name != "train_seconds"}
    )
    cut = finished_run(reports, store, "scratch-cut").best_checkpoint
    cut.write_bytes(cut.read_bytes()[:100])
    finished_run(reports, store, "scratch-lost").best_checkpoint.unlink()
    finished_run(reports, tmp_path / "elsewhere", "scratch-elsewhere")
    (finished_run(reports, store, "scratch-damaged").folder / "result.json").write_text("{")
    found = runs_to_compare(reports, "tiny")
    assert [run.variant for run in found.runs] == ["scratch-full-seed0"]
    expected = {
        "scratch-classes": "trained on the classes a, h, s, but its codes now have angry, happy, sad",
        "scratch-killed": "not finished: it has no result.json",
        "scratch-old": "not finished: it has no config.json",
        "scratch-version": "made by another version: result.json has no train_seconds",
        "scratch-cut": "truncated",
        "scratch-lost": "no such checkpoint",
        "scratch-elsewhere": "no complete store of codes",
        "scratch-damaged": "does not parse",
    }
    assert set(found.skipped) == set(expected)
    for variant, reason in expected.items():
        assert reason in found.skipped[variant], variant


def test_runs_on_other_codes_than_most_are_skipped(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    for number in (0, 1):
        finished_run(tmp_path, make_store(tmp_path / "a"), f"scratch-full-seed{number}")
    finished_run(tmp_path, make_store(tmp_path / "b"), "scratch-other")
    found = runs_to_compare(tmp_path, "tiny")
    assert [run.variant for run in found.runs] == ["scratch-full-seed0", "scratch-full-seed1"]
    assert "trained on other codes" in found.skipped["scratch-other"]


def test_figures_can_be_made_again_from_the_predictions(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    run = finished_run(tmp_path / "reports", store)
    found = evaluate_run(run, Faces(store), tmp_path, CPU)
    assert found.test.confusion.sum() == found.metrics["num_test"] == 30
    assert found.metrics["accuracy"] == pytest.approx(np.trace(found.test.confusion) / 30)
    kept = read_predictions(tmp_path / "predictions-scratch-full-seed0.parquet")
    assert list(kept) == ["val", "test"]
    frame = kept["test"].to_frame()
    assert (frame["label"] == frame["predicted"]).mean() == pytest.approx(found.metrics["accuracy"])
    np.testing.assert_allclose(frame.filter(like="prob_").sum(axis=1), 1, atol=1e-5)
    assert frame["path"][3] == "test/fer0000003.png"
    run.best_checkpoint.unlink()
    assert evaluate_predictions(run, kept).metrics == found.metrics


def test_names_of_recipes() -> None:
    assert recipe("scratch-full-seed12") == "scratch-full"
    assert recipe("image-full-seed0-model_name=resnet18") == "image-full-model_name=resnet18"
    assert (
        recipe("image-full-seed0-model_name=resnet18-data_fraction=0.1-data_seed=3")
        == "image-full-model_name=resnet18"
    )
    assert recipe("scratch-full-seed0-shots=5-data_seed=1") == "scratch-full"


def test_learning_curves_have_a_band_over_runs_and_end_at_all_faces() -> None:
    def point(name: str, fraction: float, shots: int, accuracy: float) -> dict:
        ends = {"accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1}
        part = {"data_fraction": fraction, "shots": shots, "train_faces": 7}
        return {"recipe": name, "accuracy": accuracy, **ends, **part}

    points = [
        point("a", 0.1, 0, 0.2),
        point("a", 0.1, 0, 0.4),
        point("a", 1, 0, 0.8),
        point("a", 1, 5, 0.3),
    ]
    curves = learning_curves(pd.DataFrame([*points, point("b", 1, 0, 0.9)]))
    assert set(curves["recipe"]) == {"a"}
    first, last, few = curves.itertuples()
    sd = np.std([0.2, 0.4], ddof=1)
    assert (first.share, first.runs, first.mean) == (0.1, 2, pytest.approx(0.3))
    assert (first.low, first.high) == (pytest.approx(0.3 - sd), pytest.approx(0.3 + sd))
    assert (last.share, last.low, last.high) == (1, pytest.approx(0.7), pytest.approx(0.9))
    assert (few.kind, few.share) == ("shots", 5)


@pytest.mark.parametrize("variant", ["scratch-full-seed0", "image-full-seed0"])
def test_predict_reads_files_as_the_evaluation_read_the_test_split(
    toy: tuple[Path, Path, Path], tmp_path: Path, variant: str
) -> None:
    reports, store, source = toy
    run = finished_run(reports, store, variant, classes=classes_of(source))
    expected = evaluate_run(run, Faces(store), tmp_path, CPU).test
    predictor = load_predictor(run.folder, "cpu")
    read = predictor.predict([source / path for path in expected.paths[:9]])
    # Codes rest in half precision.
    np.testing.assert_allclose(read.table[list(expected.classes)], expected.probs[:9], atol=2e-3)
    assert list(read.table["emotion"]) == [
        expected.classes[i] for i in read.table[list(expected.classes)].to_numpy().argmax(1)
    ]
    if variant.startswith("image"):
        assert read.codes is None
    else:
        np.testing.assert_allclose(
            read.codes, Faces(store).stores["test"].codes[:9].float(), atol=5e-3
        )
    with pytest.raises(ValueError, match="images: expected at least one picture"):
        predictor.predict([])
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(
        ValueError, match=r"images: expected a picture, but .*no\.png does not open"
    ):
        predictor.predict([tmp_path / "no.png"])


def test_an_encoder_that_did_not_make_the_codes_is_not_taken(
    toy: tuple[Path, Path, Path], make_store: Callable[..., Path], tmp_path: Path
) -> None:
    run = finished_run(toy[0], make_store(tmp_path / "others"), "scratch-others")
    with pytest.raises(FileNotFoundError, match="its encoder is not known"):
        load_predictor(run.folder, "cpu")
    reports, store = tmp_path / "reports", tmp_path / "store"
    shutil.copytree(toy[1], store)
    content = atomic.read_json(store / "store.json")
    checkpoint = tmp_path / "encoder.safetensors"
    content["made_by"]["checkpoint"] = str(checkpoint)
    atomic.write_json(store / "store.json", content)
    run = finished_run(reports, store)
    with pytest.raises(FileNotFoundError, match="no such checkpoint, which made the codes"):
        load_predictor(run.folder, "cpu")
    save_autoencoder(checkpoint, Autoencoder(32), "toy")
    with pytest.raises(ValueError, match="changed since it made the codes"):
        load_predictor(run.folder, "cpu")


@pytest.mark.parametrize("variant", ["scratch-full-seed0", "image-full-seed0"])
def test_onnx_agrees_and_costs_are_measured(
    toy: tuple[Path, Path, Path], tmp_path: Path, variant: str
) -> None:
    reports, store, source = toy
    run = finished_run(reports, store, variant, classes=classes_of(source))
    predictor = load_predictor(run.folder, "cpu")
    faces = Faces(store).stratified_sample("test", 14, 0)
    pictures = [faces[i][0] for i in range(len(faces))]
    exported = export_run(predictor, tmp_path, pictures)
    assert list(exported["what"]) == (
        ["model"] if predictor.encoder is None else ["model", "encoder + model"]
    )
    assert (exported["difference"] < 1e-4).all()
    assert exported["agrees"].all()
    assert (exported["latency_p50_ms"] > 0).all()
    assert {path.name for path in tmp_path.iterdir()} == set(exported["file"])
    row = measure_run(run, predictor, pictures)
    assert row["seconds_per_epoch"] == 1.5
    for name in (
        "macs",
        "latency_p50_ms",
        "throughput",
        "whole_p50_ms",
        "whole_throughput",
        "host_memory_gb",
    ):
        assert row[name] > 0, name
    assert row["joules_per_face"] is None


def test_results_are_json_that_any_reader_takes(tmp_path: Path) -> None:
    runs_table = pd.DataFrame(
        {
            "variant": ["a_b"],
            "accuracy": [0.5],
            "accuracy_low": [0.4],
            "accuracy_high": [0.6],
            "macs": [np.nan],
        }
    )
    per_class = pd.DataFrame({"f1": [0.5, 0.6]}, index=["x", "y"])
    paths = write_results(
        tmp_path,
        runs=runs_table,
        classes="xy",
        class_metrics={"a_b": per_class},
        confusion={"a_b": np.eye(2, dtype=int)},
        more=per_class,
    )
    assert [path.name for path in paths] == [
        "evaluation_results.json",
        "comparison.csv",
        "comparison.tex",
    ]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(paths[0].read_text(), parse_constant=refuse)
    assert content["runs"][0]["macs"] is None
    assert content["class_metrics"]["a_b"][1] == {"class": "y", "f1": 0.6}
    assert r"a\_b & 50.0 [40.0, 60.0] & -- \\" in paths[2].read_text()
    assert pd.read_csv(paths[1])["accuracy"].tolist() == [0.5]


def test_costs_are_told_of_one_seed_of_each_recipe(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    names = ["scratch-full-seed0", "scratch-full-seed1", "scratch-other-seed0"]
    evaluated = [
        evaluate_run(finished_run(tmp_path, store, name), Faces(store), tmp_path, CPU)
        for name in names
    ]
    assert [e.variant for e in first_of_each_recipe(evaluated)] == [
        "scratch-full-seed0",
        "scratch-other-seed0",
    ]


def test_a_grey_picture_of_another_size_can_be_read(toy: tuple[Path, Path, Path]) -> None:
    reports, store, source = toy
    run = finished_run(reports, store, "scratch-full-seed0", classes=classes_of(source))
    read = load_predictor(run.folder, "cpu").predict([Image.new("L", (100, 80), 90)])
    assert read.codes.shape == (1, 18, 512)
    assert read.table.iloc[0, 2:].sum() == pytest.approx(1, abs=1e-5)


def test_faces_that_were_moved_from_val_to_train_are_found(tmp_path: Path) -> None:
    draw_toy_faces(tmp_path / "toy", 140, size=32)
    sets = move_to_train(
        {split: load_faces(tmp_path / "toy", split) for split in SPLITS}, 0.5, seed=0
    )
    for split, part in sets.items():
        codes = torch.zeros(len(part), 18, 512)
        write_shard(
            shard_path(tmp_path / "codes", split, 0), codes, part.labels, part.paths, "made"
        )
    made_from = {
        "classes": sets["train"].classes,
        "encoder": "a",
        "faces": tmp_path / "toy",
        "synthetic": True,
    }
    complete_store(
        tmp_path / "codes", {split: len(part) for split, part in sets.items()}, **made_from
    )
    faces = Faces(tmp_path / "codes")
    for split, part in sets.items():
        assert faces.pictures(split).paths == part.paths
        assert list(faces.pictures(split).labels) == list(part.labels)
    assert any(path.startswith("val/") for path in faces.pictures("train").paths)
