"""Check arguments: names, choices, ranges. Imports nothing heavy: the Snakefile uses it, too."""

import difflib
import math
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

# The folder of all relative paths; of one's own where several users share an installation.
PROJECT_ROOT = Path(os.environ.get("FERVIT_HOME") or Path(__file__).parents[2]).resolve()
# Safe as a folder name everywhere; 200 leaves room for suffixes below the usual limit of 255.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@-]{,199}")
MAX_TEXT = 50_000  # the names of all runs of a large config
TYPES = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Optional[bool]": (bool, type(None)),
}


def check_name(argument: str, name: object) -> str:
    """Return `name` if it can be the name of a folder on every system.

    Raises:
        ValueError: it has other characters or is too long; the message names `argument`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{argument}: expected letters, digits, '.', '_', '=', '@' and '-', at most 200 "
            f"characters (it names a folder), got {show(name)}"
        )
    return name


def show(value: object) -> str:
    """`value` as Python writes it, at most 200 characters."""
    return cut(repr(value), 200)


def escape(text: object) -> str:
    """`text` in which the bytes of a file's name that are not UTF-8 can be printed."""
    return str(text).encode(errors="backslashreplace").decode()


def cut(text: str, length: int) -> str:
    """`text`, at most `length` characters of it."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def check_choice(argument: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError that lists `choices` unless `value` is one of them."""
    # A tuple, because a list or dict from a YAML file cannot be looked up in a dict.
    if value not in tuple(choices):
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {show(value)}")


def check_range(argument: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise a ValueError unless `value` is in [low, high), which never holds for NaN."""
    if not low <= value < high:
        raise ValueError(f"{argument}: expected a number in [{low}, {high}), got {show(value)}")


def check_share(argument: str, value: float) -> None:
    """Raise a ValueError unless `value` is in (0, 1], which never holds for NaN."""
    if not 0 < value <= 1:
        raise ValueError(f"{argument}: expected a share in (0, 1], got {show(value)}")


def check_value(where: str, value: object, expected: str) -> None:
    """Raise a ValueError if `value` is not of the type that a notebook annotates."""
    # In Python, True is an int. NaN is not equal to itself.
    is_wrong = isinstance(value, bool) and "bool" not in expected
    if is_wrong or not isinstance(value, TYPES[expected]) or value != value:
        hints = {"float": " (in YAML, write 1.0e-4, not 1e-4)", "bool": " (write True or False)"}
        hint = hints.get(expected, "") if isinstance(value, str) else ""
        if expected == "Optional[bool]":
            hint = " (in YAML, write true, false or null)"
        if expected == "str":
            hint = " (in YAML, write it in quotes)"
        raise ValueError(f"{where}: expected {expected}, got {show(value)}{hint}")
    if isinstance(value, str) and (len(value) > MAX_TEXT or escape(value) != value):
        raise ValueError(
            f"{where}: expected at most {MAX_TEXT:,} characters of UTF-8, got {len(value):,}: "
            f"{show(value)}"
        )


def near(name: object, known: Iterable[str]) -> str:
    """Suggest the known name that is closest to `name`, or list all of them."""
    names = sorted(known)
    match = difflib.get_close_matches(str(name)[:200], names, 1)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"known are {cut(', '.join(names), 1000) or 'none'}"


def split_names(text: str) -> list[str]:
    """The names in a parameter that holds several, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
