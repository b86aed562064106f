"""Write a drawn set to disk, completely or not at all, and never over a user's files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from fervit_lib.system import distributed
from fervit_lib.system.atomic import read_json, write_json
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.identity import digest
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.progress import progress

MARKER = "SYNTHETIC.json"  # beside the splits; a set with it was drawn by code


@distributed.rank_zero_only
def write_toy_set(
    folder: Path, number: int, draw: Callable[[int], dict[str, Image.Image]], **settings: Any
) -> Path:
    """Write a set and its marker, unless it is there already, and return its folder.

    That is `folder`; where a set of other settings is there, `<folder>-<8 hex digits>` beside it,
    because codes and models may name those pictures.

    Args:
        number: of drawings.
        draw: the number of a drawing, from 0, to its pictures by their names within `folder`.
        settings: how the set is drawn, as written into the marker; `generator` names the drawing.

    Raises:
        ValueError: `folder` holds other files.
    """
    generator = settings["generator"]
    if _drawn_settings(folder, generator) == settings:
        return folder  # without a lock: its place may be read-only
    target = folder.resolve()  # keeps a link, for example to a larger disk
    with hold_lock(target.with_name(f".{target.name}.lock")), explain_write_error(target):
        # Another process may have drawn while this one waited for the lock.
        drawn = _drawn_settings(folder, generator)
        if drawn not in ({}, settings):
            folder = folder.with_name(f"{folder.name}-{digest(settings)[:8]}")
            drawn = _drawn_settings(folder, generator)
        if drawn == settings:
            return folder
        target = folder.resolve()
        drawing = target.with_name(f".{target.name}.drawing")
        # Drawn beside the target and renamed: a set is complete, or not there.
        shutil.rmtree(drawing, ignore_errors=True)  # left by a killed process
        try:
            for index in progress(range(number), desc="draw", unit=" pictures"):
                for name, picture in draw(index).items():
                    path = drawing / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
            write_json(drawing / MARKER, settings)
            drawing.rename(target)  # which is not there, or an empty folder
        finally:
            shutil.rmtree(drawing, ignore_errors=True)
    return folder


def _drawn_settings(folder: Path, generator: str) -> dict:
    """The settings of the set in `folder`; {} if there is no folder, or an empty one.

    Raises:
        ValueError: it holds anything else, which would be lost.
    """
    try:
        marker = read_json(folder / MARKER)
        if marker["generator"] == generator:
            return marker
    except (OSError, ValueError, TypeError, KeyError):
        pass
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(
            f"{folder}: holds files that are not {generator}, or its {MARKER} is damaged; choose "
            f"another folder for {generator}, or move them away"
        )
    return {}
