"""Two identical commands at once: the second says who holds the run, and changes nothing."""

import pickle
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fervit_lib import runs
from fervit_lib.datasets import draw_toy_faces
from fervit_lib.system import atomic
from tests.faults.notebooks import FORK

HOLD = """
import sys, time
from pathlib import Path
from fervit_lib import runs
run = runs.start_run(Path(sys.argv[1]), "e", "train", "v", parameters={"lr": 0.1}, seed=0, device="cpu")
(run.folder / "checkpoints").mkdir()
run.last_checkpoint.write_text("its state")
print("holds", flush=True)
time.sleep(600)
"""


def start(reports: Path, **more: Any) -> runs.Run:
    return runs.start_run(reports, "e", "train", "v", parameters={}, seed=0, device="cpu", **more)


def test_the_second_says_who_holds_it_and_a_kill_sets_it_free(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "holds\n"
        folder = tmp_path / "e" / "train" / "v"
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        told = rf"v: process {first.pid} on {platform.node()} since \d{{4}}-\d\d-\d\d .* works on this run.*wait until"
        for resume in (True, False):
            with pytest.raises(RuntimeError, match=told):
                start(tmp_path, resume=resume)
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    finally:
        first.kill()
        first.wait()
    assert start(tmp_path).last_checkpoint.read_text() == "its state"


@pytest.fixture
def may_start(tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """Whether another process may work on the run: one that was there before, since a child has what its parent has."""
    ours, theirs = FORK.Pipe()

    def attempt() -> None:
        while theirs.recv():
            try:
                start(tmp_path)
                theirs.send(True)
            except RuntimeError:
                theirs.send(False)

    process = FORK.Process(target=attempt)
    process.start()

    def ask() -> bool:
        ours.send(True)
        return ours.recv()

    yield ask
    ours.send(False)
    process.join()


def test_a_run_is_held_until_its_result_is_written_or_it_is_let_go_of(
    tmp_path: Path, may_start: Callable[[], bool]
) -> None:
    run = start(tmp_path)
    assert not may_start()
    run = start(tmp_path)  # as where a cell of a notebook is run again
    assert not may_start()
    assert pickle.loads(pickle.dumps(run)) == run
    run.write_result(accuracy=1.0)
    assert may_start()
    run = start(tmp_path)
    assert not may_start()
    del run
    assert may_start()


def test_a_run_that_several_work_on_together_is_held_by_nobody(
    tmp_path: Path, may_start: Callable[[], bool]
) -> None:
    run = start(tmp_path, exclusive=False)
    assert run.lock is None
    assert may_start()


def test_several_that_draw_the_same_faces_draw_them_once(tmp_path: Path) -> None:
    (tmp_path / ".toy.drawing").mkdir()  # of one that was killed
    processes = [
        FORK.Process(target=draw_toy_faces, args=(tmp_path / "toy", 28, 32)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".toy.lock", "toy"]
    assert len(list(tmp_path.rglob("*.png"))) == 28


def test_two_that_write_one_file_wait_for_each_other_and_leave_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(100):
            atomic.write_json(tmp_path / "a.json", {"numbers": [number] * 100})

    processes = [FORK.Process(target=write, args=(number,)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert len(set(atomic.read_json(tmp_path / "a.json")["numbers"])) == 1


def test_what_a_killed_writer_left_goes_and_what_somebody_writes_stays(tmp_path: Path) -> None:
    torn = tmp_path / "a" / ".x.json.tmp"
    torn.mkdir(parents=True)
    (torn / "x.json").write_text("{")
    with atomic.atomic_write(tmp_path / "b" / "y.json") as temporary:
        temporary.write_text("{}")
        atomic.remove_partial_writes(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "y.json"]
