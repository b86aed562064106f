"""Write files atomically: to a temporary name first, then rename."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fervit_lib.system import distributed
from fervit_lib.system.errors import explain_read_error, explain_write_error
from fervit_lib.system.identity import NO_CHECKSUM, check_checksum, write_checksum
from fervit_lib.system.locks import file_lock, remove_lock, try_lock

LOCK_SUFFIX = ".tmp.lock"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` if the block succeeds.

    The file gets the umask's mode. If the block raises, `path` stays as it was. The temporary path
    lies in a folder of its own beside `path`, because some libraries write more than one file. Two
    processes that write the same file wait for each other. What a killed process leaves behind is
    removed by the next write of the same file, or by `remove_partial_writes`.

    Raises:
        OSError: the disk is full, or `path` is not writable.
    """
    folder = path.with_name(f".{path.name}.tmp")
    with explain_write_error(path):
        # Beside the folder, not in it: filelock retries if a lock file was removed while it waited,
        # and fails if the folder was.
        lock = file_lock(path.with_name(f".{path.name}{LOCK_SUFFIX}"))
        lock.acquire()
        try:
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
            folder.mkdir()
            yield folder / path.name
            # safetensors makes its files private. The new folder shows the umask's mode; os.umask
            # would change that of other threads.
            with suppress(PermissionError):  # a file system without modes
                (folder / path.name).chmod(folder.stat().st_mode & 0o666)
            (folder / path.name).replace(path)
        finally:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:  # also where a user interrupts the cleaning
                remove_lock(lock)


def write_text(path: Path, text: str) -> None:
    """Write `text` to a file in UTF-8, by `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_partial_writes(folder: Path) -> None:
    """Remove what killed processes left half written in `folder` and its subfolders.

    Files that a running process is writing are kept.
    """
    # Unlike Path.rglob, os.walk tolerates folders that other processes remove meanwhile.
    for parent, _, names in os.walk(folder):
        for name in names:
            if not (name.startswith(".") and name.endswith(LOCK_SUFFIX)):
                continue
            lock = try_lock(Path(parent, name))
            if lock is not None:
                temporary = Path(parent, name.removesuffix(".lock"))
                shutil.rmtree(temporary, ignore_errors=True)
                remove_lock(lock)


def json_default(value: Any) -> Any:
    """Convert a NumPy value or a path to what JSON can hold: `default` of `json.dumps`."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"expected values that JSON can hold, got {type(value).__name__}: {value!r}")


@distributed.rank_zero_only
def write_json(path: Path, content: Mapping) -> None:
    """Write `content` and a checksum to a JSON file, atomically."""
    content = dict(checksum=NO_CHECKSUM, **content)  # a TypeError if it has that key already
    text = json.dumps(content, indent=2, default=json_default, ensure_ascii=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
        write_checksum(temporary)


def read_json(path: Path) -> dict:
    """Read a JSON object; its `checksum`, if it has one, is checked and removed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON object, or has changed since it was written.
    """
    with explain_read_error(
        path, "damaged, or no JSON object", "run the step that writes it again"
    ):
        check_checksum(path, required=False)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"got a {type(content).__name__}")
        content.pop("checksum", None)
        return content
