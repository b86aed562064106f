"""The parts of a toy face, drawn on a canvas that knows the pose: head, eyes, brows, nose, mouth.

All lengths are in face units: 1 is half the width of an average head. The middle of the face is
(0, 0), y points down; `side` is -1 for the left half of the picture and 1 for the right half.
"""

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from fervit_lib.datasets.action_units import Expression
from fervit_lib.datasets.toy_canvas import SUPERSAMPLE, band, circle, mix, points, rgb
from fervit_lib.datasets.toy_identity import Identity

CIRCLE = circle(40)
COS, SIN = CIRCLE.T
ACROSS = np.linspace(-1, 1, 13)  # from one end of an eye or a mouth to the other
ARCH = 1 - ACROSS**2  # 0 at both ends, 1 in the middle


class FaceCanvas:
    """Draws shapes given in face units, under a random pose, onto a supersampled picture."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        pixels = size * SUPERSAMPLE
        self.roll = rng.normal(0.0, 0.08)  # radians, as yaw and pitch
        self.yaw = rng.normal(0.0, 0.12)
        self.pitch = rng.normal(0.0, 0.08)
        self.unit = pixels * rng.uniform(0.355, 0.39)  # pixels per face unit
        self.centre = pixels * (np.array([0.5, 0.51]) + rng.normal(0.0, 0.016, 2))
        background = rng.uniform(110, 200) + rng.normal(0, 10, 3)
        self.image = Image.new("RGB", (pixels, pixels), rgb(background))
        self.draw = ImageDraw.Draw(self.image)

    def to_pixels(self, corners: ArrayLike) -> list[tuple[float, ...]]:
        """Face units (N, 2) → N points in pixels of the supersampled picture.

        The face is a dome: its middle moves most when the head turns.
        """
        x, y = np.asarray(corners, dtype=float).T
        depth = 0.75 * np.clip(1 - 0.8 * x**2 - 0.45 * y**2, 0, None)
        x = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        y = y * np.cos(self.pitch) + depth * np.sin(self.pitch)
        cos = np.cos(self.roll)
        sin = np.sin(self.roll)
        turned = points(cos * x - sin * y, sin * x + cos * y) * self.unit + self.centre
        return [tuple(point) for point in turned.tolist()]

    def polygon(self, corners: ArrayLike, colour: ArrayLike) -> None:
        self.draw.polygon(self.to_pixels(corners), fill=rgb(colour))

    def line(self, corners: ArrayLike, colour: ArrayLike, width: float) -> None:
        width = max(1, round(width * self.unit))
        self.draw.line(self.to_pixels(corners), fill=rgb(colour), width=width, joint="curve")

    def ellipse(
        self, x: float, y: float, radius_x: float, radius_y: float, colour: ArrayLike
    ) -> None:
        self.polygon(points(x + radius_x * COS, y + radius_y * SIN), colour)


def _head_outline(identity: Identity, jaw: float) -> np.ndarray:
    """(40, 2): an ellipse that narrows towards the chin and grows downwards as the jaw opens."""
    width, height, taper = identity.head
    below = np.clip(SIN, 0, None)
    x = width * COS * (1 - (1 - taper) * below)
    return points(x, height * SIN + 0.7 * jaw * below**2)


def draw_head(canvas: FaceCanvas, identity: Identity, expression: Expression) -> None:
    """Shoulders, neck, the hair behind the head, ears, head and beard."""
    width, height, _ = identity.head
    skin = identity.skin
    shade = skin * 0.86
    shoulders = [(-1.7, 2.6), (-1.5, 1.75), (-0.5, 1.45), (0.5, 1.45), (1.5, 1.75), (1.7, 2.6)]
    canvas.polygon(shoulders, identity.clothes)
    if identity.style == "long":
        x = np.array([-1.12, -1.25, 1.25, 1.12]) * width
        canvas.polygon(points(x, (-0.5, 1.5, 1.5, -0.5)), identity.hair)
    neck = [(-0.45, 0.8), (-0.48, 1.6), (0, 1.75), (0.48, 1.6), (0.45, 0.8)]
    canvas.polygon(neck, skin * 0.76)
    if identity.style == "curly":
        canvas.ellipse(0, -0.42, 1.28 * width, 1.12, identity.hair)
    if identity.style == "bun":
        canvas.ellipse(0, -1.02 * height, 0.36, 0.32, identity.hair * 0.9)
    if identity.style != "bald":
        canvas.ellipse(0, -0.22, 1.07 * width, 0.92 * height, identity.hair)
    for side in (-1, 1):
        canvas.ellipse(side * width, 0.02, 0.13, 0.22, shade)
    outline = _head_outline(identity, expression.jaw)
    canvas.polygon(outline, shade)
    canvas.polygon(outline * (0.95, 0.97), skin)
    if identity.beard:
        low = outline[SIN >= -0.05]
        inner = low[::-1] * (0.80, 0.0) + (0, 0.36)
        canvas.polygon(np.concatenate([low, inner]), mix(skin, identity.hair, 0.55))


def draw_front_hair(canvas: FaceCanvas, identity: Identity) -> None:
    """The hair that hangs over the forehead."""
    style = identity.style
    if style == "bald":
        return
    top = _head_outline(identity, 0.0) * 1.06
    top = top[top[:, 1] < -0.35]
    edge = {"fringe": -0.62, "long": identity.hairline - 0.06}.get(style, identity.hairline)
    left = top[:, 0].min()
    right = top[:, 0].max()
    x = np.linspace(right, left, 15)
    hang = 0.12 if style == "fringe" else 0.32
    parting = 0.10 if style == "short" else 0.0
    y = edge + hang * np.abs(x / right) ** 4 + parting * (x / right)
    canvas.polygon(np.concatenate([top[np.argsort(top[:, 0])], points(x, y)]), identity.hair)


def draw_eye(
    canvas: FaceCanvas,
    identity: Identity,
    expression: Expression,
    side: int,
    gain: float,
    gaze: float,
) -> None:
    """One eye. `gain` scales the expression on this side, `gaze` moves the iris to the right."""
    skin = identity.skin
    cheek = expression.cheek
    middle = np.array([side * identity.eye_x, identity.eye_y])
    up = max(identity.eye_open + gain * expression.upper_lid, 0.02)
    down = max(0.075 - gain * expression.lower_lid, 0.005)
    x = ACROSS * identity.eye_width
    upper = -up * ARCH**0.8
    lower = down * ARCH
    canvas.ellipse(middle[0], middle[1], 1.2 * identity.eye_width, 0.17, skin * 0.93)
    canvas.polygon(band(x, upper, lower) + middle, (250, 250, 248))
    for radius, colour in ((0.105, identity.iris), (0.05, (14, 12, 12))):
        iris_x = gaze + radius * COS
        iris_y = radius * SIN - 0.01
        # The lids cover the part of the iris that lies beyond them.
        iris_y = np.clip(iris_y, np.interp(iris_x, x, upper), np.interp(iris_x, x, lower))
        canvas.polygon(points(iris_x, iris_y) + middle, colour)
    canvas.ellipse(middle[0] + gaze + 0.03, middle[1] - 0.3 * up, 0.022, 0.022, (255, 255, 255))
    canvas.line(points(x, upper) + middle, skin * 0.42, 0.05)
    canvas.line(points(x, lower) + middle, skin * 0.66, 0.025)
    if cheek > 0.25:
        below = points(x, lower + 0.075 + 0.02 * ARCH)
        canvas.line(below + middle, mix(skin, skin * 0.62, min(1.0, cheek)), 0.03)
        corner = middle + (side * (identity.eye_width + 0.05), 0.0)
        for rise in (-0.07, 0.02, 0.10):  # crow's feet
            foot = [corner, corner + (side * 0.11, rise)]
            canvas.line(foot, mix(skin, skin * 0.55, cheek * 0.8), 0.025)


def draw_brow(
    canvas: FaceCanvas, identity: Identity, expression: Expression, side: int, gain: float
) -> None:
    """One brow. `gain` scales the expression on this side."""
    inner_x = identity.eye_x - 0.22 - gain * expression.knit
    outer_x = identity.eye_x + 0.26
    inner_y = identity.brow_y - gain * expression.inner_brow + 0.5 * identity.brow_slope
    outer_y = identity.brow_y - gain * expression.outer_brow - 0.5 * identity.brow_slope + 0.04
    t = np.linspace(0, 1, 9)  # from the inner end to the outer end
    x = side * (inner_x + (outer_x - inner_x) * t)
    y = inner_y + (outer_y - inner_y) * t - 0.28 * t * (1 - t)
    half = 0.5 * identity.brow_thick * (1 - 0.55 * t**2)
    canvas.polygon(band(x, y - half, y + half), mix(identity.hair, (30, 22, 20), 0.45))


def draw_nose(canvas: FaceCanvas, identity: Identity, expression: Expression) -> None:
    """The nose, and the creases around it: wrinkles on it, folds beside it, the furrow above it."""
    skin = identity.skin
    eye_y = identity.eye_y
    half, length = identity.nose
    tip = eye_y + length - 0.05 * expression.wrinkle
    half = half * (1 + 0.22 * expression.wrinkle)
    ridge = points((-0.05, 0.05, half, 0, -half), (eye_y, eye_y, tip, tip + 0.06, tip))
    canvas.polygon(ridge, skin * 0.95)
    wings_x = np.array([-1, -0.8, 0, 0.8, 1]) * half
    canvas.line(
        points(wings_x, tip + np.array([-0.05, 0.02, 0.06, 0.02, -0.05])), skin * 0.70, 0.04
    )
    if expression.wrinkle > 0.2:
        crease = mix(skin, skin * 0.50, min(1.0, expression.wrinkle))
        for y in (-0.10, 0.0, 0.10):
            bend = points((-0.11, 0, 0.11), (eye_y + y + 0.05, eye_y + y, eye_y + y + 0.05))
            canvas.line(bend, crease, 0.032)
        for side in (-1, 1):
            fold_x = side * (half + np.array([0.03, 0.16, 0.22]))
            canvas.line(points(fold_x, (tip - 0.10, tip + 0.04, tip + 0.2)), crease, 0.035)
    if expression.furrow > 0.2:
        crease = mix(skin, skin * 0.50, min(1.0, expression.furrow))
        for side in (-1, 1):
            furrow = [(side * 0.06, eye_y - 0.30), (side * 0.05, eye_y - 0.13)]
            canvas.line(furrow, crease, 0.03)


def draw_mouth(
    canvas: FaceCanvas, identity: Identity, expression: Expression, gains: tuple[float, float]
) -> None:
    """The mouth with teeth and tongue. `gains` scale the expression on the left and the right."""
    skin = identity.skin
    width = identity.mouth_width + expression.width
    corner = np.interp(ACROSS, (-1, 1), gains) * expression.corner + identity.mouth_rest
    x = ACROSS * width
    sag = 0.35 * max(expression.jaw, 0.0) * (1 - ARCH)
    ends = identity.mouth_y - corner * np.abs(ACROSS) ** 1.6 + sag
    inner_upper = ends - expression.upper_lip * ARCH
    gap = max(0.0, expression.lower_lip + expression.jaw + expression.upper_lip)
    inner_lower = inner_upper + gap * ARCH**0.7
    lip = identity.lip * max(0.15, 1 - expression.thin)
    bow = 1 - 0.25 * np.exp(-((ACROSS / 0.18) ** 2))
    outer_upper = inner_upper - 0.8 * lip * ARCH**0.6 * bow
    outer_lower = inner_lower + lip * ARCH**0.7
    red = mix(skin * 0.88, (178, 58, 66), 0.5)
    canvas.polygon(band(x, outer_upper, outer_lower), red)
    if gap > 0.03:
        canvas.polygon(band(x, inner_upper, inner_lower), (62, 18, 22))
        teeth = np.minimum(inner_upper + min(0.09, 0.75 * gap) * ARCH**0.5, inner_lower)
        canvas.polygon(band(x, inner_upper, teeth), (240, 236, 228))
        if gap > 0.18:
            canvas.ellipse(0, inner_lower[6] - 0.05, 0.45 * width, 0.05, (176, 78, 84))
    else:
        canvas.line(points(x, inner_upper), red * 0.45, 0.035)
    chin_y = outer_lower[6] + 0.06
    canvas.line([(-0.12, chin_y), (0.12, chin_y)], skin * 0.88, 0.03)
    if expression.corner > 0.06:  # the folds of a smile
        for side, end in ((-1, 0), (1, -1)):
            fold = np.array([(0.0, -0.24), (0.10, -0.12), (0.10, 0.02)]) * (side, 1)
            canvas.line(fold + (side * (width + 0.02), ends[end]), skin * 0.78, 0.03)


def draw_glasses(canvas: FaceCanvas, identity: Identity) -> None:
    frame = (40, 38, 44)
    for side in (-1, 1):
        middle = (side * identity.eye_x, identity.eye_y + 0.02)
        canvas.line(middle + (0.31, 0.25) * CIRCLE, frame, 0.04)
    bridge = identity.eye_x - 0.31
    canvas.line([(-bridge, identity.eye_y), (bridge, identity.eye_y)], frame, 0.04)
