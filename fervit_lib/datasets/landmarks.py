"""Finders of facial landmarks: MediaPipe's face mesh, dlib, and a template for registered crops."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fervit_lib.datasets.face_mesh import FaceMesh
from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import display_path, resolve

Detector = Callable[[Image.Image], np.ndarray | None]  # → landmarks (68, 2), or None

SMALL, MARGIN = 192, 48  # pixels: dlib looks for faces of at least about 80 pixels


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
    points[36:42] = 0.31, 0.395  # shares of width and height
    points[42:48] = 0.69, 0.395
    points[[48, 54]] = 0.5, 0.76
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
