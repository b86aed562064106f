"""Toy faces: faces drawn by code from the action units of an emotion.

They stand in for photographs where none may be downloaded, so that every step of the laboratory runs for real.
An emotion is a set of action units, an action unit moves a few numbers of an `Expression`, and a face is drawn from an
expression and an identity, under a pose and a light.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fervit_lib.datasets.action_units import EMOTION_ACTION_UNITS, EMOTIONS, Expression, express

_SUPERSAMPLE = 4  # drawn this much larger, then averaged: PIL's shapes have hard edges

_SKINS = (
    (255, 224, 200),
    (244, 204, 174),
    (229, 180, 142),
    (205, 150, 112),
    (166, 114, 80),
    (122, 80, 56),
)
_HAIRS = (
    (34, 26, 24),
    (70, 46, 32),
    (112, 72, 42),
    (176, 128, 70),
    (214, 180, 118),
    (150, 64, 38),
    (168, 166, 166),
)
_IRISES = ((78, 50, 32), (58, 40, 30), (84, 112, 70), (74, 110, 150))
_CLOTHES = (
    (66, 92, 128),
    (134, 66, 72),
    (78, 116, 94),
    (96, 84, 120),
    (190, 170, 130),
    (60, 62, 70),
)
_HAIR_STYLES = ("short", "fringe", "long", "curly", "bun", "bald")


@dataclass
class _Identity:
    """Who is drawn. Lengths in face units."""

    head: np.ndarray  # half width, half height, share of the width left at the jaw
    skin: np.ndarray  # RGB
    hair: np.ndarray
    iris: np.ndarray
    clothes: np.ndarray
    style: str
    hairline: float
    eye_x: float  # half the distance between the eyes
    eye_y: float
    eye_width: float  # half
    eye_open: float  # of a face at rest, upper lid
    brow_y: float
    brow_slope: float  # outer end above the inner one
    brow_thick: float
    nose: np.ndarray  # half width, length
    mouth_y: float
    mouth_width: float  # half
    mouth_rest: float  # corners above the middle at rest: some people look a little glad or grave
    lip: float  # thickness
    glasses: bool
    beard: bool


def _draw_identity(rng: np.random.Generator) -> _Identity:
    def colour(palette, spread):
        return np.clip(
            np.array(palette[rng.integers(len(palette))]) + rng.normal(0, spread, 3), 0, 255
        )

    return _Identity(
        head=rng.uniform((0.90, 1.16, 0.70), (1.06, 1.34, 0.92)),
        skin=colour(_SKINS, 5),
        hair=colour(_HAIRS, 8),
        iris=colour(_IRISES, 8),
        clothes=colour(_CLOTHES, 15),
        style=_HAIR_STYLES[rng.integers(len(_HAIR_STYLES))],
        hairline=rng.uniform(-0.92, -0.74),
        eye_x=rng.uniform(0.38, 0.46),
        eye_y=rng.uniform(-0.20, -0.10),
        eye_width=rng.uniform(0.17, 0.22),
        eye_open=rng.uniform(0.095, 0.13),
        brow_y=rng.uniform(-0.45, -0.38),
        brow_slope=rng.normal(0.0, 0.02),
        brow_thick=rng.uniform(0.05, 0.10),
        nose=rng.uniform((0.11, 0.40), (0.18, 0.52)),
        mouth_y=rng.uniform(0.60, 0.70),
        mouth_width=rng.uniform(0.30, 0.38),
        mouth_rest=rng.normal(0.0, 0.018),
        lip=rng.uniform(0.055, 0.10),
        glasses=rng.random() < 0.10,
        beard=rng.random() < 0.10,
    )


class _Canvas:
    """Draws shapes given in face units, under a pose, onto an enlarged image."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.pixels = size * _SUPERSAMPLE
        self.roll = rng.normal(0.0, 0.08)  # radians
        self.yaw = rng.normal(0.0, 0.12)
        self.pitch = rng.normal(0.0, 0.08)
        self.unit = self.pixels * rng.uniform(0.355, 0.39)  # pixels per face unit
        self.centre = self.pixels * (np.array([0.5, 0.51]) + rng.normal(0.0, 0.016, 2))
        background = rng.uniform(110, 200) + rng.normal(0, 10, 3)
        self.image = Image.new("RGB", (self.pixels, self.pixels), _rgb(background))
        self.draw = ImageDraw.Draw(self.image)

    def place(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Face units (N, 2), y down, to pixels. The face is a dome: its middle moves most when the head turns."""
        x, y = np.asarray(points, dtype=float).T
        depth = 0.75 * np.clip(1 - 0.8 * x**2 - 0.45 * y**2, 0, None)
        x = x * np.cos(self.yaw) + depth * np.sin(self.yaw)
        y = y * np.cos(self.pitch) + depth * np.sin(self.pitch)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        placed = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1) * self.unit + self.centre
        return [tuple(point) for point in placed.tolist()]

    def polygon(self, points, colour):
        self.draw.polygon(self.place(points), fill=_rgb(colour))

    def line(self, points, colour, width: float):
        width = max(1, round(width * self.unit))
        self.draw.line(self.place(points), fill=_rgb(colour), width=width, joint="curve")

    def ellipse(self, x, y, radius_x, radius_y, colour):
        self.polygon(np.stack([x + radius_x * _COS, y + radius_y * _SIN], axis=1), colour)


_COS, _SIN = np.cos(np.linspace(0, 2 * np.pi, 40)), np.sin(np.linspace(0, 2 * np.pi, 40))
_ACROSS = np.linspace(-1, 1, 13)  # from one end of an eye or a mouth to the other
_ARCH = 1 - _ACROSS**2


def _rgb(colour) -> tuple[int, int, int]:
    r, g, b = (min(255, max(0, round(float(c)))) for c in colour)
    return r, g, b


def _mix(colour, other, share: float) -> np.ndarray:
    return (1 - share) * np.asarray(colour, dtype=float) + share * np.asarray(other, dtype=float)


def _head_outline(who: _Identity, jaw: float, grow: float = 1.0) -> np.ndarray:
    """(40, 2): an ellipse that narrows towards the chin and grows downwards with an open jaw."""
    width, height, taper = who.head
    below = np.clip(_SIN, 0, None)
    x = width * _COS * (1 - (1 - taper) * below)
    y = height * _SIN + 0.7 * jaw * below**2
    return np.stack([x, y], axis=1) * grow


def _draw_head(canvas: _Canvas, who: _Identity, face: Expression):
    width, height, _ = who.head
    shade = who.skin * 0.86
    canvas.polygon(
        [(-1.7, 2.6), (-1.5, 1.75), (-0.5, 1.45), (0.5, 1.45), (1.5, 1.75), (1.7, 2.6)], who.clothes
    )
    if who.style == "long":
        canvas.polygon(
            [
                (-1.12 * width, -0.5),
                (-1.25 * width, 1.5),
                (1.25 * width, 1.5),
                (1.12 * width, -0.5),
            ],
            who.hair,
        )
    canvas.polygon(
        [(-0.45, 0.8), (-0.48, 1.6), (0, 1.75), (0.48, 1.6), (0.45, 0.8)], who.skin * 0.76
    )
    if who.style == "curly":
        canvas.ellipse(0, -0.42, 1.28 * width, 1.12, who.hair)
    if who.style == "bun":
        canvas.ellipse(0, -1.02 * height, 0.36, 0.32, who.hair * 0.9)
    if who.style != "bald":
        canvas.ellipse(0, -0.22, 1.07 * width, 0.92 * height, who.hair)
    for side in (-1, 1):
        canvas.ellipse(side * width, 0.02, 0.13, 0.22, shade)
    outline = _head_outline(who, face.jaw)
    canvas.polygon(outline, shade)
    canvas.polygon(outline * (0.95, 0.97), who.skin)
    if who.beard:
        low = outline[_SIN >= -0.05]
        inner = low[::-1] * (0.80, 0.0) + (0, 0.36)
        canvas.polygon(np.concatenate([low, inner]), _mix(who.skin, who.hair, 0.55))


def _draw_front_hair(canvas: _Canvas, who: _Identity):
    if who.style == "bald":
        return
    top = _head_outline(who, 0.0, 1.06)
    top = top[top[:, 1] < -0.35]
    rest = {"fringe": -0.62, "long": who.hairline - 0.06}.get(who.style, who.hairline)
    left, right = top[:, 0].min(), top[:, 0].max()
    x = np.linspace(right, left, 15)
    hang = 0.32 if who.style != "fringe" else 0.12
    y = rest + hang * np.abs(x / right) ** 4 + (0.10 * (x / right) if who.style == "short" else 0.0)
    canvas.polygon(np.concatenate([top[np.argsort(top[:, 0])], np.stack([x, y], axis=1)]), who.hair)


def _draw_eye(
    canvas: _Canvas, who: _Identity, face: Expression, side: int, gain: float, gaze: float
):
    middle = np.array([side * who.eye_x, who.eye_y])
    up = max(who.eye_open + gain * face.upper_lid, 0.02)
    down = max(0.075 - gain * face.lower_lid, 0.005)
    x = _ACROSS * who.eye_width
    upper, lower = -up * _ARCH**0.8, down * _ARCH
    line = who.skin * 0.42
    canvas.ellipse(middle[0], middle[1], 1.2 * who.eye_width, 0.17, who.skin * 0.93)
    almond = np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])
    canvas.polygon(almond + middle, (250, 250, 248))
    for radius, colour in ((0.105, who.iris), (0.05, (14, 12, 12))):
        iris_x = gaze + radius * _COS
        # The lids cover what of the iris lies beyond them.
        iris_y = np.clip(
            radius * _SIN - 0.01, np.interp(iris_x, x, upper), np.interp(iris_x, x, lower)
        )
        canvas.polygon(np.stack([iris_x, iris_y], axis=1) + middle, colour)
    canvas.ellipse(middle[0] + gaze + 0.03, middle[1] - 0.3 * up, 0.022, 0.022, (255, 255, 255))
    canvas.line(np.stack([x, upper], axis=1) + middle, line, 0.05)
    canvas.line(np.stack([x, lower], axis=1) + middle, who.skin * 0.66, 0.025)
    if face.cheek > 0.25:
        bag = np.stack([x, lower + 0.075 + 0.02 * _ARCH], axis=1)
        canvas.line(bag + middle, _mix(who.skin, who.skin * 0.62, min(1.0, face.cheek)), 0.03)
        corner = middle + (side * (who.eye_width + 0.05), 0.0)
        for rise in (-0.07, 0.02, 0.10):
            canvas.line(
                [corner, corner + (side * 0.11, rise)],
                _mix(who.skin, who.skin * 0.55, face.cheek * 0.8),
                0.025,
            )


def _draw_brow(canvas: _Canvas, who: _Identity, face: Expression, side: int, gain: float):
    inner_x = who.eye_x - 0.22 - gain * face.knit
    outer_x = who.eye_x + 0.26
    inner_y = who.brow_y - gain * face.inner_brow + 0.5 * who.brow_slope
    outer_y = who.brow_y - gain * face.outer_brow - 0.5 * who.brow_slope + 0.04
    t = np.linspace(0, 1, 9)
    x = side * (inner_x + (outer_x - inner_x) * t)
    y = inner_y + (outer_y - inner_y) * t - 0.28 * t * (1 - t)
    half = 0.5 * who.brow_thick * (1 - 0.55 * t**2)
    edge = np.concatenate([np.stack([x, y - half], axis=1), np.stack([x, y + half], axis=1)[::-1]])
    canvas.polygon(edge, _mix(who.hair, (30, 22, 20), 0.45))


def _draw_nose(canvas: _Canvas, who: _Identity, face: Expression):
    half, length = who.nose
    tip = who.eye_y + length - 0.05 * face.wrinkle
    half = half * (1 + 0.22 * face.wrinkle)
    line = who.skin * 0.70
    canvas.polygon(
        [(-0.05, who.eye_y), (0.05, who.eye_y), (half, tip), (0, tip + 0.06), (-half, tip)],
        who.skin * 0.95,
    )
    wings = [
        (-half, tip - 0.05),
        (-half * 0.8, tip + 0.02),
        (0, tip + 0.06),
        (half * 0.8, tip + 0.02),
        (half, tip - 0.05),
    ]
    canvas.line(wings, line, 0.04)
    if face.wrinkle > 0.2:
        crease = _mix(who.skin, who.skin * 0.50, min(1.0, face.wrinkle))
        for y in (-0.10, 0.0, 0.10):
            bend = [(-0.11, who.eye_y + y + 0.05), (0, who.eye_y + y), (0.11, who.eye_y + y + 0.05)]
            canvas.line(bend, crease, 0.032)
        for side in (-1, 1):
            fold = [
                (side * (half + 0.03), tip - 0.10),
                (side * (half + 0.16), tip + 0.04),
                (side * (half + 0.22), tip + 0.2),
            ]
            canvas.line(fold, crease, 0.035)
    if face.furrow > 0.2:
        crease = _mix(who.skin, who.skin * 0.50, min(1.0, face.furrow))
        for side in (-1, 1):
            canvas.line(
                [(side * 0.06, who.eye_y - 0.30), (side * 0.05, who.eye_y - 0.13)], crease, 0.03
            )


def _draw_mouth(canvas: _Canvas, who: _Identity, face: Expression, gains: tuple[float, float]):
    width = who.mouth_width + face.width
    corner = np.interp(_ACROSS, (-1, 1), gains) * face.corner + who.mouth_rest
    x = _ACROSS * width
    ends = who.mouth_y - corner * np.abs(_ACROSS) ** 1.6 + 0.35 * max(face.jaw, 0.0) * (1 - _ARCH)
    inner_upper = ends - face.upper_lip * _ARCH
    gap = max(0.0, face.lower_lip + face.jaw + face.upper_lip)
    inner_lower = inner_upper + gap * _ARCH**0.7
    lip = who.lip * max(0.15, 1 - face.thin)
    bow = 1 - 0.25 * np.exp(-((_ACROSS / 0.18) ** 2))
    outer_upper = inner_upper - 0.8 * lip * _ARCH**0.6 * bow
    outer_lower = inner_lower + lip * _ARCH**0.7
    red = _mix(who.skin * 0.88, (178, 58, 66), 0.5)

    def band(above, below):
        return np.concatenate([np.stack([x, above], axis=1), np.stack([x, below], axis=1)[::-1]])

    canvas.polygon(band(outer_upper, outer_lower), red)
    if gap > 0.03:
        canvas.polygon(band(inner_upper, inner_lower), (62, 18, 22))
        teeth = np.minimum(inner_upper + min(0.09, 0.75 * gap) * _ARCH**0.5, inner_lower)
        canvas.polygon(band(inner_upper, teeth), (240, 236, 228))
        if gap > 0.18:
            canvas.ellipse(0, inner_lower[6] - 0.05, 0.45 * width, 0.05, (176, 78, 84))
    else:
        canvas.line(np.stack([x, inner_upper], axis=1), red * 0.45, 0.035)
    canvas.line(
        [(-0.12, outer_lower[6] + 0.06), (0.12, outer_lower[6] + 0.06)], who.skin * 0.88, 0.03
    )
    if face.corner > 0.06:  # a smile's folds
        for side, end in ((-1, 0), (1, -1)):
            fold = np.array([(0.0, -0.24), (0.10, -0.12), (0.10, 0.02)]) * (side, 1) + (
                side * (width + 0.02),
                ends[end],
            )
            canvas.line(fold, who.skin * 0.78, 0.03)


def _draw_glasses(canvas: _Canvas, who: _Identity):
    for side in (-1, 1):
        ring = np.stack([side * who.eye_x + 0.31 * _COS, who.eye_y + 0.02 + 0.25 * _SIN], axis=1)
        canvas.line(ring, (40, 38, 44), 0.04)
    canvas.line([(-who.eye_x + 0.31, who.eye_y), (who.eye_x - 0.31, who.eye_y)], (40, 38, 44), 0.04)


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Lamp from a side, brightness, contrast, colour of the light, pixel noise."""
    size = image.width
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.35)
    ramp = np.linspace(-1, 1, size)
    lamp = 1 + slope * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
    pixels = np.asarray(image, dtype=np.float32) * lamp[..., None] * rng.normal(1.0, 0.03, 3)
    pixels = (pixels - 128) * rng.uniform(0.75, 1.15) + 128 + rng.normal(0, 14)
    pixels += rng.normal(0.0, rng.uniform(1.0, 6.0), (size, size, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def toy_face(emotion: str, rng: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw one face.

    `emotion` is one of `EMOTIONS`; `rng` decides everything else: identity, pose, light, intensity. It is asked the
    same questions whatever the emotion, so generators in one state draw one person in one pose with other expressions.
    Returns an RGB image of `size` x `size` pixels. Raises ValueError for an unknown emotion.
    """
    if emotion not in EMOTION_ACTION_UNITS:
        raise ValueError(f"emotion must be one of {', '.join(EMOTIONS)}; got {emotion!r}")
    who = _draw_identity(rng)
    face = express(emotion, rng)
    lopsided = rng.normal(0, 0.22) * (
        rng.random() < 0.25
    )  # now and then one side does more than the other
    gains = (1 - lopsided, 1 + lopsided)
    gaze = rng.normal(0, 0.025)
    canvas = _Canvas(rng, size)
    _draw_head(canvas, who, face)
    for side, gain in zip((-1, 1), gains, strict=True):
        _draw_eye(canvas, who, face, side, gain, gaze)
    _draw_nose(canvas, who, face)
    _draw_front_hair(canvas, who)
    for side, gain in zip((-1, 1), gains, strict=True):
        _draw_brow(canvas, who, face, side, gain)
    _draw_mouth(canvas, who, face, gains)
    if who.glasses:
        _draw_glasses(canvas, who)
    return _light(canvas.image.reduce(_SUPERSAMPLE), rng)
