"""Locks on files, which the system lets go of when their holder ends, however it ends."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from fervit_lib.system.errors import explain_write_error


def take_lock(path: Path) -> IO[str]:
    """Hold the lock file `path`, after whoever else does, until what is returned is closed."""
    return _take(path, fcntl.LOCK_EX)


def try_lock(path: Path) -> IO[str] | None:
    """As `take_lock`; None, at once, where somebody else holds it, see `holder`."""
    try:
        return _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _take(path: Path, how: int) -> IO[str]:
    while (file := _lock(path, how)) is None:
        pass
    said = f"process {os.getpid()} on {platform.node()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    with suppress(OSError):  # a disk that is full takes no word, but the lock holds
        file.truncate(0)
        os.write(file.fileno(), said.encode())
    return file


def _lock(path: Path, how: int) -> IO[str] | None:
    """None where whoever held it has removed it meanwhile, with its folder."""
    with ExitStack() as on_failure:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = on_failure.enter_context(path.open("a", encoding="utf-8"))
            fcntl.flock(file, how)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return None
        except FileNotFoundError:
            return None
        except FileExistsError:  # as mkdir says where the folder was there a moment ago
            if path.parent.is_file():
                raise
            return None
        on_failure.pop_all()
        return file


def holder(path: Path) -> str:
    """Who holds the lock `path`, in words."""
    return path.read_text(encoding="utf-8") or "another process"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after whoever else does.

    Raises:
        OSError: it cannot be made: the disk is full, or not to be written to.
    """
    with explain_write_error(path):
        file = take_lock(path)
    with file:
        yield
