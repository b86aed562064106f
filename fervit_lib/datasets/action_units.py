"""Emotions as action units of the Facial Action Coding System (FACS), and how each moves a face.

Source of the emotions: Ekman & Friesen's EMFACS prototypes (Facial Action Coding System, 1978).
"""

from dataclasses import dataclass

from numpy.random import Generator

EMOTION_ACTION_UNITS = {
    "angry": (4, 5, 7, 23),
    "disgust": (9, 15, 16),
    "fear": (1, 2, 4, 5, 20, 26),
    "happy": (6, 12),
    "neutral": (),
    "sad": (1, 4, 15),
    "surprise": (1, 2, 5, 26),
}
EMOTIONS = tuple(EMOTION_ACTION_UNITS)  # alphabetical: the class order of the whole project


@dataclass
class Expression:
    """How the muscles move a face; all 0 is a face at rest.

    Lengths in face units: 1 is half the width of the head.
    """

    inner_brow: float = 0.0  # up
    outer_brow: float = 0.0  # up
    knit: float = 0.0  # brows drawn together
    furrow: float = 0.0  # 0 to 1, vertical lines between the brows
    upper_lid: float = 0.0  # up: the eye opens
    lower_lid: float = 0.0  # up: the eye narrows
    cheek: float = 0.0  # 0 to 1, raised cheeks and crow's feet
    wrinkle: float = 0.0  # 0 to 1, wrinkled nose
    upper_lip: float = 0.0  # up
    corner: float = 0.0  # corners of the mouth, up
    width: float = 0.0  # half the width of the mouth
    lower_lip: float = 0.0  # down: the lips part, the chin stays
    thin: float = 0.0  # share of the thickness of the lips that is pressed away
    jaw: float = 0.0  # down: lower lip and chin


# At intensity 1; the effects of several units add up.
ACTION_UNIT_EFFECTS = {
    1: {"inner_brow": 0.19},  # inner brow raiser
    2: {"outer_brow": 0.17, "inner_brow": 0.03},  # outer brow raiser
    4: {"inner_brow": -0.11, "outer_brow": -0.02, "knit": 0.07, "furrow": 0.8},  # brow lowerer
    5: {"upper_lid": 0.085},  # upper lid raiser
    6: {"cheek": 1.0, "lower_lid": 0.06},  # cheek raiser
    7: {"upper_lid": -0.045, "lower_lid": 0.045},  # lid tightener
    9: {  # nose wrinkler
        "wrinkle": 1.0,
        "inner_brow": -0.08,
        "upper_lip": 0.08,
        "upper_lid": -0.05,
        "lower_lid": 0.04,
    },
    12: {"corner": 0.17, "width": 0.11, "upper_lip": -0.02, "lower_lip": 0.09},  # lip corner puller
    15: {"corner": -0.13, "width": -0.03},  # lip corner depressor
    16: {"lower_lip": 0.11},  # lower lip depressor
    20: {"width": 0.15, "lower_lip": 0.04, "jaw": -0.09, "corner": -0.03},  # lip stretcher
    23: {"thin": 0.75, "width": -0.06, "corner": -0.02},  # lip tightener
    26: {"jaw": 0.27, "width": -0.07},  # jaw drop
}


def express(emotion: str, rng: Generator) -> Expression:
    """An expression of `emotion`; `rng` draws its strength and that of every action unit.

    The draws are the same for every emotion, so that they leave `rng` in the same state.
    """
    expression = Expression()
    strength = 1.2 + 0.3 * rng.beta(2.2, 1.6)
    shares = rng.uniform(0.75, 1.25, len(ACTION_UNIT_EFFECTS))
    for share, (unit, effects) in zip(shares, ACTION_UNIT_EFFECTS.items(), strict=True):
        if unit in EMOTION_ACTION_UNITS[emotion]:
            for name, amount in effects.items():
                vars(expression)[name] += strength * share * amount
    return expression
