"""Write a drawn set to disk, completely or not at all, and never over a user's files."""

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from PIL import Image

from fervit_lib.system import distributed
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.identity import digest
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.progress import progress

MARKER = "SYNTHETIC.json"  # beside the splits; a set with it was drawn by code


@distributed.rank_zero_only
def write_toy_set(
    folder: Path,
    number: int,
    draw: Callable[[int], dict[str, Image.Image]],
    picture_folders: Collection[str],
    **settings: Any,
) -> Path:
    """Write a set and its marker, unless it is there already, and return its folder.

    That is `folder`; where a set of other settings is there, `<folder>-<8 hex digits>` beside it,
    because codes and models may name those pictures.

    Args:
        number: of drawings.
        draw: the number of a drawing, from 0, to its pictures by their names within `folder`.
        picture_folders: the folders within `folder` that may hold pictures of this generator.
        settings: how the set is drawn, as written into the marker; `generator` names the drawing.

    Raises:
        ValueError: `folder` holds other files.
    """
    target = folder.resolve()  # keeps a link, for example to a larger disk
    if _is_drawn(target, settings, picture_folders):
        return folder
    if (target / MARKER).is_file():
        folder = folder.with_name(f"{folder.name}-{digest(settings)[:8]}")
        target = folder.resolve()
    drawing = target.with_name(f".{target.name}.drawing")
    with hold_lock(target.with_name(f".{target.name}.lock")), explain_write_error(target):
        # Another process may have drawn it while this one waited for the lock.
        if _is_drawn(target, settings, picture_folders):
            return folder
        # Drawn beside the target and renamed: a set is complete, or not there.
        shutil.rmtree(drawing, ignore_errors=True)  # left by a killed process
        try:
            for index in progress(range(number), desc="draw", unit=" pictures"):
                for name, picture in draw(index).items():
                    path = drawing / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
            (drawing / MARKER).write_text(json.dumps(settings))
            if target.exists():
                shutil.rmtree(target)
            drawing.rename(target)
        finally:
            shutil.rmtree(drawing, ignore_errors=True)
    return folder


def _is_drawn(folder: Path, settings: dict[str, Any], picture_folders: Collection[str]) -> bool:
    """Whether `folder` holds the set of these settings.

    Raises:
        ValueError: it holds files of any other origin, which would be lost.
    """
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        marker = {}
    if marker == settings or not folder.exists():
        return marker == settings
    generator = settings["generator"]
    allowed = {folder / name for name in picture_folders}
    if not isinstance(marker, dict) or marker.get("generator") != generator:
        allowed = set()
    for path in [folder] if folder.is_file() else folder.rglob("*"):
        drawn = path.suffix == ".png" and path.stem.isdecimal() and path.parent in allowed
        if path.is_file() and not drawn and (path != folder / MARKER or not allowed):
            raise ValueError(
                f"{folder}: holds files that are not {generator}, like {path.name}, or its "
                f"{MARKER} is damaged; choose another folder for {generator}, or move them away"
            )
    return False
