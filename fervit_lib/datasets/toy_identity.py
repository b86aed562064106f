"""The person that a toy face shows: everything that stays the same under every emotion."""

from dataclasses import dataclass

import numpy as np

from fervit_lib.datasets.toy_canvas import CLOTHES, HAIRS, IRISES, SKINS, clip_colour, draw_colour

HAIR_STYLES = ("short", "fringe", "long", "curly", "bun", "bald")


@dataclass
class Identity:
    """A person. Lengths in face units: 1 is half the width of an average head; y points down."""

    head: np.ndarray  # (3,) half width, half height, share of the width left at the jaw
    skin: np.ndarray  # (3,) float RGB, as every colour
    hair: np.ndarray
    iris: np.ndarray
    clothes: np.ndarray
    style: str  # of the hair
    hairline: float  # y
    eye_x: float  # half the distance between the eyes
    eye_y: float
    eye_width: float  # half
    eye_open: float  # height of the upper lid above the middle of the eye, face at rest
    brow_y: float
    brow_slope: float  # how far the outer end is above the inner end
    brow_thick: float
    nose: np.ndarray  # (2,) half width, length
    mouth_y: float
    mouth_width: float  # half
    mouth_rest: float  # corners above the middle at rest: some faces look slightly happy or sad
    lip: float  # thickness
    glasses: bool
    beard: bool


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person. A seed means the same person only while the draws keep their order."""
    return Identity(
        head=rng.uniform((0.90, 1.16, 0.70), (1.06, 1.34, 0.92)),
        skin=clip_colour(draw_colour(rng, SKINS, 5)),
        hair=clip_colour(draw_colour(rng, HAIRS, 8)),
        iris=clip_colour(draw_colour(rng, IRISES, 8)),
        clothes=clip_colour(draw_colour(rng, CLOTHES, 15)),
        style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
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
