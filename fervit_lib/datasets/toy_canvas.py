"""What toy faces and toy people are drawn with: colours, shapes, the light of the scene."""

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageColor

# Pictures are drawn this many times larger and then averaged: Pillow's shapes have hard edges.
SUPERSAMPLE = 4

SKINS = ("#ffe0c8", "#f4ccae", "#e5b48e", "#cd9670", "#a67250", "#7a5038")
HAIRS = ("#221a18", "#462e20", "#70482a", "#b08046", "#d6b476", "#964026", "#a8a6a6")
IRISES = ("#4e3220", "#3a281e", "#547046", "#4a6e96")
CLOTHES = ("#425c80", "#864248", "#4e745e", "#605478", "#beaa82", "#3c3e46")


def draw_colour(rng: Generator, palette: tuple[str, ...], spread: float) -> np.ndarray:
    """A random colour of `palette`, (3,) float RGB, plus noise of standard deviation `spread`."""
    base = np.array(ImageColor.getrgb(palette[rng.integers(len(palette))]))
    return base + rng.normal(0, spread, 3)


def rgb(colour: ArrayLike) -> tuple[int, ...]:
    """A colour of floats as Pillow takes it."""
    return tuple(np.rint(colour).clip(0, 255).astype(int).tolist())


def mix(colour: np.ndarray, other: ArrayLike, share: float) -> np.ndarray:
    """(3,) float RGB: `share` of `other`, the rest of `colour`."""
    return (1 - share) * colour + share * np.asarray(other)


def circle(corners: int) -> np.ndarray:
    """(2, corners) x and y of points on the unit circle; the last is the first again."""
    angle = np.linspace(0, 2 * np.pi, corners)
    return np.stack([np.cos(angle), np.sin(angle)])


def shrink_and_light(image: Image.Image, rng: Generator) -> Image.Image:
    """Average a supersampled picture, then light it.

    Random are a lamp from one side, the colour of the light, contrast, brightness and pixel noise.
    """
    image = image.reduce(SUPERSAMPLE)
    size = image.width
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0.0, 0.35)
    ramp = np.linspace(-1, 1, size)
    lamp = 1 + slope * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
    pixels = np.asarray(image, dtype=np.float32) * lamp[..., None] * rng.normal(1.0, 0.03, 3)
    pixels = (pixels - 128) * rng.uniform(0.75, 1.15) + 128 + rng.normal(0, 14)
    pixels += rng.normal(0.0, rng.uniform(1.0, 6.0), (size, size, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
