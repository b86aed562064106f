"""The geometry of MediaPipe's detector and mesh, on inputs whose result is known."""

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets.face_mesh import (
    MESH_SIDE,
    MESH_TO_68,
    FaceMesh,
    anchors,
    decode_faces,
    merge_overlapping,
    square_to_image,
)


def face(
    centre: tuple[float, float], size: float, turn: float = 0.0, shift: float = 0.0
) -> np.ndarray:
    """(8, 2) a face in pixels whose eyes are turned by an angle."""
    points = np.full((8, 2), centre, float) + shift
    points[1] = size
    eyes = np.array([np.cos(turn), np.sin(turn)]) * size / 4
    points[2] -= eyes
    points[3] += eyes
    return points


def test_anchors() -> None:
    """MediaPipe's graph: strides 8, 16, 16, 16 at 128 pixels, two anchors per stride and cell."""
    places = anchors()
    assert places.shape == (896, 2)
    assert places[0].tolist() == places[1].tolist() == [4 / 128, 4 / 128]
    assert places[2].tolist() == [12 / 128, 4 / 128]  # x runs first
    assert places[511].tolist() == [124 / 128, 124 / 128]
    assert np.array_equal(places[512:518], np.full((6, 2), 8 / 128))
    assert places[-1].tolist() == [120 / 128, 120 / 128]


def test_decoding() -> None:
    regressors = np.zeros((896, 16), np.float32)
    logits = np.full((896, 1), -10.0, np.float32)
    regressors[2] = [6.4, 12.8, 32, 64, *[12.8, -6.4] * 6]
    logits[2] = np.log(0.8 / 0.2)
    logits[7] = 1e9  # clipped, not overflown
    logits[8] = -1e9
    logits[9] = -0.01  # below 0.5
    with np.errstate(all="raise"):
        faces, scores = decode_faces(regressors, logits)
    assert scores == pytest.approx([0.8, 1.0])
    x, y = 12 / 128, 4 / 128
    assert faces[0, 0] == pytest.approx([x + 0.05, y + 0.1])
    assert faces[0, 1] == pytest.approx([0.25, 0.5])  # a size has no anchor
    assert np.allclose(faces[0, 2:], [x + 0.1, y - 0.05])
    assert faces[1, 0] == pytest.approx(anchors()[7])


def test_overlapping_detections_become_their_weighted_mean() -> None:
    faces = np.stack(
        [face((50, 50), 20), face((54, 50), 20), face((10, 10), 8), face((61, 50), 20)]
    )
    merged = merge_overlapping(faces, np.array([0.6, 0.9, 0.7, 0.8]))
    # The best, at 54, overlaps 50 by 2/3 and 61 by 13/27; the overlap of 50 and 61 does not matter.
    assert merged.shape == (2, 8, 2)
    assert merged[0, 0, 0] == pytest.approx((0.6 * 50 + 0.9 * 54 + 0.8 * 61) / 2.3)
    assert np.allclose(merged[1], face((10, 10), 8))


@pytest.mark.parametrize(("offset", "expected"), [(10, 1), (11, 2)])
def test_detections_that_overlap_by_less_than_0_3_stay_apart(offset: int, expected: int) -> None:
    """Squares of side 20: at 10 apart they share 1/3 of their union, at 11 apart 0.29."""
    faces = np.stack([face((50, 50), 20), face((50 + offset, 50), 20)])
    assert len(merge_overlapping(faces, np.array([0.9, 0.8]))) == expected


def test_without_a_detection_nothing_is_merged() -> None:
    assert merge_overlapping(np.zeros((0, 8, 2)), np.zeros(0)).shape == (0, 8, 2)


