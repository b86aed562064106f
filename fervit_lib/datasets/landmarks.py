"""Finders of facial landmarks: MediaPipe's face mesh, dlib, and a template for registered crops."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fervit_lib.datasets.face_mesh import DETECTOR, MESH, FaceMesh
from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import display_path, resolve

Detector = Callable[[Image.Image], np.ndarray | None]  # → landmarks (68, 2), or None

LANDMARKS = ("none", "template", "mediapipe", "dlib")
PREDICTOR = "pretrained_models/shape_predictor_68_face_landmarks.dat"
# Where the faces of FER2013 have their eyes and mouth corners: medians of what the face mesh finds
# in the train split, mirrored and averaged. Shares of width and height.
LEFT_EYE, RIGHT_EYE, MOUTH = (0.31, 0.395), (0.69, 0.395), (0.5, 0.76)
SMALL = 192  # pixels: dlib looks for faces of about 80 pixels


def load_detector(landmarks: str) -> Detector | None:
    """The detector that `landmarks` of 01_encode names; `none` has none.

    Raises:
        ValueError: no such detector, or a damaged file.
        FileNotFoundError: its files are missing.
        ImportError: dlib is not installed.
    """
    check_choice("landmarks", landmarks, LANDMARKS)
    if landmarks == "mediapipe":
        return FaceMesh(resolve(DETECTOR), resolve(MESH))
    if landmarks == "dlib":
        return dlib_detector(resolve(PREDICTOR))
    return find_template if landmarks == "template" else None


def find_template(image: Image.Image) -> np.ndarray:
    """Landmarks (68, 2) of a face that is registered as in FER2013: always in the same place.

    Only what a crop needs is placed: the eyes, and the mouth's middle; the rest is in the centre.
    """
    points = np.full((68, 2), 0.5)
    points[36:42] = LEFT_EYE
    points[42:48] = RIGHT_EYE
    points[[48, 54]] = MOUTH
    return points * image.size - 0.5  # from the centre of the first pixel


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
        raise FileNotFoundError(f"{display_path(predictor)}: no such file; run `make weights`")
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            "landmarks: dlib is not installed; run `.venv/bin/pip install dlib-bin`, or set "
            "landmarks to mediapipe"
        ) from error
    predict = dlib.shape_predictor(str(predictor))  # by its documentation for many threads
    local = threading.local()  # a face detector keeps state while it works: one per thread

    def detect(image: Image.Image) -> np.ndarray | None:
        if not hasattr(local, "find"):
            local.find = dlib.get_frontal_face_detector()
        # A small image is enlarged, and gets black margins, as its face may fill it.
        scale = max(1.0, SMALL / min(image.size))
        size = [round(length * scale) for length in image.size]
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        margin = SMALL // 4 if scale > 1 else 0
        pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)))
        # 1: search in the image at twice its size, which finds small faces in a photograph
        faces = local.find(pixels, 0 if scale > 1 else 1)
        if not faces:
            return None
        points = predict(pixels, max(faces, key=lambda face: face.area())).parts()
        places = np.array([(point.x, point.y) for point in points], float)
        return (places - margin + 0.5) / scale - 0.5  # from the centre of the first pixel

    return detect
