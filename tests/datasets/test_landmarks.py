from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fervit_lib.datasets import EMOTIONS, alignment, ffhq_crop
from fervit_lib.datasets.alignment import dlib_detector, find_template
from fervit_lib.datasets.toy_faces import toy_face
from tests.model_files import needs_dlib, needs_mediapipe

load_detector = cache(alignment.load_detector)  # dlib's file has 100 MB
DETECTORS = [
    pytest.param("mediapipe", marks=needs_mediapipe),
    pytest.param("dlib", marks=needs_dlib),
]


def draw(size: int, seed: int = 0) -> Image.Image:
    return toy_face(EMOTIONS[seed % len(EMOTIONS)], np.random.default_rng(seed), size)


def places(points: np.ndarray) -> np.ndarray:
    """(3, 2) both eyes and the middle of the mouth."""
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[[48, 54]].mean(0)])


def apart(points: np.ndarray, others: np.ndarray) -> float:
    """The largest distance between the places of two sets of landmarks, in eye distances."""
    distance = np.hypot(*(places(points) - places(others)).T)
    return float(distance.max() / np.hypot(*(places(others)[1] - places(others)[0])))


@pytest.mark.parametrize("size", [(48, 48), (112, 112), (300, 200)])
def test_the_template_is_in_the_same_place_of_every_image(size: tuple[int, int]) -> None:
    points = find_template(Image.new("L", size))
    left, right, mouth = (places(points) + 0.5) / size
    assert left[1] == right[1] < 0.5 < mouth[1]
    assert left[0] + right[0] == pytest.approx(2 * mouth[0]) == pytest.approx(1.0)


def test_a_template_crop_shows_all_of_a_registered_face_and_a_reflection() -> None:
    """The square is 1.52 times the image: 2 x 2 eye distances of 0.38."""
    image = Image.new("L", (48, 48), 200)
    image.paste(20, (12, 12, 36, 36))
    crop = np.asarray(ffhq_crop(image, find_template(image)).convert("L"))
    assert crop.shape == (256, 256)
    dark = np.flatnonzero(crop[crop.shape[0] // 2] < 110)
    assert len(dark) / 256 == pytest.approx(0.5 / 1.52, abs=0.01)
    assert crop[:, 0].mean() > 150  # no black border


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [48, 96, 256])
def test_most_drawn_faces_are_found_at_any_size(name: str, size: int) -> None:
    detect = load_detector(name)
    found = [detect(draw(size, seed)) for seed in range(12)]
    points = [places(p) / size for p in found if p is not None]
    assert len(points) >= {"mediapipe": 11, "dlib": 7}[name]
    left, right, mouth = np.median(points, axis=0)
    assert left[0] < 0.45 < 0.55 < right[0]
    assert max(left[1], right[1]) < 0.55 < mouth[1]


@pytest.mark.parametrize("name", DETECTORS)
def test_there_is_no_face_in_noise_or_one_colour(name: str) -> None:
    detect = load_detector(name)
    rng = np.random.default_rng(0)
    for size in ((48, 48), (300, 200), (1, 1), (400, 3)):
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        assert detect(Image.fromarray(noise)) is None
        assert detect(Image.new("L", size, 128)) is None


@pytest.mark.parametrize("name", DETECTORS)
def test_landmarks_follow_the_face(name: str) -> None:
    detect = load_detector(name)
    face = draw(256, 1)
    points = detect(face)
    assert points.shape == (68, 2)
    assert apart(detect(face.convert("L")), points) < 0.2
    assert apart(detect(face.resize((512, 512))) / 2, points) < 0.1
    mirrored = detect(ImageOps.mirror(face))
    mirrored[:, 0] = face.width - 1 - mirrored[:, 0]
    assert np.abs(places(mirrored)[[1, 0, 2]] - places(points)).max() < 0.1 * face.width * 0.4
    moved = Image.new("RGB", (500, 400), (128, 128, 128))
    moved.paste(face, (160, 90))
    assert apart(detect(moved) - (160, 90), points) < 0.1


@needs_mediapipe
def test_the_largest_of_several_faces_is_taken() -> None:
    picture = Image.new("RGB", (400, 256), (128, 128, 128))
    picture.paste(draw(120, 1), (10, 60))
    picture.paste(draw(240, 2), (150, 8))
    points = load_detector("mediapipe")(picture)
    assert points[:, 0].min() > 150


@needs_mediapipe
@needs_dlib
def test_mediapipe_and_dlib_agree() -> None:
    mediapipe, dlib = load_detector("mediapipe"), load_detector("dlib")
    pairs = [(mediapipe(face), dlib(face)) for face in (draw(192, seed) for seed in range(12))]
    distances = [apart(a, b) for a, b in pairs if a is not None and b is not None]
    assert len(distances) >= 7
    assert np.median(distances) < 0.15


@pytest.mark.parametrize("name", DETECTORS)
def test_threads_find_what_one_finds(name: str) -> None:
    detect = load_detector(name)
    faces = [draw(64, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(detect, faces))
    for points, face in zip(threaded, faces, strict=True):
        assert np.array_equal(points, detect(face))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.dat: .*make weights"):
        dlib_detector(tmp_path / "none.dat")
