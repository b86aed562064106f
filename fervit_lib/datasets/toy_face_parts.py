"""A toy face: a person, an expression and a pose, and its parts from the shoulders to the glasses.

All lengths are in face units: 1 is half the width of an average head. The middle of the face is
(0, 0), y points down; `side` is -1 for the left half of the picture and 1 for the right half.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from fervit_lib.datasets.action_units import express
from fervit_lib.datasets.toy_canvas import (
    CLOTHES,
    HAIRS,
    IRISES,
    SKINS,
    SUPERSAMPLE,
    circle,
    draw_colour,
    mix,
    rgb,
)

HAIR_STYLES = ("short", "fringe", "long", "curly", "bun", "bald")
COS, SIN = circle(40)
ACROSS = np.linspace(-1, 1, 13)  # from one end of an eye or a mouth to the other
ARCH = 1 - ACROSS**2  # 0 at both ends, 1 in the middle


class ToyFace:
    """Draws the face of a random person, under a random pose, onto a supersampled picture.

    A seed means the same person only while the draws keep their order, which is the same for every
    emotion. Corners are given as their x and their y.
    """

    def __init__(self, emotion: str, rng: Generator, size: int) -> None:
        self._choose_person(rng)
        self.expression = express(emotion, rng)
        # Both are drawn always; one face in four moves one side more than the other.
        asymmetry = rng.normal(0, 0.22)
        if rng.random() >= 0.25:
            asymmetry = 0.0
        self.gains = {-1: 1 - asymmetry, 1: 1 + asymmetry}  # of the expression, by side
        self.gaze = rng.normal(0, 0.025)  # how far the irises are moved to the right
        pixels = size * SUPERSAMPLE
        angles = rng.normal(0.0, (0.08, 0.12, 0.08))[:, None]  # (3, 1): roll, yaw and pitch
        self.cos = np.cos(angles)
        self.sin = np.sin(angles)
        self.unit = pixels * rng.uniform(0.355, 0.39)  # pixels per face unit
        self.centre = pixels * (np.array([0.5, 0.51]) + rng.normal(0.0, 0.016, 2))
        background = rng.uniform(110, 200) + rng.normal(0, 10, 3)
        self.image = Image.new("RGB", (pixels, pixels), rgb(background))
        self.draw = ImageDraw.Draw(self.image)

    def _choose_person(self, rng: Generator) -> None:
        """Everything that stays the same under every emotion."""
        # (3,) half width, half height, share of the width left at the jaw
        self.head = rng.uniform((0.90, 1.16, 0.70), (1.06, 1.34, 0.92))
        self.skin = draw_colour(rng, SKINS, 5).clip(0, 255)  # (3,) float RGB
        self.hair = draw_colour(rng, HAIRS, 8).clip(0, 255)
        self.iris = draw_colour(rng, IRISES, 8).clip(0, 255)
        self.clothes = draw_colour(rng, CLOTHES, 15).clip(0, 255)
        self.style = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]  # of the hair
        self.hairline = rng.uniform(-0.92, -0.74)  # y
        self.eye_x = rng.uniform(0.38, 0.46)  # half the distance between the eyes
        self.eye_y = rng.uniform(-0.20, -0.10)
        self.eye_width = rng.uniform(0.17, 0.22)  # half
        self.eye_open = rng.uniform(0.095, 0.13)  # the upper lid above the middle, face at rest
        self.brow_y = rng.uniform(-0.45, -0.38)
        self.brow_slope = rng.normal(0.0, 0.02)  # how far the outer end is above the inner end
        self.brow_thick = rng.uniform(0.05, 0.10)
        self.nose = rng.uniform((0.11, 0.40), (0.18, 0.52))  # (2,) half width, length
        self.mouth_y = rng.uniform(0.60, 0.70)
        self.mouth_width = rng.uniform(0.30, 0.38)  # half
        # Corners above the middle of the mouth at rest: some faces look slightly happy or sad.
        self.mouth_rest = rng.normal(0.0, 0.018)
        self.lip = rng.uniform(0.055, 0.10)  # thickness
        self.glasses = rng.random() < 0.10
        self.beard = rng.random() < 0.10

    def to_pixels(self, x: ArrayLike, y: ArrayLike) -> list[float]:
        """N corners in pixels of the supersampled picture: x, y, x, y, … as Pillow takes them.

        The face is a dome: its middle moves most when the head turns.
        """
        flat = np.array([x, y], dtype=float)  # (2, N)
        depth = 0.75 * np.maximum(1 - 0.8 * flat[0] ** 2 - 0.45 * flat[1] ** 2, 0)
        turned_x, turned_y = flat * self.cos[1:] + depth * self.sin[1:]
        cos = self.cos[0]
        sin = self.sin[0]
        corners = [cos * turned_x - sin * turned_y, sin * turned_x + cos * turned_y]
        return (np.transpose(corners) * self.unit + self.centre).ravel().tolist()

    def polygon(self, x: ArrayLike, y: ArrayLike, colour: ArrayLike) -> None:
        self.draw.polygon(self.to_pixels(x, y), fill=rgb(colour))

    def line(self, x: ArrayLike, y: ArrayLike, colour: ArrayLike, width: float) -> None:
        width = max(1, round(width * self.unit))
        self.draw.line(self.to_pixels(x, y), fill=rgb(colour), width=width, joint="curve")

    def band(self, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, colour: ArrayLike) -> None:
        """The area between two curves over the same x."""
        self.polygon(np.append(x, x[::-1]), np.append(upper, lower[::-1]), colour)

    def ellipse(
        self, x: float, y: float, radius_x: float, radius_y: float, colour: ArrayLike
    ) -> None:
        self.polygon(x + radius_x * COS, y + radius_y * SIN, colour)

    def draw_all(self) -> None:
        """All parts; later ones are drawn over earlier ones."""
        self.draw_head()
        for side in (-1, 1):
            self.draw_eye(side)
        self.draw_nose()
        self.draw_front_hair()
        for side in (-1, 1):
            self.draw_brow(side)
        self.draw_mouth()
        if self.glasses:
            self.draw_glasses()

    def _head_outline(self, jaw: float) -> np.ndarray:
        """(2, 40) x and y: an ellipse, narrower towards the chin, and longer as the jaw opens."""
        width, height, taper = self.head
        below = np.clip(SIN, 0, None)
        x = width * COS * (1 - (1 - taper) * below)
        return np.stack([x, height * SIN + 0.7 * jaw * below**2])

    def draw_head(self) -> None:
        """Shoulders, neck, the hair behind the head, ears, head and beard."""
        width, height, _ = self.head
        style = self.style
        skin = self.skin
        hair = self.hair
        shade = skin * 0.86
        shoulders_y = (2.6, 1.75, 1.45, 1.45, 1.75, 2.6)
        self.polygon((-1.7, -1.5, -0.5, 0.5, 1.5, 1.7), shoulders_y, self.clothes)
        if style == "long":
            x = np.array([-1.12, -1.25, 1.25, 1.12]) * width
            self.polygon(x, (-0.5, 1.5, 1.5, -0.5), hair)
        self.polygon((-0.45, -0.48, 0, 0.48, 0.45), (0.8, 1.6, 1.75, 1.6, 0.8), skin * 0.76)
        if style == "curly":
            self.ellipse(0, -0.42, 1.28 * width, 1.12, hair)
        if style == "bun":
            self.ellipse(0, -1.02 * height, 0.36, 0.32, hair * 0.9)
        if style != "bald":
            self.ellipse(0, -0.22, 1.07 * width, 0.92 * height, hair)
        for side in (-1, 1):
            self.ellipse(side * width, 0.02, 0.13, 0.22, shade)
        x, y = self._head_outline(self.expression.jaw)
        self.polygon(x, y, shade)
        self.polygon(x * 0.95, y * 0.97, skin)
        if self.beard:
            low = SIN >= -0.05
            outer_x = x[low]
            y = np.append(y[low], np.full(len(outer_x), 0.36))
            self.polygon(np.append(outer_x, 0.80 * outer_x[::-1]), y, mix(skin, hair, 0.55))

    def draw_front_hair(self) -> None:
        """The hair that hangs over the forehead."""
        style = self.style
        if style == "bald":
            return
        top = self._head_outline(0.0) * 1.06
        top = top[:, top[1] < -0.35]  # (2, n): the outline above the forehead
        top = top[:, np.argsort(top[0])]
        edge = {"fringe": -0.62, "long": self.hairline - 0.06}.get(style, self.hairline)
        right = top[0].max()
        x = np.linspace(right, top[0].min(), 15)
        hang = 0.12 if style == "fringe" else 0.32
        parting = 0.10 if style == "short" else 0.0
        y = edge + hang * np.abs(x / right) ** 4 + parting * (x / right)
        self.polygon(np.append(top[0], x), np.append(top[1], y), self.hair)

    def draw_eye(self, side: int) -> None:
        gain = self.gains[side]
        expression = self.expression
        skin = self.skin
        cheek = expression.cheek
        middle_x = side * self.eye_x
        middle_y = self.eye_y
        up = max(self.eye_open + gain * expression.upper_lid, 0.02)
        down = max(0.075 - gain * expression.lower_lid, 0.005)
        # The lids, and the iris between them, around (0, 0).
        lid_x = ACROSS * self.eye_width
        upper = -up * ARCH**0.8
        lower = down * ARCH
        x = lid_x + middle_x
        self.ellipse(middle_x, middle_y, 1.2 * self.eye_width, 0.17, skin * 0.93)  # the socket
        self.band(x, upper + middle_y, lower + middle_y, (250, 250, 248))
        for radius, colour in ((0.105, self.iris), (0.05, (14, 12, 12))):
            iris_x = self.gaze + radius * COS
            # The lids cover the iris: its outline is clipped to the curves of both.
            highest = np.interp(iris_x, lid_x, upper)
            iris_y = np.clip(radius * SIN - 0.01, highest, np.interp(iris_x, lid_x, lower))
            self.polygon(iris_x + middle_x, iris_y + middle_y, colour)
        glint_x = middle_x + self.gaze + 0.03
        self.ellipse(glint_x, middle_y - 0.3 * up, 0.022, 0.022, (255, 255, 255))
        self.line(x, upper + middle_y, skin * 0.42, 0.05)
        self.line(x, lower + middle_y, skin * 0.66, 0.025)
        if cheek > 0.25:
            bag_y = lower + 0.075 + 0.02 * ARCH + middle_y
            self.line(x, bag_y, mix(skin, skin * 0.62, min(1.0, cheek)), 0.03)
            corner = middle_x + side * (self.eye_width + 0.05)
            for rise in (-0.07, 0.02, 0.10):  # crow's feet
                foot_x = (corner, corner + side * 0.11)
                foot_y = (middle_y, middle_y + rise)
                self.line(foot_x, foot_y, mix(skin, skin * 0.55, cheek * 0.8), 0.025)

    def draw_brow(self, side: int) -> None:
        gain = self.gains[side]
        expression = self.expression
        inner_x = self.eye_x - 0.22 - gain * expression.knit
        outer_x = self.eye_x + 0.26
        inner_y = self.brow_y - gain * expression.inner_brow + 0.5 * self.brow_slope
        outer_y = self.brow_y - gain * expression.outer_brow - 0.5 * self.brow_slope + 0.04
        t = np.linspace(0, 1, 9)  # from the inner end to the outer end
        x = side * (inner_x + (outer_x - inner_x) * t)
        y = inner_y + (outer_y - inner_y) * t - 0.28 * t * (1 - t)
        half = 0.5 * self.brow_thick * (1 - 0.55 * t**2)
        self.band(x, y - half, y + half, mix(self.hair, (30, 22, 20), 0.45))

    def draw_nose(self) -> None:
        """The nose, and the creases around it: wrinkles on it, folds beside it, the furrow."""
        skin = self.skin
        eye_y = self.eye_y
        wrinkle = self.expression.wrinkle
        furrow = self.expression.furrow
        half, length = self.nose
        tip = eye_y + length - 0.05 * wrinkle
        half = half * (1 + 0.22 * wrinkle)
        ridge_x = (-0.05, 0.05, half, 0, -half)
        self.polygon(ridge_x, (eye_y, eye_y, tip, tip + 0.06, tip), skin * 0.95)
        wings_x = np.array([-1, -0.8, 0, 0.8, 1]) * half
        self.line(wings_x, tip + np.array([-0.05, 0.02, 0.06, 0.02, -0.05]), skin * 0.70, 0.04)
        if wrinkle > 0.2:
            crease = mix(skin, skin * 0.50, min(1.0, wrinkle))
            for y in (-0.10, 0.0, 0.10):
                bend_y = (eye_y + y + 0.05, eye_y + y, eye_y + y + 0.05)
                self.line((-0.11, 0, 0.11), bend_y, crease, 0.032)
            for side in (-1, 1):
                fold_x = side * (half + np.array([0.03, 0.16, 0.22]))
                self.line(fold_x, (tip - 0.10, tip + 0.04, tip + 0.2), crease, 0.035)
        if furrow > 0.2:
            crease = mix(skin, skin * 0.50, min(1.0, furrow))
            for side in (-1, 1):
                furrow_x = (side * 0.06, side * 0.05)
                self.line(furrow_x, (eye_y - 0.30, eye_y - 0.13), crease, 0.03)

    def draw_mouth(self) -> None:
        """The mouth with teeth and tongue, the chin's crease and the folds of a smile."""
        expression = self.expression
        skin = self.skin
        width = self.mouth_width + expression.width
        gains = np.interp(ACROSS, (-1, 1), (self.gains[-1], self.gains[1]))
        corner = gains * expression.corner + self.mouth_rest
        x = ACROSS * width
        sag = 0.35 * max(expression.jaw, 0.0) * (1 - ARCH)
        ends = self.mouth_y - corner * np.abs(ACROSS) ** 1.6 + sag
        inner_upper = ends - expression.upper_lip * ARCH
        # How far the lips are apart in the middle; the corners stay closed.
        gap = max(0.0, expression.lower_lip + expression.jaw + expression.upper_lip)
        inner_lower = inner_upper + gap * ARCH**0.7
        lip = self.lip * max(0.15, 1 - expression.thin)
        bow = 1 - 0.25 * np.exp(-((ACROSS / 0.18) ** 2))
        outer_upper = inner_upper - 0.8 * lip * ARCH**0.6 * bow
        outer_lower = inner_lower + lip * ARCH**0.7
        red = mix(skin * 0.88, (178, 58, 66), 0.5)
        self.band(x, outer_upper, outer_lower, red)
        if gap > 0.03:
            self.band(x, inner_upper, inner_lower, (62, 18, 22))
            teeth = np.minimum(inner_upper + min(0.09, 0.75 * gap) * ARCH**0.5, inner_lower)
            self.band(x, inner_upper, teeth, (240, 236, 228))
            if gap > 0.18:
                self.ellipse(0, inner_lower[6] - 0.05, 0.45 * width, 0.05, (176, 78, 84))
        else:
            self.line(x, inner_upper, red * 0.45, 0.035)
        chin_y = outer_lower[6] + 0.06
        self.line((-0.12, 0.12), (chin_y, chin_y), skin * 0.88, 0.03)
        if expression.corner > 0.06:  # the folds of a smile
            for side, end in ((-1, ends[0]), (1, ends[-1])):
                fold_x = np.array([0.0, 0.10, 0.10]) * side + side * (width + 0.02)
                self.line(fold_x, np.array([-0.24, -0.12, 0.02]) + end, skin * 0.78, 0.03)

    def draw_glasses(self) -> None:
        frame = (40, 38, 44)
        for side in (-1, 1):
            rim_x = side * self.eye_x + 0.31 * COS
            self.line(rim_x, self.eye_y + 0.02 + 0.25 * SIN, frame, 0.04)
        bridge = self.eye_x - 0.31
        self.line((-bridge, bridge), (self.eye_y, self.eye_y), frame, 0.04)
