"""The person that a toy face shows: everything that stays the same under every emotion."""

from numpy.random import Generator

from fervit_lib.datasets.toy_canvas import CLOTHES, HAIRS, IRISES, SKINS, draw_colour

HAIR_STYLES = ("short", "fringe", "long", "curly", "bun", "bald")


class Identity:
    """A random person, in face units: 1 is half the width of an average head; y points down.

    A seed means the same person only while the draws keep their order.
    """

    def __init__(self, rng: Generator) -> None:
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
