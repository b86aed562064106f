"""The parts of a toy face, drawn on a canvas that knows the pose: head, eyes, brows, nose, mouth.

All lengths are in face units: 1 is half the width of an average head. The middle of the face is
(0, 0), y points down; `side` is -1 for the left half of the picture and 1 for the right half.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from fervit_lib.datasets.action_units import Expression
from fervit_lib.datasets.toy_canvas import SUPERSAMPLE, circle, mix, rgb
from fervit_lib.datasets.toy_identity import Identity

COS, SIN = circle(40)
ACROSS = np.linspace(-1, 1, 13)  # from one end of an eye or a mouth to the other
ARCH = 1 - ACROSS**2  # 0 at both ends, 1 in the middle


class FaceCanvas:
    """Draws shapes given in face units, under a random pose, onto a supersampled picture.

    Corners are given as their x and their y.
    """

    def __init__(self, rng: Generator, size: int) -> None:
        pixels = size * SUPERSAMPLE
        # Cosine and sine of roll, yaw and pitch.
        self.roll, self.yaw, self.pitch = (
            (np.cos(angle), np.sin(angle)) for angle in rng.normal(0.0, (0.08, 0.12, 0.08))
        )
        self.unit = pixels * rng.uniform(0.355, 0.39)  # pixels per face unit
        self.centre = pixels * (np.array([0.5, 0.51]) + rng.normal(0.0, 0.016, 2))
        background = rng.uniform(110, 200) + rng.normal(0, 10, 3)
        self.image = Image.new("RGB", (pixels, pixels), rgb(background))
        self.draw = ImageDraw.Draw(self.image)

    def to_pixels(self, x: ArrayLike, y: ArrayLike) -> list[float]:
        """N corners in pixels of the supersampled picture: x, y, x, y, … as Pillow takes them.

        The face is a dome: its middle moves most when the head turns.
        """
        flat_x = np.asarray(x, dtype=float)
        flat_y = np.asarray(y, dtype=float)
        depth = 0.75 * np.maximum(1 - 0.8 * flat_x**2 - 0.45 * flat_y**2, 0)
        turned_x = flat_x * self.yaw[0] + depth * self.yaw[1]
        turned_y = flat_y * self.pitch[0] + depth * self.pitch[1]
        cos, sin = self.roll
        corners = np.empty((len(flat_x), 2))
        corners[:, 0] = cos * turned_x - sin * turned_y
        corners[:, 1] = sin * turned_x + cos * turned_y
        return (corners * self.unit + self.centre).ravel().tolist()

    def polygon(self, x: ArrayLike, y: ArrayLike, colour: ArrayLike) -> None:
        self.draw.polygon(self.to_pixels(x, y), fill=rgb(colour))

    def line(self, x: ArrayLike, y: ArrayLike, colour: ArrayLike, width: float) -> None:
        width = max(1, round(width * self.unit))
        self.draw.line(self.to_pixels(x, y), fill=rgb(colour), width=width, joint="curve")

    def band(self, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, colour: ArrayLike) -> None:
        """The area between two curves over the same x."""
        y = np.concatenate([upper, lower[::-1]])
        self.polygon(np.concatenate([x, x[::-1]]), y, colour)

    def ellipse(
        self, x: float, y: float, radius_x: float, radius_y: float, colour: ArrayLike
    ) -> None:
        self.polygon(x + radius_x * COS, y + radius_y * SIN, colour)


def _head_outline(identity: Identity, jaw: float) -> np.ndarray:
    """(2, 40) x and y: an ellipse, narrower towards the chin, and longer as the jaw opens."""
    width, height, taper = identity.head
    below = np.clip(SIN, 0, None)
    x = width * COS * (1 - (1 - taper) * below)
    return np.stack([x, height * SIN + 0.7 * jaw * below**2])


def draw_head(canvas: FaceCanvas, identity: Identity, expression: Expression) -> None:
    """Shoulders, neck, the hair behind the head, ears, head and beard."""
    width, height, _ = identity.head
    skin = identity.skin
    hair = identity.hair
    shade = skin * 0.86
    shoulders_y = (2.6, 1.75, 1.45, 1.45, 1.75, 2.6)
    canvas.polygon((-1.7, -1.5, -0.5, 0.5, 1.5, 1.7), shoulders_y, identity.clothes)
    if identity.style == "long":
        x = np.array([-1.12, -1.25, 1.25, 1.12]) * width
        canvas.polygon(x, (-0.5, 1.5, 1.5, -0.5), hair)
    canvas.polygon((-0.45, -0.48, 0, 0.48, 0.45), (0.8, 1.6, 1.75, 1.6, 0.8), skin * 0.76)
    if identity.style == "curly":
        canvas.ellipse(0, -0.42, 1.28 * width, 1.12, hair)
    if identity.style == "bun":
        canvas.ellipse(0, -1.02 * height, 0.36, 0.32, hair * 0.9)
    if identity.style != "bald":
        canvas.ellipse(0, -0.22, 1.07 * width, 0.92 * height, hair)
    for side in (-1, 1):
        canvas.ellipse(side * width, 0.02, 0.13, 0.22, shade)
    x, y = _head_outline(identity, expression.jaw)
    canvas.polygon(x, y, shade)
    canvas.polygon(x * 0.95, y * 0.97, skin)
    if identity.beard:
        low = SIN >= -0.05
        inner_x = 0.80 * x[low][::-1]
        beard_y = np.concatenate([y[low], np.full(len(inner_x), 0.36)])
        canvas.polygon(np.concatenate([x[low], inner_x]), beard_y, mix(skin, hair, 0.55))


def draw_front_hair(canvas: FaceCanvas, identity: Identity) -> None:
    """The hair that hangs over the forehead."""
    style = identity.style
    if style == "bald":
        return
    top = _head_outline(identity, 0.0) * 1.06
    top = top[:, top[1] < -0.35]  # (2, n): the outline above the forehead
    top = top[:, np.argsort(top[0])]
    edge = {"fringe": -0.62, "long": identity.hairline - 0.06}.get(style, identity.hairline)
    right = top[0].max()
    x = np.linspace(right, top[0].min(), 15)
    hang = 0.12 if style == "fringe" else 0.32
    parting = 0.10 if style == "short" else 0.0
    y = edge + hang * np.abs(x / right) ** 4 + parting * (x / right)
    outline_x = np.concatenate([top[0], x])
    canvas.polygon(outline_x, np.concatenate([top[1], y]), identity.hair)


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
    middle_x = side * identity.eye_x
    middle_y = identity.eye_y
    up = max(identity.eye_open + gain * expression.upper_lid, 0.02)
    down = max(0.075 - gain * expression.lower_lid, 0.005)
    # The lids, and the iris between them, around (0, 0).
    lid_x = ACROSS * identity.eye_width
    upper = -up * ARCH**0.8
    lower = down * ARCH
    x = lid_x + middle_x
    # The eye socket first, since later shapes are drawn over earlier ones.
    canvas.ellipse(middle_x, middle_y, 1.2 * identity.eye_width, 0.17, skin * 0.93)
    canvas.band(x, upper + middle_y, lower + middle_y, (250, 250, 248))
    for radius, colour in ((0.105, identity.iris), (0.05, (14, 12, 12))):
        iris_x = gaze + radius * COS
        # The lids cover the iris: its outline is clipped to the curves of both.
        highest = np.interp(iris_x, lid_x, upper)
        iris_y = np.clip(radius * SIN - 0.01, highest, np.interp(iris_x, lid_x, lower))
        canvas.polygon(iris_x + middle_x, iris_y + middle_y, colour)
    canvas.ellipse(middle_x + gaze + 0.03, middle_y - 0.3 * up, 0.022, 0.022, (255, 255, 255))
    canvas.line(x, upper + middle_y, skin * 0.42, 0.05)
    canvas.line(x, lower + middle_y, skin * 0.66, 0.025)
    if cheek > 0.25:
        bag_y = lower + 0.075 + 0.02 * ARCH + middle_y
        canvas.line(x, bag_y, mix(skin, skin * 0.62, min(1.0, cheek)), 0.03)
        corner = middle_x + side * (identity.eye_width + 0.05)
        for rise in (-0.07, 0.02, 0.10):  # crow's feet
            foot_x = (corner, corner + side * 0.11)
            foot_y = (middle_y, middle_y + rise)
            canvas.line(foot_x, foot_y, mix(skin, skin * 0.55, cheek * 0.8), 0.025)


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
    canvas.band(x, y - half, y + half, mix(identity.hair, (30, 22, 20), 0.45))


def draw_nose(canvas: FaceCanvas, identity: Identity, expression: Expression) -> None:
    """The nose, and the creases around it: wrinkles on it, folds beside it, the furrow above it."""
    skin = identity.skin
    eye_y = identity.eye_y
    half, length = identity.nose
    tip = eye_y + length - 0.05 * expression.wrinkle
    half = half * (1 + 0.22 * expression.wrinkle)
    ridge_x = (-0.05, 0.05, half, 0, -half)
    canvas.polygon(ridge_x, (eye_y, eye_y, tip, tip + 0.06, tip), skin * 0.95)
    wings_x = np.array([-1, -0.8, 0, 0.8, 1]) * half
    canvas.line(wings_x, tip + np.array([-0.05, 0.02, 0.06, 0.02, -0.05]), skin * 0.70, 0.04)
    if expression.wrinkle > 0.2:
        crease = mix(skin, skin * 0.50, min(1.0, expression.wrinkle))
        for y in (-0.10, 0.0, 0.10):
            bend_y = (eye_y + y + 0.05, eye_y + y, eye_y + y + 0.05)
            canvas.line((-0.11, 0, 0.11), bend_y, crease, 0.032)
        for side in (-1, 1):
            fold_x = side * (half + np.array([0.03, 0.16, 0.22]))
            canvas.line(fold_x, (tip - 0.10, tip + 0.04, tip + 0.2), crease, 0.035)
    if expression.furrow > 0.2:
        crease = mix(skin, skin * 0.50, min(1.0, expression.furrow))
        for side in (-1, 1):
            furrow_x = (side * 0.06, side * 0.05)
            canvas.line(furrow_x, (eye_y - 0.30, eye_y - 0.13), crease, 0.03)


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
    # How far the lips are apart in the middle; the corners stay closed.
    gap = max(0.0, expression.lower_lip + expression.jaw + expression.upper_lip)
    inner_lower = inner_upper + gap * ARCH**0.7
    lip = identity.lip * max(0.15, 1 - expression.thin)
    bow = 1 - 0.25 * np.exp(-((ACROSS / 0.18) ** 2))
    outer_upper = inner_upper - 0.8 * lip * ARCH**0.6 * bow
    outer_lower = inner_lower + lip * ARCH**0.7
    red = mix(skin * 0.88, (178, 58, 66), 0.5)
    canvas.band(x, outer_upper, outer_lower, red)
    if gap > 0.03:
        canvas.band(x, inner_upper, inner_lower, (62, 18, 22))
        teeth = np.minimum(inner_upper + min(0.09, 0.75 * gap) * ARCH**0.5, inner_lower)
        canvas.band(x, inner_upper, teeth, (240, 236, 228))
        if gap > 0.18:
            canvas.ellipse(0, inner_lower[6] - 0.05, 0.45 * width, 0.05, (176, 78, 84))
    else:
        canvas.line(x, inner_upper, red * 0.45, 0.035)
    chin_y = outer_lower[6] + 0.06
    canvas.line((-0.12, 0.12), (chin_y, chin_y), skin * 0.88, 0.03)
    if expression.corner > 0.06:  # the folds of a smile
        for side, end in ((-1, ends[0]), (1, ends[-1])):
            fold_x = np.array([0.0, 0.10, 0.10]) * side + side * (width + 0.02)
            canvas.line(fold_x, np.array([-0.24, -0.12, 0.02]) + end, skin * 0.78, 0.03)


def draw_glasses(canvas: FaceCanvas, identity: Identity) -> None:
    frame = (40, 38, 44)
    for side in (-1, 1):
        rim_x = side * identity.eye_x + 0.31 * COS
        canvas.line(rim_x, identity.eye_y + 0.02 + 0.25 * SIN, frame, 0.04)
    bridge = identity.eye_x - 0.31
    canvas.line((-bridge, bridge), (identity.eye_y, identity.eye_y), frame, 0.04)
