from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fervit_lib.datasets import EMOTIONS, SPLITS, draw_toy_faces, load_faces
from fervit_lib.datasets.action_units import ACTION_UNIT_EFFECTS, EMOTION_ACTION_UNITS
from fervit_lib.datasets.toy_faces import MEASURES, draw_measures, toy_face
from tests.datasets.conftest import pictures_hash


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}


def test_seed_0_draws_the_pictures_that_it_always_drew(tmp_path: Path) -> None:
    """If this changes, every result on toy faces changes: raise `VERSION`, tell the changelog."""
    drawn = pictures_hash(draw_toy_faces(tmp_path / "toy", 100))
    assert drawn == "2bb46fb4e9555bdeb8667672861b2ede749ad06ef2060efd53c07f38461bccb9"


def test_the_same_seed_draws_the_same_files_and_more_faces_only_add(tmp_path: Path) -> None:
    first = files(draw_toy_faces(tmp_path / "a", 70, seed=3))
    assert files(draw_toy_faces(tmp_path / "b", 70, seed=3)) == first
    more = files(draw_toy_faces(tmp_path / "c", 140, seed=3))
    assert first.items() <= more.items()
    other = files(draw_toy_faces(tmp_path / "d", 70, seed=4))
    assert not set(other.values()) & set(first.values())


def test_splits_and_classes_are_balanced_and_marked_as_synthetic(tmp_path: Path) -> None:
    draw_toy_faces(tmp_path / "toy", 210)
    sizes = {}
    for split in SPLITS:
        faces = load_faces(tmp_path / "toy", split)
        assert faces.synthetic
        assert faces.classes == EMOTIONS
        assert np.ptp(np.bincount(faces.labels)) <= 1
        sizes[split] = len(faces)
    assert sizes == {"train": 147, "val": 21, "test": 42}


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("num_faces", lambda folder: draw_toy_faces(folder, 27)),
        ("emotion", lambda folder: toy_face("bored", np.random.default_rng(0))),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, argument: str, call) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected"):
        call(tmp_path / "toy")
    assert not list(tmp_path.iterdir())


def test_one_generator_draws_one_person_under_every_emotion() -> None:
    pictures = {
        emotion: np.asarray(toy_face(emotion, np.random.default_rng(7)), dtype=float).mean(2)
        for emotion in EMOTIONS
    }
    border = np.r_[0:6, 58:64]
    for emotion, picture in pictures.items():
        difference = np.abs(picture - pictures["neutral"])
        assert difference[border][:, border].max() < 1
        assert emotion == "neutral" or difference.max() > 25  # a tenth of the range


def test_every_action_unit_moves_the_face() -> None:
    used = {unit for units in EMOTION_ACTION_UNITS.values() for unit in units}
    assert used == set(ACTION_UNIT_EFFECTS)
    for effects in ACTION_UNIT_EFFECTS.values():
        assert effects
        assert set(effects) <= set(MEASURES)


def test_no_length_of_a_face_is_negative() -> None:
    lengths = {"upper_lid", "lower_lid", "nose_width", "mouth_width", "lip", "outer_brow"}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        measures = vars(draw_measures(EMOTIONS[seed % len(EMOTIONS)], rng))
        assert min(measures[name] for name in lengths) > 0
        assert measures["lower_lip"] + measures["jaw"] + measures["upper_lip"] >= 0


@pytest.mark.slow
def test_a_linear_model_on_pixels_is_not_enough() -> None:
    """Below 80 % on 1,000 faces after 2,800; above 55 %, or they would show no expressions."""
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
