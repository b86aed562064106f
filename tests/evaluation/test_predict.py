import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib import runs
from fervit_lib.datasets import face_crop
from fervit_lib.encoders import Autoencoder, load_generator
from fervit_lib.encoders.autoencoder import save_autoencoder
from fervit_lib.evaluation import Faces, evaluate_run, load_predictor, load_predictors
from fervit_lib.evaluation.predict import check_encoding, find_decoder
from fervit_lib.evaluation.robustness import _predict_all as predict_all
from fervit_lib.latents import LatentStore, complete_store, shard_path, write_shard
from fervit_lib.system import atomic, runtime
from tests.encoders.test_generator import DIM, write_checkpoint


@pytest.mark.parametrize("variant", ["scratch-full-seed0", "image-full-seed0"])
def test_files_are_predicted_as_the_evaluation_predicts_the_test_split(
    toy, finish_run: Callable[..., runs.Run], tmp_path: Path, variant: str
) -> None:
    run = finish_run(toy.reports, toy.store, variant, toy.classes)
    faces = Faces(toy.store)
    expected = evaluate_run(run, faces, tmp_path, torch.device("cpu")).test
    result = load_predictor(run.folder, "cpu").predict(
        [toy.source / path for path in expected.paths[:9]]
    )
    probs = result.table[list(expected.classes)].to_numpy()
    # Codes are stored in half precision.
    np.testing.assert_allclose(probs, expected.probs[:9], atol=2e-3)
    assert list(result.table["emotion"]) == [expected.classes[i] for i in probs.argmax(1)]
    if variant.startswith("image"):
        assert result.codes is None
    else:
        stored = faces.stores["test"].codes[:9].float()
        np.testing.assert_allclose(result.codes, stored, atol=5e-3)


def test_any_image_can_be_predicted_and_bad_ones_are_refused(
    toy, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = finish_run(toy.reports, toy.store, classes=toy.classes)
    predictor = load_predictor(run.folder, "cpu")
    result = predictor.predict([Image.new("L", (100, 80), 90)])
    assert result.codes.shape == (1, 18, 512)
    assert result.table.iloc[0, 2:].sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="images"):
        predictor.predict([])
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match=r"no\.png"):
        predictor.predict([tmp_path / "no.png"])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        predictor.predict([tmp_path / "gone.png"])


def test_the_first_picture_does_not_decide_the_size_of_all(
    toy, finish_run: Callable[..., runs.Run]
) -> None:
    run = finish_run(toy.reports, toy.store, "image-full-seed0", toy.classes)
    predictor = load_predictor(run.folder, "cpu")
    faces = [toy.source / path for path in Faces(toy.store).stores["test"].paths[:5]]
    alone = predictor.predict(faces).table
    for size in ((8, 8), (1, 1), (900, 3)):
        beside = predictor.predict([Image.new("L", size, 90), *faces]).table
        numbers = list(toy.classes)
        np.testing.assert_allclose(beside[numbers][1:], alone[numbers], atol=1e-5)


def test_codes_of_another_encoding_are_refused(
    toy, finish_run: Callable[..., runs.Run], encode_toy: Callable[..., Path], tmp_path: Path
) -> None:
    run = finish_run(tmp_path / "reports", toy.store, classes=toy.classes)
    torch.manual_seed(1)
    save_autoencoder(tmp_path / "other.safetensors", Autoencoder(32), "toy")
    other = encode_toy(tmp_path / "other", toy.source, tmp_path / "other.safetensors")
    check_encoding(run.best_checkpoint, toy.store)
    with pytest.raises(ValueError, match="other: .*best.safetensors was trained on"):
        check_encoding(run.best_checkpoint, other)


def copy_as_aligned(store: Path, copy: Path) -> Path:
    """A copy of a store whose codes claim to be of faces cropped by the template."""
    shutil.copytree(store, copy)
    content = atomic.read_json(copy / "store.json")
    content["made_by"] |= {"landmarks": "template", "misses": "whole"}
    atomic.write_json(copy / "store.json", content)
    return copy


