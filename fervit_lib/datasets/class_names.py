"""The names and numbers by which the published sets call the emotions.

Seven emotions have the names of `EMOTIONS`; contempt is the eighth.
"""

import re

from fervit_lib.datasets.action_units import EMOTIONS

EIGHT_EMOTIONS = tuple(sorted((*EMOTIONS, "contempt")))
# In lower case, as FER2013, FER+, AffectNet, RAF-DB, CK+, ExpW, SFEW and JAFFE have them in
# folders, columns, tables and file names.
_SYNONYMS = {
    "angry": ("anger", "an", "ang"),
    "contempt": ("contemptuous", "co", "con"),
    "disgust": ("disgusted", "di", "dis"),
    "fear": ("fearful", "afraid", "fe", "fea"),
    "happy": ("happiness", "joy", "ha", "hap"),
    "neutral": ("neutrality", "ne", "neu"),
    "sad": ("sadness", "sa"),
    "surprise": ("surprised", "suprise", "su", "sur"),
}
_EMOTION_OF = {name: name for name in EIGHT_EMOTIONS} | {
    synonym: name for name, synonyms in _SYNONYMS.items() for synonym in synonyms
}


def _numbered(names: str, first: int = 0) -> dict[int, str]:
    return dict(enumerate(names.split(), start=first))


# The emotion of each number, by set.
SCHEMES = {
    # Contempt: in tables that extend FER2013's, such as ckextended.csv.
    "fer2013": _numbered("angry disgust fear happy sad surprise neutral contempt"),
    "ferplus": _numbered("neutral happy surprise sad angry disgust fear contempt"),
    "raf-db": _numbered("surprise fear disgust happy sad angry neutral", first=1),
    # Copies of RAF-DB that number its classes from 0.
    "raf-db-from-0": _numbered("surprise fear disgust happy sad angry neutral"),
    "affectnet": _numbered("neutral happy sad surprise fear disgust angry contempt"),
    "ck+": _numbered("neutral angry contempt disgust fear happy sad surprise"),
    "expw": _numbered("angry disgust fear happy sad surprise neutral"),
}


def emotion_of(name: str) -> str | None:
    """The emotion that a name of a published set means, in any case; None if it is unknown.

    A leading number is ignored: `0_Anger` is angry.
    """
    return _EMOTION_OF.get(re.sub(r"^\d+[ _.-]+", "", name.strip().lower()))


def rename_classes(names: list[str], class_names: str, source: str) -> list[str]:
    """The name of each class of a source, by `Protocol.class_names`.

    Raises:
        ValueError: names are unknown; lists them.
    """
    if class_names == "own":
        return list(names)
    if class_names == "emotions":
        renamed = [emotion_of(name) for name in names]
        expected = f"emotions ({', '.join(EIGHT_EMOTIONS)}, or a synonym of them)"
        remedy = (
            f"rename them, name the meaning of numbers with class_names ({', '.join(SCHEMES)}), "
            f"leave them out with leave_out, or keep these names with class_names: own"
        )
    else:
        scheme = SCHEMES[class_names]
        # A reader that knows the numbers of its set has named the classes already.
        renamed = [
            scheme.get(int(name)) if name.isdecimal() else emotion_of(name) for name in names
        ]
        expected = f"numbers of {class_names} ({min(scheme)} to {max(scheme)})"
        remedy = "choose another value of class_names"
    if unknown := [name for name, new in zip(names, renamed, strict=True) if new is None]:
        raise ValueError(
            f"{source}: classes: expected {expected}, got {', '.join(unknown[:20])}; {remedy}"
        )
    return [name for name in renamed if name]