@pytest.mark.parametrize("turn", [0.0, 0.4, -1.2, 3.0])
def test_the_square_of_the_mesh(turn: float) -> None:
    """1.5 times the face, about its centre; its upper edge is parallel to the eyes."""
    to_image = square_to_image(face((70, 40), 32, turn))
    corners = np.array([(0, 0, 1), (MESH_SIDE, 0, 1), (MESH_SIDE, MESH_SIDE, 1)]) @ to_image.T
    upper = corners[1] - corners[0]
    side = corners[2] - corners[1]
    assert np.hypot(*upper) == pytest.approx(48)
    assert np.hypot(*side) == pytest.approx(48)
    assert upper / 48 == pytest.approx([np.cos(turn), np.sin(turn)])
    assert side / 48 == pytest.approx([-np.sin(turn), np.cos(turn)])
    assert (corners[0] + corners[2]) / 2 == pytest.approx([70, 40])


def test_the_68_points_are_those_of_the_mesh() -> None:
    assert MESH_TO_68.shape == (68,)
    assert len(set(MESH_TO_68.tolist())) == 68
    assert MESH_TO_68.min() >= 0
    assert MESH_TO_68.max() < 468
    # As published by others for dlib: the contours of both eyes, and the corners of the mouth.
    assert MESH_TO_68[36:42].tolist() == [33, 160, 158, 133, 153, 144]
    assert MESH_TO_68[42:48].tolist() == [362, 385, 387, 263, 373, 380]
    assert MESH_TO_68[[48, 54]].tolist() == [61, 291]


class KnownMesh(FaceMesh):
    """A detector and a mesh that answer the same to every image."""

    def __init__(self, centre: tuple[float, float], points: np.ndarray, logit: float = 5) -> None:
        def detect(pixels: np.ndarray) -> list[np.ndarray]:
            self.pixels = pixels
            # Anchor 0 sees a face of 40 pixels of the input, with level eyes.
            regressors = np.zeros((896, 16), np.float32)
            regressors[0, :2] = np.array(centre) - 4
            regressors[0, 2:4] = 40
            regressors[0, 4:8] = [*(np.array(centre) - (14, 4)), *(np.array(centre) + (6, -4))]
            logits = np.full((896, 1), -50, np.float32)
            logits[0] = 5
            return [regressors, logits]

        def place(pixels: np.ndarray) -> list[np.ndarray]:
            depth = np.zeros((468, 1))
            return [np.hstack([points, depth]).reshape(1, 1, -1), np.full((1, 1, 1), logit)]

        self._detect = detect
        self._place = place


@pytest.mark.parametrize("size", [(48, 48), (300, 200), (100, 640)])
def test_the_way_from_the_image_to_both_networks_and_back(size: tuple[int, int]) -> None:
    """A point in the middle of the mesh's input is the middle of the face in the image."""
    middle = np.full((468, 2), MESH_SIDE / 2 - 0.5)
    find = KnownMesh((64, 64), middle)
    points = find(Image.new("RGB", size, (255, 255, 255)))
    assert np.allclose(points, (np.array(size) - 1) / 2, atol=1.01 * max(size) * 1.5 / 128)
    # The detector saw the image in the middle, within black margins of a quarter of its side.
    inside = (find.pixels[..., 0] > 0).mean((0, 1)) * 128**2
    assert inside == pytest.approx(np.prod(size) * (128 / (max(size) * 1.5)) ** 2, rel=0.05)
    assert find.pixels.min() == -1
    assert find.pixels.max() == 1


def test_distances_in_the_mesh_are_pixels_of_the_image() -> None:
    points = np.tile([[0.0, 0.0], [MESH_SIDE, 0.0]], (234, 1))
    found = KnownMesh((64, 64), points).place_points(
        Image.new("RGB", (900, 900)), face((450, 450), 400)
    )
    assert found[1] - found[0] == pytest.approx([600, 0])  # 1.5 faces of 400


def test_where_the_mesh_sees_no_face_there_is_none() -> None:
    assert KnownMesh((64, 64), np.zeros((468, 2)), logit=-0.1)(Image.new("L", (48, 48))) is None
