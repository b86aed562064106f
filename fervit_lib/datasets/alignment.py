"""Crop faces as FFHQ does: upright, eyes and mouth always in the same place.

pSp and e4e were trained on such crops.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import resolve

# Of the 68 points of iBUG 300-W (Sagonas et al. 2013); left and right as seen in the image.
LEFT_EYE = slice(36, 42)
RIGHT_EYE = slice(42, 48)
MOUTH_CORNERS = [48, 54]
PREDICTOR = "pretrained_models/shape_predictor_68_face_landmarks.dat"

Detector = Callable[[Image.Image], np.ndarray | None]  # → landmarks (68, 2), or None


def ffhq_crop(image: Image.Image, landmarks: np.ndarray, size: int = 256) -> Image.Image:
    """The face with these landmarks as FFHQ would show it, in RGB, `size` x `size` pixels.

    The crop is a square along the line between the eyes. Large images are reduced first. Where the
    square leaves the image, it is padded with a blurred reflection. Sampling is bilinear.

    Args:
        landmarks: (68, 2) x and y in pixels, in the order of iBUG 300-W, as dlib gives them.

    Raises:
        ValueError: landmarks of another shape or not finite, eyes and mouth in one point, or a
            face outside the image.

    Source: FFHQ (Karras et al. 2019, appendix A), with the parameters of pSp and e4e.
    """
    quad = _face_quad(landmarks)
    side = float(np.hypot(*(quad[3] - quad[0])))
    if size < 1 or side < 1:
        raise ValueError(
            f"landmarks, size: expected a face and a crop of at least a pixel, got {side:.2g} and "
            f"{size}"
        )
    image = image.convert("RGB")
    factor = int(side / size * 0.5)
    if factor > 1:
        reduced = [round(length / factor) for length in image.size]
        image = image.resize(reduced, Image.Resampling.LANCZOS)
        quad = quad / factor
        side = side / factor
    # Crop to the square and a border, so that only this part is padded and blurred.
    border = max(round(side * 0.1), 3)
    low = np.floor(quad.min(0)).astype(int)
    high = np.ceil(quad.max(0)).astype(int)
    start = np.maximum(low - border, 0)
    end = np.minimum(high + border, image.size)
    if (end <= start).any():
        raise ValueError(
            f"landmarks: expected a face within the image of {image.size} pixels, got one outside"
        )
    image = image.crop((*start, *end))
    quad = quad - start
    # How far the square and its border leave the image: (left, top) and (right, bottom).
    before = np.maximum(border - low + start, 0)
    after = np.maximum(high - start - image.size + border, 0)
    if max(*before, *after) > border - 4:
        least = round(side * 0.3)
        before = np.maximum(before, least)
        after = np.maximum(after, least)
        image = _pad(image, before, after, blur=side * 0.02)
        quad = quad + before
    corners = tuple((quad + 0.5).flatten())
    return image.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def _face_quad(landmarks: np.ndarray) -> np.ndarray:
    """(4, 2) corners of the square: upper left, lower left, lower right, upper right."""
    landmarks = np.asarray(landmarks, float)
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(
            f"landmarks: expected finite pixels of shape (68, 2), got shape {landmarks.shape}"
        )
    left = landmarks[LEFT_EYE].mean(0)
    right = landmarks[RIGHT_EYE].mean(0)
    eyes = (left + right) / 2
    eye_to_eye = right - left
    eyes_to_mouth = landmarks[MOUTH_CORNERS].sum(0) / 2 - eyes
    x = eye_to_eye - eyes_to_mouth[::-1] * (-1, 1)  # turned by 90°
    if not np.hypot(*x) > 0:
        raise ValueError("landmarks: expected eyes and mouth apart, got them in one point")
    x = x / np.hypot(*x) * max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eyes_to_mouth) * 1.8)
    y = x[::-1] * (-1, 1)
    centre = eyes + eyes_to_mouth * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _pad(image: Image.Image, before: np.ndarray, after: np.ndarray, blur: float) -> Image.Image:
    """Reflect beyond the edges, more blurred with the distance, and fade into the median colour.

    Args:
        before: (2,) pixels to add on the left and at the top; `after` on the right and below.
        blur: standard deviation in pixels.
    """
    left, top = before
    right, bottom = after
    padding = ((top, bottom), (left, right), (0, 0))
    pixels = np.pad(np.asarray(image, np.float32), padding, "reflect")
    y = np.arange(pixels.shape[0], dtype=np.float32)[:, None]
    x = np.arange(pixels.shape[1], dtype=np.float32)
    inside = np.minimum(
        np.minimum(x / left, x[::-1] / right), np.minimum(y / top, y[::-1] / bottom)
    )
    outside = (1 - inside)[..., None]  # 0 at the edge of the image, 1 at the outer edge
    pixels += (gaussian_filter(pixels, (blur, blur, 0)) - pixels) * np.clip(outside * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    return Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255)))


def dlib_detector(predictor: Path) -> Detector:
    """A detector of the landmarks (68, 2) of the largest face by dlib, None where none is found.

    It may be called from several threads.

    Args:
        predictor: dlib's `shape_predictor_68_face_landmarks.dat`; the weights of the face detector
            come with dlib.

    Raises:
        FileNotFoundError: no such file.
        ImportError: dlib is not installed.
    """
    if not predictor.is_file():
        raise FileNotFoundError(
            f"{predictor}: no such file; download shape_predictor_68_face_landmarks.dat from "
            f"dlib.net/files and unpack it there, or set landmarks to none"
        )
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            "landmarks: dlib is not installed; run `.venv/bin/pip install dlib`, or set landmarks "
            "to none"
        ) from error
    local = threading.local()  # dlib's objects keep state while they work: one pair per thread

    def detect(image: Image.Image) -> np.ndarray | None:
        if not hasattr(local, "predict"):
            local.find = dlib.get_frontal_face_detector()
            local.predict = dlib.shape_predictor(str(predictor))
        pixels = np.asarray(image.convert("RGB"))
        faces = local.find(pixels, 1)  # 1: in the image at twice its size, which finds small faces
        if not faces:
            return None
        points = local.predict(pixels, max(faces, key=lambda face: face.area())).parts()
        return np.array([(point.x, point.y) for point in points], float)

    return detect


class FaceCrop:
    """Crop the face of an image by `ffhq_crop`.

    An image without a face is returned unchanged, and its size is added to `not_found`. Without a
    detector every image is returned unchanged.
    """

    def __init__(self, detect: Detector | None = None) -> None:
        self.detect = detect
        # Sizes of the images so far. A list: threads can append to one without a lock.
        self.not_found: list[tuple[int, int]] = []

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.detect is None:
            return image
        landmarks = self.detect(image)
        if landmarks is None:
            self.not_found.append(image.size)
            return image
        return ffhq_crop(image, landmarks)


def face_crop(landmarks: str) -> FaceCrop:
    """The crop of `01_encode` by its parameter `landmarks`: none, or dlib (see `dlib_detector`)."""
    check_choice("landmarks", landmarks, ("none", "dlib"))
    return FaceCrop(dlib_detector(resolve(PREDICTOR)) if landmarks == "dlib" else None)
