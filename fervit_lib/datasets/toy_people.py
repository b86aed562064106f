"""Toy people: scenes with persons drawn by code, and their exact masks.

They stand in for person photographs where none may be downloaded. A person is limbs, trunk and head in a random pose;
furniture, poles and balls in the same colours stand behind, and now and then in front, so that colour alone does not
find them. Every shape is drawn twice, into the picture and into the mask.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from fervit_lib.datasets.toy_faces import _CLOTHES, _HAIRS, _SKINS, _SUPERSAMPLE, _light, _rgb
from fervit_lib.datasets.toy_set import write_toy_set
from fervit_lib.system.progress import progress

VERSION = 1  # of the drawing: a set drawn otherwise is drawn anew
# The splits of ten successive scenes: 60/10/30%. Test is large: it is what a comparison of students rests on.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "test", "train")
_COS, _SIN = np.cos(np.linspace(0, 2 * np.pi, 32)), np.sin(np.linspace(0, 2 * np.pi, 32))


class _Scene:
    """Draws shapes in pixels of an enlarged picture, and into its mask 255 where they are a person and 0 elsewhere."""

    def __init__(self, size: int, background: np.ndarray) -> None:
        self.pixels = size * _SUPERSAMPLE
        self.image = Image.new("RGB", (self.pixels, self.pixels), _rgb(background))
        self.mask = Image.new("L", self.image.size, 0)
        self.layers = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask))

    def polygon(self, points: ArrayLike, colour: np.ndarray, person: bool) -> None:
        corners = [tuple(point) for point in np.asarray(points, dtype=float).tolist()]
        picture, mask = self.layers
        picture.polygon(corners, fill=_rgb(colour))
        mask.polygon(corners, fill=255 * person)

    def ellipse(
        self, centre: np.ndarray, radius: ArrayLike, colour: np.ndarray, person: bool
    ) -> None:
        self.polygon(centre + np.stack([_COS, _SIN], axis=1) * np.asarray(radius), colour, person)

    def limb(
        self, joints: list[np.ndarray], width: float, colour: np.ndarray, person: bool = True
    ) -> None:
        """A line through the joints with round ends."""
        for start, end in zip(joints, joints[1:], strict=False):
            along = end - start
            across = 0.5 * width * np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-6)
            self.polygon(
                [start + across, end + across, end - across, start - across], colour, person
            )
        for joint in joints:
            self.ellipse(joint, 0.5 * width, colour, person)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour that clothes, things and walls share."""
    palette = (*_CLOTHES, *_SKINS, *_HAIRS)
    return np.clip(np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 18, 3), 0, 255)


def _draw_thing(scene: _Scene, rng: np.random.Generator, height: float) -> None:
    """A box, a ball or a pole, `height` high in pixels at most."""
    middle, colour = rng.uniform(0, scene.pixels, 2), _colour(rng)
    kind = rng.integers(3)
    if kind == 0:
        half = rng.uniform(0.2, 0.5, 2) * height
        scene.polygon(
            middle + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half, colour, person=False
        )
    elif kind == 1:
        scene.ellipse(middle, rng.uniform(0.1, 0.35) * height, colour, person=False)
    else:
        tip = middle + (rng.normal(0, 0.15) * height, rng.uniform(0.4, 1.0) * height)
        scene.limb([middle, tip], rng.uniform(0.04, 0.14) * height, colour, person=False)


def _reach(start: np.ndarray, lengths: tuple[float, ...], angles: np.ndarray) -> list[np.ndarray]:
    """Joints of a limb; an angle of 0 hangs down, radians."""
    joints = [start]
    for length, angle in zip(lengths, np.cumsum(angles), strict=True):
        joints.append(joints[-1] + length * np.array([np.sin(angle), np.cos(angle)]))
    return joints


