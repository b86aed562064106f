"""Toy faces: faces drawn by code from the action units of an emotion.

They stand in for photographs where none may be downloaded, so that every step of the laboratory
really runs. A random person is a set of measures, an emotion a set of action units, and an action
unit moves a few of the measures. The face is drawn from them, under a random pose and light.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image

from fervit_lib.datasets.action_units import (
    ACTION_UNIT_EFFECTS,
    EMOTION_ACTION_UNITS,
    EMOTIONS,
)
from fervit_lib.datasets.toy_canvas import CIRCLE, CLOTHES, HAIRS, SKINS, Canvas, draw_colour
from fervit_lib.datasets.toy_set import write_toy_set
from fervit_lib.system.names import check_choice, check_range

VERSION = 3  # of the drawing; a set drawn by another version is drawn again
# The splits of ten successive faces of one class: 70/10/20 %. The fourth face is the first of val,
# so four faces per class fill every split.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "train", "train")

# Measures of a person's face at rest, the least and the largest. In face units: 1 is half the width
# of an average head. The middle of the face is (0, 0), y points down; all widths are halves.
MEASURES = {
    "head_width": (0.90, 1.06),
    "head_height": (1.16, 1.34),
    "taper": (0.08, 0.30),  # share of the width that is missing at the chin
    "hair_width": (1.00, 1.30),
    "hair_length": (0.85, 1.60),
    "hairline": (-0.95, -0.70),
    "parting": (-0.15, 0.15),  # the hairline in the middle, down
    "inner_brow": (0.22, 0.32),  # ends of the brows above the eyes
    "outer_brow": (0.18, 0.28),
    "knit": (0, 0),  # brows drawn together, with lines between them
    "brow_thick": (0.05, 0.10),
    "eye_x": (0.38, 0.46),
    "eye_y": (-0.20, -0.10),
    "eye_width": (0.17, 0.22),
    "upper_lid": (0.095, 0.13),  # above the middle of the eye
    "lower_lid": (0.07, 0.08),  # below it
    "cheek": (0, 0),  # not 0: a line below the eye
    "nose_y": (0.24, 0.36),
    "nose_width": (0.11, 0.18),
    "wrinkle": (0, 0),  # not 0: the nose is wrinkled
    "fold": (0, 0),  # not 0: lines from the nose to the corners of the mouth
    "mouth_y": (0.60, 0.70),
    "mouth_width": (0.30, 0.38),
    "corner": (-0.04, 0.04),  # of the mouth, up: some look slightly happy or sad at rest
    "lip": (0.055, 0.10),  # thickness
    "upper_lip": (0, 0),  # up
    "lower_lip": (0, 0),  # down: the lips part, the chin stays
    "jaw": (0, 0),  # down: lower lip and chin
}
_COS, _SIN = CIRCLE.T
_ACROSS = np.linspace(-1, 1, 13)  # from one end of an eye or a mouth to the other
_ARCH = 1 - _ACROSS**2  # 0 at both ends, 1 in the middle


def draw_measures(emotion: str, rng: Generator) -> SimpleNamespace:
    """A random person's measures under an emotion; every action unit has a strength of its own."""
    measures = {name: rng.uniform(*limits) for name, limits in MEASURES.items()}
    strengths = rng.uniform(0.85, 1.65, len(ACTION_UNIT_EFFECTS))
    for strength, (unit, effects) in zip(strengths, ACTION_UNIT_EFFECTS.items(), strict=True):
        if unit in EMOTION_ACTION_UNITS[emotion]:
            for name, amount in effects.items():
                measures[name] += strength * amount
    return SimpleNamespace(**measures)


