"""Toy people: scenes with persons drawn by code, and their exact masks.

They stand in for photographs of persons where none may be downloaded. A person is limbs, trunk and
head in a random pose. Bars and balls of the same colours lie behind the persons and sometimes in
front, so that colour alone does not find a person. The mask of the persons is the picture's alpha.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from fervit_lib.datasets.toy_canvas import CLOTHES, HAIRS, SKINS, SUPERSAMPLE, Canvas, draw_colour
from fervit_lib.datasets.toy_set import write_toy_set
from fervit_lib.system.names import check_range

VERSION = 2  # of the drawing; a set drawn by another version is drawn again
# The splits of ten successive scenes: 60/10/30 %. Test is large: students are compared on it.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "test", "train")
# For clothes, things and walls: the same for all, so that colour tells nothing.
_COLOURS = CLOTHES + SKINS + HAIRS


def _draw_thing(canvas: Canvas, rng: Generator, length: float) -> None:
    """A ball, or a bar that may be as thin as an arm or as thick as a cupboard."""
    canvas.alpha = 0
    start = rng.uniform(0, canvas.pixels, 2)
    colour = draw_colour(rng, _COLOURS)
    if rng.random() < 0.3:
        canvas.ellipse(start, rng.uniform(0.1, 0.35) * length, colour)
    else:
        end = start + rng.normal(0, 0.5, 2) * length
        canvas.line([start, end], colour, rng.uniform(0.04, 0.6) * length)


def _limb(start: np.ndarray, length: float, angles: np.ndarray) -> np.ndarray:
    """(3, 2) joints of two segments; angles in radians from the segment before, 0 hangs down."""
    angles = np.cumsum(angles)
    steps = length * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return np.cumsum([start, *steps], axis=0)


def _draw_person(canvas: Canvas, rng: Generator) -> None:
    """One person, from back to front. A seed means the same as long as the draws keep order."""
    canvas.alpha = 255
    tall = canvas.pixels * rng.uniform(0.5, 1.05)  # from crown to sole, standing
    stout = tall * rng.uniform(0.8, 1.35)  # how wide the parts are
    hip = canvas.pixels * rng.uniform((0.2, 0.42), (0.8, 0.68))
    neck = hip + 0.29 * tall * np.array([rng.normal(0, 0.15), -1])
    skin = draw_colour(rng, SKINS)
    shirt = draw_colour(rng, _COLOURS)
    trousers = draw_colour(rng, _COLOURS)
    canvas.line([neck, hip], shirt, 0.16 * stout)
    for side in (-1, 1):
        arm_angles = side * rng.uniform((-0.1, -0.2), (2.4, 1.6))
        arm = _limb(neck + (side * 0.08 * stout, 0), 0.165 * tall, arm_angles)
        canvas.line(arm, skin, 0.048 * stout)
        canvas.line(arm[:2], shirt, 0.056 * stout)
        leg_angles = side * rng.uniform((-0.05, -0.5), (0.5, 0.1))
        leg = _limb(hip + (side * 0.04 * stout, 0), 0.24 * tall, leg_angles)
        canvas.line(leg, trousers, 0.075 * stout)
    head = neck - (0, 0.14 * tall)
    canvas.line([neck, head], skin * 0.85, 0.05 * stout)
    canvas.ellipse(head - (0, 0.02 * tall), (0.06 * tall, 0.08 * tall), draw_colour(rng, HAIRS))
    canvas.ellipse(head, (0.05 * tall, 0.07 * tall), skin)


def toy_person(rng: Generator, size: int) -> tuple[Image.Image, Image.Image]:
    """Draw a scene with one or two persons; `rng` decides everything.

    Returns:
        An RGB picture of `size` x `size` pixels, and its mask in mode L: 255 where at least half of
        a pixel is a person, else 0. At least one pixel in a hundred is a person.
    """
    while True:
        canvas = Canvas(size, draw_colour(rng, _COLOURS))
        for _ in range(rng.integers(4, 9)):
            _draw_thing(canvas, rng, 0.7 * canvas.pixels)
        for _ in range(2 if rng.random() < 0.3 else 1):
            _draw_person(canvas, rng)
        if rng.random() < 0.3:
            _draw_thing(canvas, rng, 0.3 * canvas.pixels)
        mask = canvas.image.getchannel("A").reduce(SUPERSAMPLE)
        mask = mask.point(lambda value: 255 if value >= 128 else 0)
        # A thing in front may hide the persons: then the scene is drawn again.
        if np.asarray(mask).mean() >= 2.55:
            return canvas.photograph(rng), mask


def draw_toy_people(folder: Path | str, num_scenes: int, size: int = 96, seed: int = 0) -> Path:
    """Draw toy people as `{train,val,test}/{images,masks}/*.png` in `folder`, and return it.

    60/10/30 % of the scenes go to train/val/test. The same arguments give the same files bit for
    bit, and a larger `num_scenes` only adds scenes. The file `SYNTHETIC.json` records the
    arguments: see `draw_toy_faces`.

    Raises:
        ValueError: fewer than 10 scenes, so that a split would be empty; or `folder` holds files
            that are not toy people.
    """
    check_range("num_scenes", num_scenes, len(_SPLITS))

    def draw(index: int) -> dict[str, Image.Image]:
        image, mask = toy_person(np.random.default_rng((seed, index)), size)
        split = _SPLITS[index % len(_SPLITS)]
        return {f"{split}/images/{index:06d}.png": image, f"{split}/masks/{index:06d}.png": mask}

    return write_toy_set(
        Path(folder),
        num_scenes,
        draw,
        generator="toy_people",
        version=VERSION,
        num_scenes=num_scenes,
        size=size,
        seed=seed,
    )