def _draw_person(scene: _Scene, rng: np.random.Generator) -> None:
    tall = scene.pixels * rng.uniform(0.5, 1.05)  # from crown to sole, standing
    hip = scene.pixels * np.array([rng.uniform(0.2, 0.8), rng.uniform(0.42, 0.68)])
    skin, hair = (np.array(p[rng.integers(len(p))]) + rng.normal(0, 8, 3) for p in (_SKINS, _HAIRS))
    shirt, trousers, shoes = _colour(rng), _colour(rng), _colour(rng)
    stout = rng.uniform(0.8, 1.35)
    lean = rng.normal(0, 0.15)
    up = np.array([np.sin(lean), -np.cos(lean)]) * tall
    right = np.array([-up[1], up[0]])
    neck = hip + 0.29 * up
    half_hip, half_chest = 0.055 * stout, 0.085 * stout
    sleeves = rng.random() < 0.5

    def arm(side: int) -> None:
        bend = np.array([side * rng.uniform(-0.1, 2.4), side * rng.uniform(-0.2, 1.6)])
        joints = _reach(neck + side * half_chest * right, (0.17 * tall, 0.16 * tall), bend)
        scene.limb(joints, 0.048 * stout * tall, skin)
        scene.limb(joints if sleeves else joints[:2], 0.056 * stout * tall, shirt)
        scene.ellipse(joints[-1], 0.03 * tall, skin, person=True)

    arm(-1)
    for side in (-1, 1):
        bend = np.array([side * rng.uniform(-0.05, 0.5), -side * rng.uniform(-0.1, 0.5)])
        joints = _reach(hip + side * 0.7 * half_hip * right, (0.24 * tall, 0.23 * tall), bend)
        scene.limb(joints, 0.068 * stout * tall, trousers)
        scene.ellipse(
            joints[-1] + (side * 0.02 * tall, 0.01 * tall),
            (0.05 * tall, 0.026 * tall),
            shoes,
            person=True,
        )
    trunk = [
        neck - half_chest * right,
        neck + half_chest * right,
        hip + half_hip * right,
        hip - half_hip * right,
    ]
    scene.polygon(trunk, shirt, person=True)
    scene.limb([hip - half_hip * right, hip + half_hip * right], 0.06 * tall, trousers)
    scene.limb([neck - half_chest * right, neck + half_chest * right], 0.05 * tall, shirt)
    arm(1)
    head = neck + 0.115 * up
    scene.limb([neck, head], 0.05 * stout * tall, skin * 0.85)
    long = rng.random() < 0.4
    scene.ellipse(
        head + (-0.02 if long else 0.03) * up,
        (0.062 * tall, (0.1 if long else 0.07) * tall),
        hair,
        True,
    )
    scene.ellipse(head, (0.052 * tall, 0.07 * tall), skin, person=True)


def toy_person(rng: np.random.Generator, size: int = 96) -> tuple[Image.Image, Image.Image]:
    """Draw a scene with one or two persons; `rng` decides everything.

    Returns:
        An RGB picture of `size` x `size` pixels, and its mask in mode L: 255 where a pixel is half a person or more,
        else 0. At least one pixel in a hundred is.
    """
    while True:
        scene = _Scene(size, _colour(rng))
        floor = rng.uniform(0.55, 0.85) * scene.pixels
        corners = np.array(
            [(0, floor), (scene.pixels, floor), (scene.pixels, scene.pixels), (0, scene.pixels)]
        )
        scene.polygon(corners, _colour(rng), person=False)
        for _ in range(rng.integers(3, 8)):
            _draw_thing(scene, rng, 0.7 * scene.pixels)
        for _ in range(1 + (rng.random() < 0.3)):
            _draw_person(scene, rng)
        if rng.random() < 0.3:
            _draw_thing(scene, rng, 0.4 * scene.pixels)
        mask = scene.mask.reduce(_SUPERSAMPLE).point(lambda value: 255 * (value >= 128))
        if np.asarray(mask).mean() >= 2.55:  # else the thing in front hides them
            return _light(scene.image.reduce(_SUPERSAMPLE), rng), mask


def draw_toy_people(
    folder: Path | str, num_scenes: int = 800, size: int = 96, seed: int = 0
) -> Path:
    """Draw toy people into `folder`, as `{train,val,test}/{images,masks}/*.png`, and return `folder`.

    60/10/30% of the scenes go to train/val/test. The same arguments give the same files bit for bit, and a larger
    `num_scenes` only adds scenes. `SYNTHETIC.json` beside the splits says how they were drawn: a folder drawn with the
    same values is left as it is, one with others is redrawn.

    Raises:
        ValueError: fewer than 10 scenes, or a folder that holds anything else.
    """
    if num_scenes < len(_SPLITS):
        raise ValueError(
            f"num_scenes: expected at least {len(_SPLITS)}, for every split, got {num_scenes}"
        )
    settings = {
        "generator": "toy_people",
        "version": VERSION,
        "num_scenes": num_scenes,
        "size": size,
        "seed": seed,
    }

    def draw() -> Iterator[tuple[str, Image.Image]]:
        for index in progress(range(num_scenes), desc="draw people", unit=" scenes"):
            image, mask = toy_person(np.random.default_rng((seed, index)), size)
            split = _SPLITS[index % len(_SPLITS)]
            yield f"{split}/images/{index:06d}.png", image
            yield f"{split}/masks/{index:06d}.png", mask

    ours = {f"{split}/{kind}" for split in _SPLITS for kind in ("images", "masks")}
    return write_toy_set(Path(folder), settings, draw(), ours)