def test_images_are_aligned_as_the_codes_were(
    toy, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    store = copy_as_aligned(toy.store, tmp_path / "store")
    face = Image.open(toy.source / LatentStore.open(store, "test").paths[0])
    whole = load_predictor(finish_run(toy.reports, toy.store, classes=toy.classes).folder, "cpu")
    aligned = load_predictor(finish_run(tmp_path, store, classes=toy.classes).folder, "cpu")
    codes = aligned.predict([face]).codes
    assert torch.equal(codes, whole.predict([face_crop("template")(face)]).codes)
    assert not torch.equal(codes, whole.predict([face]).codes)


def test_models_on_other_codes_get_their_own_encoder(
    toy, finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    """The same weights on two stores, one aligned: together they predict as each alone."""
    store = copy_as_aligned(toy.store, tmp_path / "store")
    finished = [
        finish_run(tmp_path, toy.store, "scratch-full-seed0", toy.classes),
        finish_run(tmp_path, toy.store, "scratch-full-seed1", toy.classes),
        finish_run(tmp_path, store, "scratch-full-seed2", toy.classes),
    ]
    predictors = load_predictors({run.variant: run for run in finished}, "cpu")
    encoders = [predictor.encoder for predictor in predictors.values()]
    assert encoders[0] is encoders[1] is not encoders[2]
    images = [Image.open(toy.source / path) for path in LatentStore.open(store, "test").paths[:9]]
    together = dict(predict_all(predictors, images))
    for variant, predictor in predictors.items():
        [(_, alone)] = predict_all({variant: predictor}, images)
        assert np.array_equal(together[variant], alone)
    variants = list(predictors)
    assert not np.array_equal(together[variants[0]], together[variants[2]])


def test_an_encoder_that_did_not_make_the_codes_is_refused(
    toy, make_store: Callable[..., Path], finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = finish_run(tmp_path, make_store(tmp_path / "others"), "scratch-others")
    with pytest.raises(FileNotFoundError, match="encoder"):
        load_predictor(run.folder, "cpu")
    store = tmp_path / "store"
    shutil.copytree(toy.store, store)
    content = atomic.read_json(store / "store.json")
    checkpoint = tmp_path / "encoder.safetensors"
    content["made_by"]["checkpoint"] = str(checkpoint)
    atomic.write_json(store / "store.json", content)
    run = finish_run(tmp_path, store)
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors"):
        load_predictor(run.folder, "cpu")
    save_autoencoder(checkpoint, Autoencoder(32), "toy")
    with pytest.raises(ValueError, match=r"encoder\.safetensors"):
        load_predictor(run.folder, "cpu")


def test_the_decoder_of_a_store_draws_as_the_generator_in_float32_does(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "psp.pt", 256)
    codes = torch.randn(2, 14, DIM)
    write_shard(shard_path(tmp_path, "test", 0), codes, [0, 1], ["a", "b"], "made")
    sha256 = hashlib.sha256((tmp_path / "psp.pt").read_bytes()).hexdigest()
    made_by = {"checkpoint": str(tmp_path / "psp.pt"), "sha256": sha256}
    options = {"encoder": "psp", "faces": tmp_path, "synthetic": True, "made_by": made_by}
    complete_store(tmp_path, {"test": 2}, classes=("angry", "happy"), **options)
    device = torch.device("cpu")
    decoder, generator = find_decoder(tmp_path, device), load_generator(tmp_path / "psp.pt")
    with torch.inference_mode():
        error = (decoder(codes) - generator(codes)).norm() / generator(codes).norm()
    assert error < 5e-2
    assert (error > 0) == runtime.has_fast_bf16(device)
    assert torch.equal(decoder.mean_code, generator.mean_code)
