"""File locks that the OS releases when the process exits, even if it is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from fervit_lib.system.errors import explain_write_error


def file_lock(path: Path, is_singleton: bool = False) -> FileLock:
    """A lock on the file `path`, not yet acquired.

    Args:
        is_singleton: within this process, return the same object for the same path.
    """
    # Not thread-local, so that another thread than the one that acquired the lock can release it.
    # Where flock is missing, filelock would fall back to an existence lock, which a killed process
    # leaves behind. filelock cannot tell who holds a lock, so the hook writes it to the file.
    return FileLock(
        path,
        thread_local=False,
        is_singleton=is_singleton,
        fallback_to_soft=False,
        on_acquired=_write_holder,
    )


def _write_holder(descriptor: int) -> None:
    now = datetime.now(UTC)
    holder = f"process {os.getpid()} since {now:%Y-%m-%d %H:%M:%S} UTC"
    with suppress(OSError):  # the lock holds on a full disk too, without its holder's name
        os.truncate(descriptor, 0)
        os.write(descriptor, holder.encode())


def lock_holder(path: Path) -> str:
    """The process that holds the lock on the file `path`, in words."""
    return path.read_text(encoding="utf-8") or "another process"


def try_lock(path: Path, is_singleton: bool = False) -> FileLock | None:
    """Acquire the lock on the file `path`; None if another process holds it.

    Raises:
        OSError: the lock file cannot be written.
    """
    lock = file_lock(path, is_singleton)
    try:
        with explain_write_error(path):
            lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock on the file `path`, after waiting for any other holder.

    Raises:
        OSError: the lock file cannot be written.
    """
    with explain_write_error(path):
        acquired = file_lock(path).acquire()
    with acquired:
        yield


def remove_lock(lock: FileLock) -> None:
    """Remove the file of a held lock, then release it.

    The order matters: a process that waits for the removed file sees that it has no name any more,
    and creates the next one.
    """
    try:
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()
