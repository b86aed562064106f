"""What toy faces and toy people are drawn with: colours, shapes, the light of the scene."""

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageColor, ImageDraw

# Pictures are drawn this many times larger and then averaged: Pillow's shapes have hard edges.
SUPERSAMPLE = 4

SKINS = ("#ffe0c8", "#f4ccae", "#e5b48e", "#cd9670", "#a67250", "#7a5038")
HAIRS = ("#221a18", "#462e20", "#70482a", "#b08046", "#d6b476", "#964026", "#a8a6a6")
CLOTHES = ("#425c80", "#864248", "#4e745e", "#605478", "#beaa82", "#3c3e46")

_ANGLES = np.linspace(0, 2 * np.pi, 33)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # (33, 2) x and y, y points down


def draw_colour(rng: Generator, palette: tuple[str, ...]) -> np.ndarray:
    """A random colour of `palette` with a little noise, (3,) float RGB in [0, 255]."""
    base = ImageColor.getrgb(palette[rng.integers(len(palette))])
    return (base + rng.normal(0, 8, 3)).clip(0, 255)


class Canvas:
    """Draws shapes in pixels of a supersampled picture; points are (n, 2) x and y.

    Attributes:
        alpha: of the shapes that are drawn next.
    """

    def __init__(self, size: int, background: np.ndarray) -> None:
        self.pixels = size * SUPERSAMPLE
        self.alpha = 0
        self.image = Image.new("RGBA", (self.pixels, self.pixels), self._fill(background))
        self._draw = ImageDraw.Draw(self.image)

    def _fill(self, colour: ArrayLike) -> tuple[int, ...]:
        return (*np.rint(colour).clip(0, 255).astype(int).tolist(), self.alpha)

    def polygon(self, points: ArrayLike, colour: ArrayLike) -> None:
        self._draw.polygon(np.ravel(points).tolist(), fill=self._fill(colour))

    def ellipse(self, centre: np.ndarray, radius: ArrayLike, colour: ArrayLike) -> None:
        self.polygon(centre + CIRCLE * np.asarray(radius), colour)

    def line(self, points: ArrayLike, colour: ArrayLike, width: float) -> None:
        """A line with round ends."""
        corners = np.ravel(points).tolist()
        fill = self._fill(colour)
        self._draw.line(corners, fill=fill, width=max(1, round(width)), joint="curve")
        for end in (corners[:2], corners[-2:]):
            self._draw.circle(end, width / 2, fill=fill)

    def photograph(self, rng: Generator) -> Image.Image:
        """The picture in its size, under a random light, with random contrast and noise."""
        pixels = np.asarray(self.image.convert("RGB").reduce(SUPERSAMPLE), dtype=np.float32)
        size = len(pixels)
        ramp = np.linspace(-1, 1, size)[:, None]  # (S, 1)
        right, down = rng.normal(0, 0.13, 2)  # where the lamp is
        pixels = pixels * (1 + right * ramp + down * ramp[:, None])
        pixels *= rng.normal(1.0, 0.03, 3)  # the colour of the light
        pixels = (pixels - 128) * rng.uniform(0.75, 1.15) + 128 + rng.normal(0, 14)
        pixels += rng.normal(0.0, rng.uniform(1.0, 6.0), (size, size, 1))
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
