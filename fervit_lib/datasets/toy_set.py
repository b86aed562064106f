"""Toy sets on disk, in the layout that users bring: written whole, and never over a user's files."""

import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.toy_faces import toy_face
from fervit_lib.system import distributed
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.locks import locked
from fervit_lib.system.progress import progress

VERSION = 2  # of the drawing: a set drawn otherwise is drawn anew
MARKER = "SYNTHETIC.json"
# The splits of ten successive faces of one class: 70/10/20%, and each split is there from the fourth face on.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "train", "train")


def _read_marker(folder: Path, generator: str) -> dict | None:
    """The marker of a toy set in `folder`; None if there is none, or if something else wrote it."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and marker.get("generator") == generator else None


def draw_toy_faces(
    folder: Path | str, num_faces: int = 3000, size: int = 64, seed: int = 0
) -> Path:
    """Draw a data set of toy faces into `folder`, laid out as `{train,val,test}/{emotion}/*.png`, and return `folder`.

    70/10/20% of each class go to train/val/test; classes differ by at most one face. The same arguments give the same
    files bit for bit, whatever was drawn before, and a larger `num_faces` only adds faces. `SYNTHETIC.json` beside the
    splits says how they were drawn: a folder drawn with the same values is left as it is, one with others is redrawn.

    Raises ValueError for fewer than 28 faces (a split would lack a class), and for a folder that holds anything else:
    a user's photographs are never overwritten.
    """
    if num_faces < 4 * len(EMOTIONS):
        raise ValueError(
            f"num_faces must be at least {4 * len(EMOTIONS)}, for every class in every split; got {num_faces}"
        )
    settings = {
        "generator": "toy_faces",
        "version": VERSION,
        "num_faces": num_faces,
        "size": size,
        "seed": seed,
    }

    def draw() -> Iterable[tuple[str, Image.Image]]:
        for index in progress(range(num_faces), desc="draw faces", unit=" faces"):
            number, label = divmod(index, len(EMOTIONS))
            name = f"{_SPLITS[number % len(_SPLITS)]}/{EMOTIONS[label]}/{index:06d}.png"
            yield name, toy_face(EMOTIONS[label], np.random.default_rng((seed, index)), size)

    ours = {f"{split}/{emotion}" for split in _SPLITS for emotion in EMOTIONS}
    return write_toy_set(Path(folder), settings, draw(), ours)


@distributed.rank_zero_only
def write_toy_set(
    folder: Path,
    marker: Mapping[str, Any],
    pictures: Iterable[tuple[str, Image.Image]],
    ours: Collection[str],
) -> Path:
    """Write a toy set whole or not at all, beside its marker; nothing is drawn if it is there already.

    Args:
        marker: how the set is drawn; `generator` names it.
        pictures: name within `folder` and picture of every file.
        ours: the folders within `folder` that may hold pictures of this generator.

    Raises:
        ValueError: the folder holds anything else.
    """
    target = folder.resolve()  # a link to a larger disk stays a link
    if _is_drawn(target, marker, ours):
        return folder
    drawing = target.with_name(f".{target.name}.drawing")
    with locked(target.with_name(f".{target.name}.lock")), explain_write_error(target):
        if _is_drawn(target, marker, ours):  # by another process, meanwhile
            return folder
        shutil.rmtree(drawing, ignore_errors=True)  # of a process that was killed
        try:
            for name, picture in pictures:
                path = drawing / name
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            (drawing / MARKER).write_text(json.dumps(marker))
            if target.exists():
                shutil.rmtree(target)
            drawing.rename(target)
        finally:
            shutil.rmtree(drawing, ignore_errors=True)
    return folder


def _is_drawn(folder: Path, marker: Mapping[str, Any], ours: Collection[str]) -> bool:
    """Whether the very set is there. Raises ValueError where anything else is that was not drawn."""
    found = _read_marker(folder, marker["generator"])
    if found != marker:
        what = marker["generator"].replace("_", " ")
        _refuse_foreign_files(folder, found, what, {folder / name for name in ours})
    return found == marker


def _refuse_foreign_files(
    folder: Path, marker: dict | None, what: str, ours: Collection[Path]
) -> None:
    if not folder.exists():
        return
    remedy = f"choose another folder for the {what}, or move these files away"
    if not folder.is_dir() or (marker is None and any(folder.iterdir())):
        raise ValueError(f"folder {folder} holds files that are not {what} (no {MARKER}); {remedy}")
    for path in folder.rglob("*"):
        drawn = path.suffix == ".png" and path.stem.isdecimal() and path.parent in ours
        if path.is_file() and path != folder / MARKER and not drawn:
            raise ValueError(
                f"folder {folder} holds {what} to be redrawn, but also {path.name}; {remedy}"
            )
