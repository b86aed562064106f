import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fervit_lib.datasets import EMOTIONS, SPLITS, draw_toy_faces, load_faces, toy_face
from fervit_lib.datasets.action_units import ACTION_UNIT_EFFECTS, EMOTION_ACTION_UNITS, Expression


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_same_seed_draws_the_same_files_and_more_faces_only_add(tmp_path: Path) -> None:
    first = digests(draw_toy_faces(tmp_path / "a", 70, seed=3))
    assert digests(draw_toy_faces(tmp_path / "b", 70, seed=3)) == first
    more = digests(draw_toy_faces(tmp_path / "c", 140, seed=3))
    assert {name: more[name] for name in first if name.endswith(".png")}.items() <= first.items()
    other = digests(draw_toy_faces(tmp_path / "d", 70, seed=4))
    assert not set(other.values()) & set(first.values())


def test_splits_and_classes_are_balanced_and_say_that_they_are_drawn(tmp_path: Path) -> None:
    draw_toy_faces(tmp_path / "toy", 210)
    sizes = {}
    for split in SPLITS:
        faces = load_faces(tmp_path / "toy", split)
        assert faces.synthetic
        assert faces.classes == EMOTIONS
        assert np.ptp(np.bincount(faces.labels)) <= 1
        sizes[split] = len(faces)
    assert sizes == {"train": 147, "val": 21, "test": 42}


def test_a_drawn_set_is_left_alone_and_redrawn_for_other_arguments(tmp_path: Path) -> None:
    folder = draw_toy_faces(tmp_path / "toy", 28)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    draw_toy_faces(folder, 28)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    draw_toy_faces(folder, 35)
    assert json.loads((folder / "SYNTHETIC.json").read_text())["num_faces"] == 35
    assert len(list(folder.rglob("*.png"))) == 35


def test_photographs_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(
        ValueError, match="mine holds files that are not toy faces.*choose another folder"
    ):
        draw_toy_faces(tmp_path / "mine", 28)
    folder = draw_toy_faces(tmp_path / "toy", 28)
    (folder / "train" / "happy" / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="but also holiday.jpg"):
        draw_toy_faces(folder, 35)
    assert (folder / "train" / "happy" / "holiday.jpg").read_bytes() == b"precious"


def test_wrong_arguments_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_faces must be at least 28"):
        draw_toy_faces(tmp_path / "toy", 27)
    with pytest.raises(ValueError, match="emotion must be one of angry.*got 'bored'"):
        toy_face("bored", np.random.default_rng(0))
    assert not list(tmp_path.iterdir())


def test_one_generator_draws_one_person_under_every_emotion() -> None:
    pictures = {
        emotion: np.asarray(toy_face(emotion, np.random.default_rng(7)), dtype=float).mean(2)
        for emotion in EMOTIONS
    }
    border = np.r_[0:6, 58:64]
    for emotion, picture in pictures.items():
        assert np.abs(picture[border][:, border] - pictures["neutral"][border][:, border]).max() < 1
        assert (
            emotion == "neutral" or np.abs(picture - pictures["neutral"]).max() > 25
        )  # a tenth of the range


def test_every_action_unit_moves_the_face() -> None:
    used = {unit for units in EMOTION_ACTION_UNITS.values() for unit in units}
    assert used == set(ACTION_UNIT_EFFECTS)
    for effects in ACTION_UNIT_EFFECTS.values():
        assert effects
        assert set(effects) <= set(vars(Expression()))


def test_a_linear_model_on_pixels_is_not_enough() -> None:
    """Below 80% on 1,000 faces after 2,800; above 55%, or they would be no expressions at all."""
    labels = np.arange(3800) % 7
    pixels = [
        np.asarray(
            toy_face(EMOTIONS[label], np.random.default_rng((0, i))).convert("L").resize((32, 32))
        ).ravel()
        for i, label in enumerate(labels)
    ]
    images = np.stack(pixels).astype(np.float32)
    images = (images - images.mean(1, keepdims=True)) / images.std(1, keepdims=True)
    model = LogisticRegression(C=0.01, max_iter=300).fit(images[:2800], labels[:2800])
    assert 0.55 < model.score(images[2800:], labels[2800:]) < 0.80
