"""Photographs of test faces, and the pictures of their codes, as a model over pixels reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fervit_lib import evaluation, runs
from fervit_lib.encoders import decode_pixels
from fervit_lib.evaluation import (
    Faces,
    evaluate_run,
    find_decoder,
    read_reconstructions,
    reconstructions_by_class,
    summarise_reconstructions,
)
from fervit_lib.evaluation.evaluate import EvaluatedRun
from tests.evaluation.conftest import Toy

CPU = torch.device("cpu")


def table_of(label: list[int], photograph: list[int], reconstruction: list[int]) -> pd.DataFrame:
    columns = {"label": label, "photograph": photograph, "reconstruction": reconstruction}
    return pd.DataFrame(columns).assign(index=range(len(label)))


@pytest.fixture(scope="module")
def evaluated(
    toy: Toy, finish_run: Callable[..., runs.Run], tmp_path_factory: pytest.TempPathFactory
) -> list[EvaluatedRun]:
    reports = tmp_path_factory.mktemp("reports")
    variants = ("scratch-full-seed0", "image-full-seed0")
    trained = [finish_run(reports, toy.store, name, toy.classes) for name in variants]
    return [evaluate_run(run, Faces(toy.store), reports, CPU) for run in trained]


def test_a_run_over_pixels_reads_each_photograph_and_the_picture_of_its_code(
    toy: Toy, evaluated: list[EvaluatedRun]
) -> None:
    faces = Faces(toy.store)
    readings = read_reconstructions(evaluated, faces, CPU)
    assert list(readings) == ["image-full-seed0"]  # the other reads codes
    table = readings["image-full-seed0"]
    store, test = faces.stores["test"], evaluated[1].test
    assert list(table["index"]) == list(range(len(store)))
    assert np.array_equal(table["label"], store.labels)
    assert np.array_equal(table["photograph"], test.predicted)
    pictures = decode_pixels(find_decoder(toy.store, CPU), store.codes.float(), 32)
    predictor = evaluation.load_predictor(evaluated[1].run.folder, "cpu")
    probs = evaluation.predict_probs(predictor.model, pictures, CPU)
    assert np.array_equal(table["reconstruction"], probs.argmax(1))


def test_fewer_faces_have_the_same_share_of_each_class_and_the_same_readings(
    toy: Toy, evaluated: list[EvaluatedRun]
) -> None:
    faces = Faces(toy.store)
    everything = read_reconstructions(evaluated, faces, CPU)["image-full-seed0"]
    some = read_reconstructions(evaluated, faces, CPU, num_faces=14)["image-full-seed0"]
    assert len(some) == 14 and set(some["label"].value_counts()) == {2}
    expected = everything.iloc[some["index"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected)


def test_a_decoder_that_is_gone_leaves_nothing_to_read(
    toy: Toy, evaluated: list[EvaluatedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Path(Faces(toy.store).stores["test"].made_by["checkpoint"])
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    try:
        readings = read_reconstructions(evaluated, Faces(toy.store), CPU)
    finally:
        checkpoint.write_bytes(content)
    assert readings == {} and checkpoint.name in capsys.readouterr().out
    assert summarise_reconstructions(readings).empty


def test_shares_follow_from_the_readings() -> None:
    label = [0, 0, 1, 1, 2, 2, 2, 2]
    photograph = [0, 0, 1, 0, 2, 2, 2, 2]
    reconstruction = [0, 1, 1, 0, 2, 2, 0, 0]
    readings = {
        "a": table_of(label, photograph, reconstruction),
        "same": table_of(label, photograph, photograph),
    }
    a, same = summarise_reconstructions(readings).to_dict("records")
    assert (a["photographs"], a["reconstructions"], a["differ"]) == (7 / 8, 4 / 8, 3 / 8)
    # Of all pairs of a photograph with any picture.
    pairs = np.array(photograph)[:, None] != np.array(reconstruction)
    assert a["chance"] == pytest.approx(pairs.mean())
    for row in (a, same):
        assert 0 <= row["low"] <= row["differ"] <= row["high"] <= 1
    # Of eight faces none differs: that says little.
    assert same["differ"] == 0 and same["high"] > 0.2
    by_class = reconstructions_by_class(readings, ("x", "y", "z", "none"))
    differ = by_class["read differently"]
    assert differ.loc["a", ["x", "y", "z"]].tolist() == [0.5, 0.0, 0.5]
    assert not differ.loc["same", ["x", "y", "z"]].any() and differ["none"].isna().all()
    assert by_class["recall on photographs"].loc["a", "y"] == 0.5
    assert by_class["recall on reconstructions"].loc["a", "z"] == 0.5


def test_more_faces_give_a_narrower_interval() -> None:
    label, photograph, reconstruction = [0, 1] * 8, [0, 1] * 8, [0, 0] * 8
    few = table_of(label[:4], photograph[:4], reconstruction[:4])
    many = table_of(label, photograph, reconstruction)
    summary = summarise_reconstructions({"few": few, "many": many})
    widths = summary["high"] - summary["low"]
    assert widths[1] < widths[0]
    assert (summary["differ"] == 0.5).all() and (summary["chance"] == 0.5).all()