class _Face:
    """Draws the face of a random person under a random pose.

    A seed means the same person only while the draws keep their order, which is the same for every
    emotion.
    """

    def __init__(self, emotion: str, rng: Generator, size: int) -> None:
        self.measures = draw_measures(emotion, rng)
        self.skin = draw_colour(rng, SKINS)
        self.hair = draw_colour(rng, HAIRS)
        self.iris = draw_colour(rng, HAIRS)
        self.clothes = draw_colour(rng, CLOTHES)
        self.roll, self.yaw, self.pitch = rng.normal(0, (0.09, 0.13, 0.09))  # radians
        self.canvas = Canvas(size, rng.uniform(110, 200) + rng.normal(0, 10, 3))
        self.unit = self.canvas.pixels * rng.uniform(0.355, 0.39)  # pixels per face unit
        self.centre = self.canvas.pixels * rng.normal((0.5, 0.51), 0.016)
        self.draw_head()
        for side in (-1, 1):
            self.draw_eye(side)
            self.draw_creases(side)
        self.draw_nose_and_mouth()

    def to_pixels(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """(n, 2) points of the canvas. The angles are small, so that a sine is its angle."""
        x, y = np.array(x, dtype=float), np.array(y, dtype=float)
        # The face is a dome: its middle moves most when the head turns.
        depth = 0.75 * np.maximum(1 - 0.8 * x**2 - 0.45 * y**2, 0)
        x += self.yaw * depth
        y += self.pitch * depth
        turned = np.stack([x - self.roll * y, y + self.roll * x], axis=-1)
        return turned * self.unit + self.centre

    def polygon(self, x: ArrayLike, y: ArrayLike, colour: ArrayLike) -> None:
        self.canvas.polygon(self.to_pixels(x, y), colour)

    def line(self, x: ArrayLike, y: ArrayLike, colour: ArrayLike, width: float) -> None:
        self.canvas.line(self.to_pixels(x, y), colour, width * self.unit)

    def ellipse(self, x: float, y: float, width: float, height: float, colour: ArrayLike) -> None:
        self.polygon(x + width * _COS, y + height * _SIN, colour)

    def band(self, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, colour: ArrayLike) -> None:
        """The area between two curves over the same x."""
        self.polygon(np.append(x, x[::-1]), np.append(upper, lower[::-1]), colour)

    def draw_head(self) -> None:
        """Hair, shoulders, neck and head: an ellipse, narrower and, as the jaw drops, longer."""
        face = self.measures
        self.ellipse(0, face.hair_length - 1.25, face.hair_width, face.hair_length, self.hair)
        self.ellipse(0, 2.0, 1.7, 0.5, self.clothes)
        self.line((0, 0), (0.6, 1.4), self.skin * 0.76, 0.9)
        below = _SIN.clip(0)
        x = face.head_width * _COS * (1 - face.taper * below)
        y = face.head_height * _SIN + 0.7 * face.jaw * below**2
        self.polygon(x, y, self.skin * 0.86)
        self.polygon(0.95 * x, 0.97 * y, self.skin)
        top = y < face.hairline
        hairline_y = np.append(1.05 * y[top], face.hairline + face.parting)
        self.polygon(np.append(1.05 * x[top], 0), hairline_y, self.hair)

    def draw_eye(self, side: int) -> None:
        """The eye and the brow on the left (-1) or the right (1) of the picture."""
        face = self.measures
        eye_x = side * face.eye_x
        eye_y = face.eye_y
        x = eye_x + face.eye_width * _ACROSS
        upper = eye_y - face.upper_lid * _ARCH
        lower = eye_y + face.lower_lid * _ARCH
        self.band(x, upper, lower, (250, 250, 248))
        self.ellipse(eye_x, eye_y, 0.105, 0.105, self.iris)
        self.ellipse(eye_x, eye_y, 0.05, 0.05, (14, 12, 12))
        # The lids cover the iris.
        self.band(x, upper - 0.1 * _ARCH, upper, self.skin * 0.93)
        self.band(x, lower, lower + 0.1 * _ARCH, self.skin * 0.93)
        self.line(x, upper, self.skin * 0.42, 0.05)
        self.line(x, lower, self.skin * 0.66, 0.025)
        brow_x = (eye_x - side * (0.22 + face.knit), eye_x, eye_x + side * 0.26)
        inner_y = eye_y - face.inner_brow
        outer_y = eye_y - face.outer_brow
        brow_y = (inner_y, (inner_y + outer_y) / 2 - 0.07, outer_y)
        self.line(brow_x, brow_y, self.hair * 0.6, face.brow_thick)

    def draw_creases(self, side: int) -> None:
        """The lines that action units draw into the skin of one side."""
        face = self.measures
        eye_y = face.eye_y
        fold_x = (face.nose_width + 0.08, face.mouth_width + 0.10)
        # Whether a line is seen, and its x and y at both ends.
        creases = [
            (face.knit, (0.06, 0.05), (eye_y - 0.30, eye_y - 0.13)),
            (face.cheek, (0.25, 0.62), (eye_y + 0.17, eye_y + 0.10)),
            (face.wrinkle, (0.0, 0.11), (eye_y - 0.05, eye_y)),
            (face.wrinkle, (0.0, 0.11), (eye_y + 0.05, eye_y + 0.10)),
            (face.fold, fold_x, (face.nose_y - 0.05, face.mouth_y - 0.25)),
        ]
        for seen, x, y in creases:
            if seen:
                self.line(side * np.array(x), y, self.skin * 0.55, 0.03)

    def draw_nose_and_mouth(self) -> None:
        face = self.measures
        nose_x = face.nose_width * _ACROSS
        nose_y = face.nose_y + 0.08 * _ARCH
        self.line(nose_x, nose_y, self.skin * 0.70, 0.04)
        x = face.mouth_width * _ACROSS
        ends = 0.35 * face.jaw - face.corner  # down
        upper = face.mouth_y + ends * (1 - _ARCH) - face.upper_lip * _ARCH
        # How far the lips are apart in the middle; the corners stay closed.
        gap = face.lower_lip + face.jaw + face.upper_lip
        lower = upper + gap * _ARCH
        lip = face.lip * _ARCH
        red = 0.45 * self.skin + (89, 29, 33)
        self.band(x, upper - 0.8 * lip, lower + lip, red)
        self.band(x, upper, lower, (62, 18, 22))
        self.band(x, upper, upper + 0.5 * gap * _ARCH, (240, 236, 228))  # teeth
        self.line(x, upper, red * 0.45, 0.035)


def toy_face(emotion: str, rng: Generator, size: int = 64) -> Image.Image:
    """Draw one face.

    Args:
        emotion: one of `EMOTIONS`.
        rng: decides everything else: identity, pose, light, intensity. The random draws are the
            same for every emotion, so generators in the same state draw one person in one pose.
        size: side in pixels.

    Returns:
        An RGB image of `size` x `size` pixels.

    Raises:
        ValueError: unknown emotion.
    """
    check_choice("emotion", emotion, EMOTIONS)
    return _Face(emotion, rng, size).canvas.photograph(rng)


def draw_toy_faces(folder: Path | str, num_faces: int, size: int = 64, seed: int = 0) -> Path:
    """Draw toy faces as `{train,val,test}/{emotion}/*.png` in `folder`, and return it.

    70/10/20 % of each class go to train/val/test; class sizes differ by at most one face. The same
    arguments give the same files bit for bit, and a larger `num_faces` only adds faces. The file
    `SYNTHETIC.json` records the arguments: a folder drawn with the same ones is left unchanged;
    beside one drawn with others, the faces go to `<folder>-<8 hex digits>`.

    Raises:
        ValueError: fewer than 28 faces, so that a split would lack a class; or `folder` holds
            files that are not toy faces: a user's photographs are never overwritten.
    """
    check_range("num_faces", num_faces, 4 * len(EMOTIONS))

    def draw(index: int) -> dict[str, Image.Image]:
        # Classes take turns, so that more faces only add files and keep the classes equal.
        number, label = divmod(index, len(EMOTIONS))
        emotion = EMOTIONS[label]
        split = _SPLITS[number % len(_SPLITS)]
        image = toy_face(emotion, np.random.default_rng((seed, index)), size)
        return {f"{split}/{emotion}/{index:06d}.png": image}

    return write_toy_set(
        Path(folder),
        num_faces,
        draw,
        generator="toy_faces",
        version=VERSION,
        num_faces=num_faces,
        size=size,
        seed=seed,
    )
