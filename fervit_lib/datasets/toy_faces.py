"""Toy faces: faces drawn by code from the action units of an emotion.

They stand in for photographs where none may be downloaded, so that every step of the laboratory
really runs. An emotion is a set of action units, an action unit moves a few numbers of an
`Expression`, and a `ToyFace` is drawn from it and a random person, under a pose and a light.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.toy_canvas import shrink_and_light
from fervit_lib.datasets.toy_face_parts import ToyFace
from fervit_lib.datasets.toy_set import write_toy_set
from fervit_lib.system.names import check_choice

VERSION = 2  # of the drawing; a set drawn by another version is drawn again
# The splits of ten successive faces of one class: 70/10/20 %. The fourth face is the first of val,
# so four faces per class fill every split.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "train", "train")


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
    face = ToyFace(emotion, rng, size)
    face.draw_all()
    return shrink_and_light(face.image, rng)


def draw_toy_faces(
    folder: Path | str, num_faces: int = 3000, size: int = 64, seed: int = 0
) -> Path:
    """Draw toy faces as `{train,val,test}/{emotion}/*.png` in `folder`, and return it.

    70/10/20 % of each class go to train/val/test; class sizes differ by at most one face. The same
    arguments give the same files bit for bit, and a larger `num_faces` only adds faces. The file
    `SYNTHETIC.json` records the arguments: a folder drawn with the same ones is left unchanged;
    beside one drawn with others, the faces go to `<folder>-<8 hex digits>`.

    Raises:
        ValueError: fewer than 28 faces, so that a split would lack a class; or `folder` holds
            files that are not toy faces: a user's photographs are never overwritten.
    """
    least = 4 * len(EMOTIONS)
    if num_faces < least:
        raise ValueError(
            f"num_faces: expected at least {least}, for every class in every split, got {num_faces}"
        )

    def draw(index: int) -> dict[str, Image.Image]:
        # Classes take turns, so that more faces only add files and keep the classes equal.
        number, label = divmod(index, len(EMOTIONS))
        emotion = EMOTIONS[label]
        split = _SPLITS[number % len(_SPLITS)]
        image = toy_face(emotion, np.random.default_rng((seed, index)), size)
        return {f"{split}/{emotion}/{index:06d}.png": image}

    folders = {f"{split}/{emotion}" for split in _SPLITS for emotion in EMOTIONS}
    return write_toy_set(
        Path(folder),
        num_faces,
        draw,
        folders,
        generator="toy_faces",
        version=VERSION,
        num_faces=num_faces,
        size=size,
        seed=seed,
    )
