"""Faces cut out as FFHQ's are, which pSp and e4e were trained on: upright, eyes and mouth always in the same place."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from fervit_lib.system.runtime import resolve

# Of the 68 points of iBUG 300-W (Sagonas et al. 2013); left and right as seen in the image.
LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER = 48, 54
PREDICTOR = "pretrained_models/shape_predictor_68_face_landmarks.dat"
Detector = Callable[[Image.Image], np.ndarray | None]


def ffhq_crop(image: Image.Image, landmarks: np.ndarray, size: int = 256) -> Image.Image:
    """The face with these landmarks as FFHQ would show it, RGB of `size` × `size` pixels.

    The recipe of FFHQ (Karras et al. 2019, appendix A) with the parameters that pSp and e4e were published with: a
    square along the line between the eyes; large images are shrunk; where the square leaves the image, it is padded by
    a blurred reflection; the square is read bilinearly at `size`.

    Args:
        landmarks: (68, 2) x and y in pixels, in the order of iBUG 300-W, as dlib gives them.

    Raises:
        ValueError: landmarks of another shape or not finite, or eyes and mouth in one point.
    """
    quad = _face_quad(landmarks)
    side = float(np.hypot(*(quad[3] - quad[0])))
    if size < 1 or side < 1:
        raise ValueError(
            f"landmarks, size: expected a face and a crop of at least a pixel, got {side:.2g} and {size}"
        )
    image = image.convert("RGB")
    shrink = int(side / size * 0.5)
    if shrink > 1:
        image = image.resize(
            [round(length / shrink) for length in image.size], Image.Resampling.LANCZOS
        )
        quad, side = quad / shrink, side / shrink
    border = max(round(side * 0.1), 3)
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    start, end = np.maximum(low - border, 0), np.minimum(high + border, image.size)
    if (end <= start).any():
        raise ValueError(
            f"landmarks: expected a face within the image of {image.size} pixels, got one beside it"
        )
    if (end - start < image.size).any():
        image, quad, low, high = image.crop((*start, *end)), quad - start, low - start, high - start
    before, after = np.maximum(border - low, 0), np.maximum(high - image.size + border, 0)
    if max(*before, *after) > border - 4:
        least = round(side * 0.3)
        before, after = np.maximum(before, least), np.maximum(after, least)
        image, quad = _pad(image, before, after, blur=side * 0.02), quad + before
    corners = tuple((quad + 0.5).flatten())
    return image.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def _face_quad(landmarks: np.ndarray) -> np.ndarray:
    """(4, 2) corners of the square around a face: upper left, lower left, lower right, upper right."""
    landmarks = np.asarray(landmarks, float)
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(
            f"landmarks: expected finite pixels of shape (68, 2), got shape {landmarks.shape}"
        )
    left, right = landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0)
    eyes, across = (left + right) / 2, right - left
    down = (landmarks[LEFT_MOUTH_CORNER] + landmarks[RIGHT_MOUTH_CORNER]) / 2 - eyes
    x = across - _quarter_turn(down)
    if not np.hypot(*x) > 0:
        raise ValueError(
            "landmarks: expected eyes and mouth apart from each other, got them in one point"
        )
    x = x / np.hypot(*x) * max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8)
    y, centre = _quarter_turn(x), eyes + down * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _quarter_turn(vector: np.ndarray) -> np.ndarray:
    return np.array([-vector[1], vector[0]])


def _pad(image: Image.Image, before: np.ndarray, after: np.ndarray, blur: float) -> Image.Image:
    """Reflect beyond the edges; the farther out, the more blurred, and at last the median colour."""
    (left, top), (right, bottom) = before, after
    pixels = np.pad(
        np.asarray(image, np.float32), ((top, bottom), (left, right), (0, 0)), "reflect"
    )
    height, width = pixels.shape[:2]
    y, x = (axis.astype(np.float32) for axis in np.ogrid[:height, :width])
    across = np.minimum(x / left, (width - 1 - x) / right)
    outside = (1 - np.minimum(across, np.minimum(y / top, (height - 1 - y) / bottom)))[..., None]
    pixels += (gaussian_filter(pixels, (blur, blur, 0)) - pixels) * np.clip(outside * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    return Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255)))


def dlib_detector(predictor: Path) -> Detector:
    """Landmarks (68, 2) of the largest face in an image, None where none is found; dlib's detectors, safe in threads.

    Args:
        predictor: dlib's `shape_predictor_68_face_landmarks.dat`; the face detector's weights come with dlib.

    Raises:
        FileNotFoundError: no such file.
        ImportError: dlib is not installed.
    """
    if not predictor.is_file():
        raise FileNotFoundError(
            f"{predictor}: no such file; place shape_predictor_68_face_landmarks.dat from dlib.net/files there, "
            f"unpacked, or say landmarks: none"
        )
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            "landmarks: dlib is not installed; run `.venv/bin/pip install dlib`, or say none"
        ) from error
    own = threading.local()  # dlib's objects keep state while they work

    def detect(image: Image.Image) -> np.ndarray | None:
        if not hasattr(own, "predict"):
            own.find, own.predict = (
                dlib.get_frontal_face_detector(),
                dlib.shape_predictor(str(predictor)),
            )
        pixels = np.asarray(image.convert("RGB"))
        if not (faces := own.find(pixels, 1)):
            return None
        points = own.predict(pixels, max(faces, key=lambda face: face.area())).parts()
        return np.array([(point.x, point.y) for point in points], float)

    return detect


class FaceCrop:
    """Cut the face out of an image, see `ffhq_crop`; an image without a face found stays whole and is counted.

    Without a detector every image stays whole.
    """

    def __init__(self, detect: Detector | None = None) -> None:
        self.detect = detect
        self._whole: list[tuple[int, int]] = []  # appended to by several threads

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.detect is None:
            return image
        landmarks = self.detect(image)
        if landmarks is None:
            self._whole.append(image.size)
            return image
        return ffhq_crop(image, landmarks)

    @property
    def whole(self) -> int:
        """Images so far in which the detector found no face."""
        return len(self._whole)


def face_crop(landmarks: str, predictor: Path | None = None) -> FaceCrop:
    """How `01_encode` cuts out faces: `none` not at all, `dlib` by its landmarks; see `dlib_detector`."""
    if landmarks not in ("none", "dlib"):
        raise ValueError(f"landmarks: expected none or dlib, got {landmarks!r}")
    return FaceCrop(dlib_detector(predictor or resolve(PREDICTOR)) if landmarks == "dlib" else None)
