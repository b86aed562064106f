"""Toy people: scenes with persons drawn by code, and their exact masks.

They stand in for photographs of persons where none may be downloaded. A person is limbs, trunk and
head in a random pose. Furniture, poles and balls of the same colours stand behind the persons and
sometimes in front, so that colour alone does not find a person. The mask of the
persons is the picture's alpha.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from fervit_lib.datasets.toy_canvas import (
    CLOTHES,
    HAIRS,
    SKINS,
    SUPERSAMPLE,
    circle,
    draw_colour,
    rgb,
    shrink_and_light,
)
from fervit_lib.datasets.toy_set import write_toy_set

VERSION = 1  # of the drawing; a set drawn by another version is drawn again
# The splits of ten successive scenes: 60/10/30 %. Test is large: students are compared on it.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "test", "train")
_CIRCLE = circle(32).T
_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])


class _Scene:
    """Draws shapes in pixels of a supersampled picture, whose alpha is 255 on a person, else 0.

    Attributes:
        alpha: of the shapes that are drawn next.
    """

    def __init__(self, size: int, background: np.ndarray) -> None:
        self.pixels = size * SUPERSAMPLE
        self.image = Image.new("RGBA", (self.pixels, self.pixels), (*rgb(background), 0))
        self._draw = ImageDraw.Draw(self.image)
        self.alpha = 0

    def polygon(self, points: ArrayLike, colour: np.ndarray) -> None:
        corners = np.asarray(points, dtype=float).ravel().tolist()
        self._draw.polygon(corners, fill=(*rgb(colour), self.alpha))

    def ellipse(self, centre: np.ndarray, radius: ArrayLike, colour: np.ndarray) -> None:
        self.polygon(centre + _CIRCLE * np.asarray(radius), colour)

    def limb(self, joints: list[np.ndarray], width: float, colour: np.ndarray) -> None:
        """A thick line through the joints with round ends."""
        for start, end in zip(joints, joints[1:], strict=False):
            along = end - start
            # At right angles to the segment; equal joints would divide by zero.
            across = 0.5 * width * np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-6)
            corners = [start + across, end + across, end - across, start - across]
            self.polygon(corners, colour)
        for joint in joints:
            self.ellipse(joint, 0.5 * width, colour)


def _random_colour(rng: Generator) -> np.ndarray:
    """A colour for clothes, things and walls: the same for all, so that colour tells nothing."""
    return draw_colour(rng, CLOTHES + SKINS + HAIRS, 18).clip(0, 255)


def _draw_thing(scene: _Scene, rng: Generator, height: float) -> None:
    """A box, a ball or a pole, at most `height` pixels high."""
    scene.alpha = 0
    middle = rng.uniform(0, scene.pixels, 2)
    colour = _random_colour(rng)
    kind = ("box", "ball", "pole")[rng.integers(3)]
    if kind == "box":
        half = rng.uniform(0.2, 0.5, 2) * height
        scene.polygon(middle + _SQUARE * half, colour)
    elif kind == "ball":
        scene.ellipse(middle, rng.uniform(0.1, 0.35) * height, colour)
    else:
        tip = middle + (rng.normal(0, 0.15) * height, rng.uniform(0.4, 1.0) * height)
        scene.limb([middle, tip], rng.uniform(0.04, 0.14) * height, colour)


def _joints(start: np.ndarray, lengths: tuple[float, ...], angles: list[float]) -> list[np.ndarray]:
    """Joints of a limb. Each angle is in radians from the segment before it; 0 hangs down."""
    joints = [start]
    for length, angle in zip(lengths, np.cumsum(angles), strict=True):
        joints.append(joints[-1] + length * np.array([np.sin(angle), np.cos(angle)]))
    return joints


def _draw_person(scene: _Scene, rng: Generator) -> None:
    """One person, from back to front. A seed means the same as long as the draws keep order."""
    scene.alpha = 255
    tall = scene.pixels * rng.uniform(0.5, 1.05)  # from crown to sole, standing
    hip = scene.pixels * np.array([rng.uniform(0.2, 0.8), rng.uniform(0.42, 0.68)])
    skin = draw_colour(rng, SKINS, 8)
    hair = draw_colour(rng, HAIRS, 8)
    shirt = _random_colour(rng)
    trousers = _random_colour(rng)
    shoes = _random_colour(rng)
    stout = rng.uniform(0.8, 1.35)
    lean = rng.normal(0, 0.15)  # radians
    # Axes of the trunk as long as the person is tall; y points down.
    up = np.array([np.sin(lean), -np.cos(lean)]) * tall
    right = np.array([-up[1], up[0]])
    neck = hip + 0.29 * up
    half_hip = 0.055 * stout * right
    half_chest = 0.085 * stout * right
    long_sleeves = rng.random() < 0.5

    def draw_arm(side: int) -> None:
        angles = [side * rng.uniform(-0.1, 2.4), side * rng.uniform(-0.2, 1.6)]
        joints = _joints(neck + side * half_chest, (0.17 * tall, 0.16 * tall), angles)
        scene.limb(joints, 0.048 * stout * tall, skin)
        scene.limb(joints if long_sleeves else joints[:2], 0.056 * stout * tall, shirt)
        scene.ellipse(joints[-1], 0.03 * tall, skin)

    draw_arm(-1)  # behind the trunk, the other one in front of it
    for side in (-1, 1):
        angles = [side * rng.uniform(-0.05, 0.5), -side * rng.uniform(-0.1, 0.5)]
        joints = _joints(hip + side * 0.7 * half_hip, (0.24 * tall, 0.23 * tall), angles)
        scene.limb(joints, 0.068 * stout * tall, trousers)
        sole = joints[-1] + (side * 0.02 * tall, 0.01 * tall)
        scene.ellipse(sole, (0.05 * tall, 0.026 * tall), shoes)
    scene.polygon([neck - half_chest, neck + half_chest, hip + half_hip, hip - half_hip], shirt)
    scene.limb([hip - half_hip, hip + half_hip], 0.06 * tall, trousers)
    scene.limb([neck - half_chest, neck + half_chest], 0.05 * tall, shirt)
    draw_arm(1)
    head = neck + 0.115 * up
    scene.limb([neck, head], 0.05 * stout * tall, skin * 0.85)
    if rng.random() < 0.4:  # long hair
        scene.ellipse(head - 0.02 * up, (0.062 * tall, 0.1 * tall), hair)
    else:
        scene.ellipse(head + 0.03 * up, (0.062 * tall, 0.07 * tall), hair)
    scene.ellipse(head, (0.052 * tall, 0.07 * tall), skin)


def toy_person(rng: Generator, size: int = 96) -> tuple[Image.Image, Image.Image]:
    """Draw a scene with one or two persons; `rng` decides everything.

    Returns:
        An RGB picture of `size` x `size` pixels, and its mask in mode L: 255 where at least half of
        a pixel is a person, else 0. At least one pixel in a hundred is a person.
    """
    while True:
        scene = _Scene(size, _random_colour(rng))
        side = scene.pixels
        floor = rng.uniform(0.55, 0.85) * side
        corners = [(0, floor), (side, floor), (side, side), (0, side)]
        scene.polygon(corners, _random_colour(rng))
        for _ in range(rng.integers(3, 8)):
            _draw_thing(scene, rng, 0.7 * side)
        num_persons = 2 if rng.random() < 0.3 else 1
        for _ in range(num_persons):
            _draw_person(scene, rng)
        if rng.random() < 0.3:
            _draw_thing(scene, rng, 0.4 * side)
        mask = scene.image.getchannel("A").reduce(SUPERSAMPLE)
        mask = mask.point(lambda value: 255 if value >= 128 else 0)
        # A thing in front may hide the persons: then the scene is drawn again.
        if np.asarray(mask).mean() >= 2.55:
            return shrink_and_light(scene.image.convert("RGB"), rng), mask


def draw_toy_people(
    folder: Path | str, num_scenes: int = 800, size: int = 96, seed: int = 0
) -> Path:
    """Draw toy people as `{train,val,test}/{images,masks}/*.png` in `folder`, and return it.

    60/10/30 % of the scenes go to train/val/test. The same arguments give the same files bit for
    bit, and a larger `num_scenes` only adds scenes. The file `SYNTHETIC.json` records the
    arguments: see `draw_toy_faces`.

    Raises:
        ValueError: fewer than 10 scenes, so that a split would be empty; or `folder` holds files
            that are not toy people.
    """
    if num_scenes < len(_SPLITS):
        raise ValueError(
            f"num_scenes: expected at least {len(_SPLITS)}, for every split, got {num_scenes}"
        )

    def draw(index: int) -> dict[str, Image.Image]:
        image, mask = toy_person(np.random.default_rng((seed, index)), size)
        split = _SPLITS[index % len(_SPLITS)]
        return {f"{split}/images/{index:06d}.png": image, f"{split}/masks/{index:06d}.png": mask}

    folders = {f"{split}/{kind}" for split in _SPLITS for kind in ("images", "masks")}
    return write_toy_set(
        Path(folder),
        num_scenes,
        draw,
        folders,
        generator="toy_people",
        version=VERSION,
        num_scenes=num_scenes,
        size=size,
        seed=seed,
    )
