"""Emotions as action units of the Facial Action Coding System (FACS), and how they move a toy face.

Source of the emotions: Ekman & Friesen's EMFACS prototypes (Facial Action Coding System, 1978).
"""

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

# What a unit of strength 1 adds to the measures of a toy face, see `toy_faces.MEASURES`.
ACTION_UNIT_EFFECTS = {
    1: {"inner_brow": 0.19},  # inner brow raiser
    2: {"outer_brow": 0.17},  # outer brow raiser
    4: {"inner_brow": -0.11, "knit": 0.07},  # brow lowerer
    5: {"upper_lid": 0.085},  # upper lid raiser
    6: {"cheek": 1.0, "lower_lid": -0.035},  # cheek raiser
    7: {"upper_lid": -0.045, "lower_lid": -0.035},  # lid tightener
    9: {  # nose wrinkler
        "wrinkle": 1.0,
        "fold": 1.0,
        "nose_width": 0.03,
        "inner_brow": -0.08,
        "upper_lip": 0.08,
        "upper_lid": -0.05,
        "lower_lid": -0.035,
    },
    12: {"corner": 0.17, "mouth_width": 0.11, "lower_lip": 0.09, "fold": 1.0},  # lip corner puller
    15: {"corner": -0.13},  # lip corner depressor
    16: {"lower_lip": 0.11},  # lower lip depressor
    20: {"mouth_width": 0.15, "jaw": -0.06},  # lip stretcher
    23: {"lip": -0.03, "mouth_width": -0.06},  # lip tightener
    26: {"jaw": 0.27, "mouth_width": -0.07},  # jaw drop
}
