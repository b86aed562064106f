"""Landmarks by MediaPipe's face detector (BlazeFace) and face mesh, run by LiteRT.

The detector finds faces and six points of each; the mesh places 468 points on one face, from a
square that is turned so that the eyes are level. `make weights` puts both model files in place.

Sources: BlazeFace (Bazarevsky et al. 2019); Real-time Facial Surface Geometry (Kartynnik et al.
2019).
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import expit

from fervit_lib.system.tflite import TFLiteModel

DETECTOR_SIDE = 128  # pixels
MESH_SIDE = 192
# (cells per side, anchors per cell) of the detector's output: 512 + 384 = 896 anchors.
GRIDS = ((16, 2), (8, 6))
IS_PLACE = np.arange(8) != 1  # of the rows of a face; row 1 is its size
# The detector misses faces that fill the image: it sees the image within black margins, first
# narrow, then wide. Shares of the longer side on each side.
MARGINS = (0.25, 0.5)
MESH_SCALE = 1.5  # side of the mesh's square by the longer side of the face

# The points of the mesh that stand for the 68 of iBUG 300-W. The mesh follows the visible outline
# of the jaw less closely than dlib; the eyes and mouth corners, which a crop needs, are the same.
MESH_TO_68 = np.fromstring(
    "162 234 93 58 172 136 149 148 152 377 378 365 397 288 323 454 389 "  # jaw
    "71 63 105 66 107 336 296 334 293 301 "  # brows
    "168 197 5 4 75 97 2 326 305 "  # nose
    "33 160 158 133 153 144 362 385 387 263 373 380 "  # eyes, the left in the image first
    "61 39 37 0 267 269 291 405 314 17 84 181 "  # outer lips, from the left corner
    "78 82 13 312 308 317 14 87",  # inner lips
    dtype=int,
    sep=" ",
)


def anchors() -> np.ndarray:
    """(896, 2) x and y of the detector's anchors, as shares of its input's side."""
    centres = []
    for cells, per_cell in GRIDS:
        y, x = np.divmod(np.arange(cells**2), cells)
        centres.append(np.repeat((np.stack([x, y], 1) + 0.5) / cells, per_cell, axis=0))
    return np.concatenate(centres)


def decode_faces(regressors: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The faces in the detector's output, before overlapping ones are merged.

    Args:
        regressors: (896, 16) pixels of the input, relative to the anchors: centre, width and
            height, then the points eye, eye, nose, mouth, ear, ear, left in the image first.
        logits: (896,) or (896, 1).

    Returns:
        faces: (F, 8, 2) centre, size and six points as shares of the input's side.
        scores: (F,) above 0.5.
    """
    scores = expit(logits.ravel())
    likely = scores > 0.5
    faces = regressors[likely].reshape(-1, 8, 2) / DETECTOR_SIDE
    faces[:, IS_PLACE] += anchors()[likely, None]
    return faces, scores[likely]


def merge_overlapping(faces: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Weighted non-maximum suppression: detections that overlap become their mean by score.

    Those that share more than 0.3 of their union with the best one are the same face.

    Args:
        faces: (F, 8, 2), see `decode_faces`; any unit.
        scores: (F,)

    Returns:
        (M, 8, 2), by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    faces, scores = faces[order], scores[order]
    merged = []
    while len(faces):
        low, high = faces[:, 0] - faces[:, 1] / 2, faces[:, 0] + faces[:, 1] / 2
        sides = np.minimum(high[0], high) - np.maximum(low[0], low)
        shared = np.clip(sides, 0, None).prod(1)
        area = faces[:, 1].prod(1)
        group = shared > 0.3 * (area[0] + area - shared)
        group[0] = True  # also where it has no area
        merged.append(np.average(faces[group], axis=0, weights=scores[group]))
        faces, scores = faces[~group], scores[~group]
    return np.array(merged).reshape(-1, 8, 2)


class FaceMesh:
    """The 68 landmarks of the largest face in an image, None where none is found.

    Faces of 48×48 pixels are found as well as those of photographs: what a network reads is scaled
    to its input size. Several threads may call it.

    Args:
        detector: file of BlazeFace for near faces: 128×128 RGB → 896 anchors.
        mesh: file of the face mesh: 192×192 RGB → 468 points and the logit of a face.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file is not such a model.
    """

    def __init__(self, detector: Path, mesh: Path) -> None:
        self._detect = TFLiteModel(detector, (DETECTOR_SIDE, DETECTOR_SIDE, 3))
        self._place = TFLiteModel(mesh, (MESH_SIDE, MESH_SIDE, 3))

    def __call__(self, image: Image.Image) -> np.ndarray | None:
        """(68, 2) x and y in pixels, in the order of iBUG 300-W."""
        image = image.convert("RGB")
        for margin in MARGINS:
            faces = self.find_faces(image, margin)
            if len(faces):
                points = self.place_points(image, max(faces, key=lambda face: face[1].prod()))
                if points is not None:
                    return points[MESH_TO_68]
        return None

    def find_faces(self, image: Image.Image, margin: float) -> np.ndarray:
        """The faces of an RGB image within black margins: (F, 8, 2) pixels, see `decode_faces`."""
        scale = DETECTOR_SIDE / (max(image.size) * (1 + 2 * margin))
        size = np.maximum(1, np.rint(np.array(image.size) * scale)).astype(int)
        start = (DETECTOR_SIDE - size) // 2
        canvas = Image.new("RGB", (DETECTOR_SIDE, DETECTOR_SIDE))
        canvas.paste(image.resize(size.tolist(), Image.Resampling.BICUBIC), tuple(start.tolist()))
        regressors, logits = self._detect(np.asarray(canvas, np.float32) / 127.5 - 1)
        faces = merge_overlapping(*decode_faces(regressors, logits)) * DETECTOR_SIDE
        faces[:, IS_PLACE] -= start
        return faces / scale

    def place_points(self, image: Image.Image, face: np.ndarray) -> np.ndarray | None:
        """(468, 2) pixels of the mesh on a face (8, 2) of `find_faces`, None if it sees no face."""
        # Sampling would skip pixels of a large image: it is reduced first.
        reduction = max(1, int(face[1].max() * MESH_SCALE / MESH_SIDE))
        to_image = square_to_image(face / reduction)
        crop = image.reduce(reduction).transform(
            (MESH_SIDE, MESH_SIDE),
            Image.Transform.AFFINE,
            tuple(to_image.ravel()),
            Image.Resampling.BICUBIC,
        )
        points, logit = self._place(np.asarray(crop, np.float32) / 255)
        if logit.item() < 0:  # a probability below 0.5
            return None
        # The mesh counts from the centre of the first pixel, as dlib does; Pillow from its corner.
        points = points.reshape(468, 3)[:, :2] + 0.5
        return (points @ to_image[:, :2].T + to_image[:, 2]) * reduction - 0.5


def square_to_image(face: np.ndarray) -> np.ndarray:
    """(2, 3) affine map from pixels of the mesh's input to those of an image.

    The square is 1.5 times as large as the face, (8, 2) of `FaceMesh.find_faces`, and turned so
    that its eyes are level.
    """
    centre, size, left, right = face[:4]
    x, y = (right - left) / np.hypot(*(right - left)) * size.max() * MESH_SCALE / MESH_SIDE
    turn = np.array([[x, -y], [y, x]])
    return np.column_stack([turn, centre - turn.sum(1) * MESH_SIDE / 2])
