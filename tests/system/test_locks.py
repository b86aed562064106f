import os
import signal
import time
from pathlib import Path

import pytest

from fervit_lib.system import locks
from tests.faults.notebooks import FORK


def hold_until_killed(path: Path) -> None:
    with locks.hold_lock(path):
        path.with_suffix(".ready").touch()
        time.sleep(600)


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lock on `a.lock`."""
    process = FORK.Process(target=hold_until_killed, args=(tmp_path / "a.lock",))
    process.start()
    while process.is_alive() and not (tmp_path / "a.ready").exists():
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_a_lock_is_refused_with_its_holder_and_a_kill_releases_it(tmp_path: Path, holder) -> None:
    path = tmp_path / "a.lock"
    assert locks.try_lock(path) is None
    expected = f"process {holder.pid} since "
    assert locks.lock_holder(path).startswith(expected)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    lock = locks.try_lock(path)
    assert lock.is_locked
    assert locks.lock_holder(path).startswith(f"process {os.getpid()} ")


def test_a_lock_is_released_with_its_last_reference(tmp_path: Path) -> None:
    lock = locks.try_lock(tmp_path / "a.lock")
    assert locks.try_lock(tmp_path / "a.lock") is None
    del lock
    assert locks.try_lock(tmp_path / "a.lock")


def test_a_singleton_is_the_same_lock(tmp_path: Path) -> None:
    lock = locks.try_lock(tmp_path / "a.lock", is_singleton=True)
    assert locks.try_lock(tmp_path / "a.lock", is_singleton=True) is lock


def count_up(path: Path) -> None:
    for _ in range(50):
        lock = locks.file_lock(path.with_suffix(".lock"))
        lock.acquire(poll_interval=0.001)
        number = int(path.read_text())
        time.sleep(0.0005)
        path.write_text(str(number + 1))
        locks.remove_lock(lock)


def test_removing_the_lock_file_keeps_its_mutual_exclusion(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0")
    processes = [FORK.Process(target=count_up, args=(path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "150"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"a\.lock: could not be written"):
        locks.try_lock(tmp_path / "file" / "a.lock")
