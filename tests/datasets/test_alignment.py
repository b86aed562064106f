from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fervit_lib.datasets import (
    FaceCrop,
    FaceDataset,
    face_crop,
    ffhq_crop,
    find_faces,
)
from fervit_lib.datasets.alignment import find_template

# Where FFHQ has them: the crop of a face that is already in place is the image itself.
EYES = ((96.0, 112.0), (160.0, 112.0))
MOUTH = ((104.0, 176.0), (152.0, 176.0))
SIDE = 256


def landmarks(eyes: tuple = EYES, mouth: tuple = MOUTH) -> np.ndarray:
    points = np.zeros((68, 2))
    points[36:42] = eyes[0]
    points[42:48] = eyes[1]
    points[48] = mouth[0]
    points[54] = mouth[1]
    return points


def dots(size: tuple[int, int], points: np.ndarray) -> Image.Image:
    """Red on the left eye, green on the right, blue on the mouth, on grey."""
    image = Image.new("RGB", size, (90, 90, 90))
    draw = ImageDraw.Draw(image)
    places = points[36], points[42], (points[48] + points[54]) / 2
    for (x, y), colour in zip(places, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=colour)
    return image


def centres(image: Image.Image) -> np.ndarray:
    """(3, 2) x and y of the red, green and blue dots as shares of the side."""
    pixels = np.asarray(image).astype(int)
    places = []
    for channel in range(3):
        excess = pixels[..., channel] - np.delete(pixels, channel, axis=2).max(-1)
        y, x = np.nonzero(excess > 80)
        places.append((x.mean() / image.width, y.mean() / image.height))
    return np.array(places)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.5])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_eyes_and_mouth_come_to_the_same_place(angle: float, scale: float) -> None:
    upright = ffhq_crop(dots((SIDE, SIDE), landmarks()), landmarks())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (landmarks() - 128) @ turn.T * scale + (500, 420)
    turned = ffhq_crop(dots((1000, 900), moved), moved)
    assert upright.size == turned.size == (256, 256)
    # The dots keep their size in pixels, so at other scales their centres are less exact.
    tolerance = 0.01 if scale == 1 else 0.03
    assert np.abs(centres(turned) - centres(upright)).max() < tolerance


def test_the_square_is_the_recipes() -> None:
    """Side 2 × max(2 × eye to eye, 1.8 × eyes to mouth); centre 0.1 of the way to the mouth."""
    image = dots((SIDE, SIDE), landmarks())
    side = 2 * max(2 * 64, 1.8 * 64)
    centre = np.array([128, 112 + 0.1 * 64])
    expected = (np.array([(96, 112), (160, 112), (128, 176)]) - centre) / side + 0.5
    assert np.abs(centres(ffhq_crop(image, landmarks())) - expected).max() < 0.005


def test_beyond_the_edge_lies_a_blurred_reflection_not_black() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(100, 200, (120, 120, 3), dtype=np.uint8))
    crop = np.asarray(ffhq_crop(image, (landmarks() - 128) * 0.6 + (100, 60)))
    assert crop.min() >= 90
    inside = crop[100:150, 60:110]
    outside = crop[100:150, -40:]
    assert outside.std() < 0.5 * inside.std()


def test_size_and_grey() -> None:
    image = dots((SIDE, SIDE), landmarks()).convert("L")
    crop = ffhq_crop(image, landmarks(), size=64)
    assert (crop.size, crop.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), r"\(68, 2\), got shape \(5, 2\)"),
        (np.full((68, 2), np.nan), "finite"),
        (np.ones((68, 2)), "apart"),
        (landmarks() + 5000, "within the image"),
    ],
)
def test_landmarks_that_are_none(points: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"landmarks.*{message}"):
        ffhq_crop(Image.new("RGB", (64, 64)), points)


def find_in_large(image: Image.Image) -> np.ndarray | None:
    """The landmarks of a 300x200 image, none in smaller ones."""
    return landmarks() if image.width > 100 else None


def test_misses() -> None:
    image = dots((300, 200), landmarks())
    small = image.resize((60, 40))
    for misses in ("whole", "template", "leave_out"):
        crop = FaceCrop(find_in_large, misses)
        assert np.array_equal(crop(image), ffhq_crop(image, landmarks()))
        assert crop.find(small) is None
        if misses == "template":
            assert np.array_equal(crop(small), ffhq_crop(small, find_template(small)))
        else:
            assert crop(small) is small
    with pytest.raises(ValueError, match="misses: expected"):
        FaceCrop(find_in_large, "drop")


def test_without_a_detector_every_image_is_unchanged() -> None:
    image = dots((300, 200), landmarks())
    assert face_crop("none")(image) is image


def test_points_beyond_the_image_are_no_face() -> None:
    crop = FaceCrop(lambda image: landmarks() + 500)
    image = dots((300, 200), landmarks())
    assert crop.find(image) is None
    assert crop(image) is image


def test_each_content_is_searched_once() -> None:
    seen = []

    def detect(image: Image.Image) -> np.ndarray | None:
        seen.append(image.size)
        return find_in_large(image)

    crop = FaceCrop(detect)
    image = dots((300, 200), landmarks())
    other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for face in (image, image.copy(), other, image.resize((60, 40)), image.resize((60, 40))):
        crop(face)
    assert seen == [(300, 200), (300, 200), (60, 40)]
    # The same bytes as another size or mode are another image.
    flat = Image.new("L", (120, 50))
    for face in (flat, Image.new("L", (50, 120)), Image.new("RGB", (40, 50))):
        crop(face)
    assert seen[3:] == [(120, 50), (50, 120), (40, 50)]


def test_find_faces(tmp_path: Path) -> None:
    widths = [120, 80, 200, 60]
    paths = tuple(f"{i}.png" for i in range(len(widths)))
    for path, width in zip(paths, widths, strict=True):
        dots((width, 100), landmarks() / 3).save(tmp_path / path)
    faces = FaceDataset(("happy",), np.zeros(4, int), paths, tmp_path)
    found = find_faces(faces, FaceCrop(lambda i: landmarks() / 3 if i.width > 100 else None))
    assert found.tolist() == [True, False, True, False]


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="landmarks: expected"):
        face_crop("mtcnn")
