"""Files written whole or not at all: to a temporary name, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from fervit_lib.system import distributed
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.locks import take_lock, try_lock


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to; rename it to `path` if the block succeeds, leave `path` as it was if not.

    It lies in a folder of its own beside `path`, for whatever a library writes there; two writers of one file wait for
    each other. The folder that a killed writer leaves goes with the next one's, or by `remove_partial_writes`.

    Raises:
        OSError: the disk is full, or not to be written to.
    """
    folder = path.with_name(f".{path.name}.tmp")
    with explain_write_error(path):
        lock = take_lock(folder / "lock")
        try:
            yield folder / path.name
            (folder / path.name).replace(path)
        finally:
            _remove(folder, lock)


def remove_partial_writes(folder: Path) -> None:
    """Remove what killed writers left half written in `folder` and below; nothing that somebody writes now."""
    for place, names, _ in os.walk(folder):  # which does not mind what goes meanwhile
        for name in names:
            if (
                name.startswith(".")
                and name.endswith(".tmp")
                and (lock := try_lock(Path(place, name, "lock")))
            ):
                _remove(Path(place, name), lock)


def _remove(folder: Path, lock: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
    with suppress(OSError):  # a network file system keeps the folder of an open file
        folder.rmdir()


def json_default(value: Any) -> Any:
    """Numpy and path values as JSON knows them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a run file cannot hold a {type(value).__name__}: {value!r}")


@distributed.rank_zero_only
def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` whole or not at all."""
    text = json.dumps(content, indent=2, default=json_default, ensure_ascii=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a JSON object, but it does not parse ({error}); make it anew"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a JSON object, got a {type(content).__name__}; make it anew"
        )
    return content
