"""Crop faces as FFHQ does: upright, eyes and mouth always in the same place.

pSp and e4e were trained on such crops. The landmarks come from MediaPipe's face mesh, from dlib, or
from a template for registered crops.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.face_mesh import FaceMesh
from fervit_lib.system.names import check_choice
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path, resolve

Detector = Callable[[Image.Image], np.ndarray | None]  # → landmarks (68, 2), or None

# Of the 68 points of iBUG 300-W (Sagonas et al. 2013); left and right as seen in the image.
LEFT_EYE = slice(36, 42)
RIGHT_EYE = slice(42, 48)
MOUTH_CORNERS = [48, 54]
SMALL, MARGIN = 192, 48  # pixels: dlib looks for faces of at least about 80 pixels


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
    return _crop_square(image, _face_square(landmarks), size)


def _crop_square(image: Image.Image, quad: np.ndarray, size: int = 256) -> Image.Image:
    """`ffhq_crop` of a square that is given by its corners; see `_face_square`."""
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


def _face_square(landmarks: np.ndarray) -> np.ndarray:
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


def load_detector(landmarks: str) -> Detector | None:
    """The detector that `landmarks` of 01_encode names; `none` has none.

    Raises:
        ValueError: no such detector, or a damaged file.
        FileNotFoundError: its files are missing.
    """
    check_choice("landmarks", landmarks, ("none", "template", "mediapipe", "dlib"))
    if landmarks == "mediapipe":
        return FaceMesh(
            resolve("pretrained_models/blazeface_front.tflite"),
            resolve("pretrained_models/face_mesh_468.tflite"),
        )
    if landmarks == "dlib":
        return dlib_detector(resolve("pretrained_models/shape_predictor_68_face_landmarks.dat"))
    return find_template if landmarks == "template" else None


def find_template(image: Image.Image) -> np.ndarray:
    """Landmarks (68, 2) of a face that is registered as in FER2013: always in the same place.

    Only what a crop needs is placed, the eyes and the middle of the mouth: at the medians of what
    the face mesh finds in FER2013, the same on the left and right.
    """
    points = np.full((68, 2), 0.5)
    points[LEFT_EYE] = 0.31, 0.395  # shares of width and height
    points[RIGHT_EYE] = 0.69, 0.395
    points[MOUTH_CORNERS] = 0.5, 0.76
    return points * image.size - 0.5  # from the centre of the first pixel


def dlib_detector(predictor: Path) -> Detector:
    """A detector of the landmarks (68, 2) of the largest face by dlib, None where none is found.

    It may be called from several threads.

    Args:
        predictor: dlib's `shape_predictor_68_face_landmarks.dat`; the weights of the face detector
            come with dlib.

    Raises:
        FileNotFoundError: no such file.
    """
    if not predictor.is_file():
        raise FileNotFoundError(f"{display_path(predictor)}: no such file; run `make weights`")
    import dlib  # 4 MB that few need

    predict = dlib.shape_predictor(str(predictor))  # by its documentation for many threads
    local = threading.local()  # a face detector keeps state while it works: one per thread

    def detect(image: Image.Image) -> np.ndarray | None:
        if not hasattr(local, "find"):
            local.find = dlib.get_frontal_face_detector()
        # A small image is enlarged. All get black margins: a face may fill the image.
        scale = max(1.0, SMALL / min(image.size))
        size = [round(length * scale) for length in image.size]
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        pixels = np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        # 1: search in the image at twice its size, which finds small faces in a photograph
        faces = local.find(pixels, int(scale == 1))
        if not faces:
            return None
        points = predict(pixels, max(faces, key=lambda face: face.area())).parts()
        places = np.array([(point.x, point.y) for point in points], float)
        return (places - MARGIN + 0.5) / scale - 0.5  # from the centre of the first pixel

    return detect


class FaceCrop:
    """Crop the face of an image by `ffhq_crop`.

    What was found in an image is remembered by its content, because a face is read several times:
    for the audit, the autoencoder, and each view. Several threads may call it.

    Args:
        detect: finds landmarks; None: every image is returned unchanged.
        misses: what happens to an image in which `detect` finds no face: whole (it is returned
            unchanged), template (cropped as a registered face, see `find_template`), leave_out
            (unchanged, too: `find_faces` tells which ones to leave out).
    """

    def __init__(self, detect: Detector | None, misses: str = "whole") -> None:
        check_choice("misses", misses, ("whole", "template", "leave_out"))
        self.detect = detect
        self.misses = misses
        self._squares: dict[tuple, np.ndarray | None] = {}

    def find(self, image: Image.Image) -> np.ndarray | None:
        """(4, 2) corners of the crop of the face that `detect` finds, or None."""
        key = image.mode, image.size, hash(image.tobytes())
        if key not in self._squares:
            landmarks = self.detect(image) if self.detect else None
            # A face whose middle lies beyond the image cannot be cropped.
            if landmarks is not None and np.abs(landmarks.mean(0) / image.size - 0.5).max() > 0.5:
                landmarks = None
            self._squares[key] = None if landmarks is None else _face_square(landmarks)
        return self._squares[key]

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.detect is None:
            return image
        square = self.find(image)
        if square is not None:
            return _crop_square(image, square)
        if self.misses == "template":
            return ffhq_crop(image, find_template(image))
        return image


def face_crop(landmarks: str, misses: str = "whole") -> FaceCrop:
    """The alignment of `01_encode` by its parameters.

    Args:
        landmarks: none, template (no detector, see `find_template`), mediapipe or dlib.
        misses: what happens to a face that mediapipe or dlib does not find; see `FaceCrop`.
    """
    return FaceCrop(load_detector(landmarks), misses)


def find_faces(faces: FaceDataset, crop: FaceCrop, num_workers: int | None = None) -> np.ndarray:
    """(N,) bool: in which images the detector of `crop` finds a face.

    Args:
        num_workers: threads; None: one per core.

    Raises:
        OSError: a face cannot be read in time.
    """

    def find(index: int) -> bool:
        return crop.find(faces[index][0]) is not None

    results = faces.map(find, num_workers)
    bar = progress(results, desc="find faces", unit=" faces", total=len(faces))
    return np.fromiter(bar, bool)
