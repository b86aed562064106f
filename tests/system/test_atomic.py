import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.system import atomic
from fervit_lib.system.checkpoints import save_checkpoint
from tests.faults.notebooks import FORK


def test_json_round_trip_of_numpy_values(tmp_path: Path) -> None:
    content = {"a": np.float32(0.5), "b": np.arange(2), "p": Path("x"), "name": "笑顔"}
    atomic.write_json(tmp_path / "a.json", content)
    assert atomic.read_json(tmp_path / "a.json") == {
        "a": 0.5,
        "b": [0, 1],
        "p": "x",
        "name": "笑顔",
    }


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, "\udcff"])
def test_a_file_that_is_not_a_json_object_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"a\.json: damaged, or no JSON object"):
        atomic.read_json(path)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic.write_json(target, {"a": 1})
    with pytest.raises(TypeError, match="object"):
        atomic.write_json(target, {"a": object()})
    with pytest.raises(TypeError, match="checksum"):
        atomic.write_json(target, {"checksum": "mine"})
    with pytest.raises(RuntimeError), atomic.atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert atomic.read_json(target) == {"a": 1}


def test_a_library_may_write_a_second_file_beside_the_temporary_one(tmp_path: Path) -> None:
    with atomic.atomic_write(tmp_path / "a.txt") as temporary:
        temporary.with_suffix(".data").write_text("scratch")
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, {})
        atomic.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def write_until_killed(target: Path) -> None:
    while True:
        atomic.write_json(target, {"numbers": list(range(100_000))})


def test_a_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "big.json"
    process = FORK.Process(target=write_until_killed, args=(target,))
    process.start()
    while process.is_alive() and not target.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(json.loads(target.read_text())["numbers"]) == 100_000
    atomic.write_json(target, {})
    assert [path.name for path in tmp_path.iterdir()] == ["big.json"]


def write_half(target: Path) -> None:
    with atomic.atomic_write(target) as temporary:
        temporary.write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)


def test_partial_writes_of_killed_processes_are_removed_and_running_ones_kept(
    tmp_path: Path,
) -> None:
    process = FORK.Process(target=write_half, args=(tmp_path / "a" / "x.json",))
    process.start()
    process.join()
    assert list((tmp_path / "a").iterdir()), "or the kill came too late"
    with atomic.atomic_write(tmp_path / "b" / "y.json") as temporary:
        temporary.write_text("{}")
        atomic.remove_partial_writes(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "y.json"]


def write_often(target: Path, number: int) -> None:
    for _ in range(30):
        atomic.write_json(target, {"numbers": [number] * 100})


def test_processes_that_write_the_same_file_wait_for_each_other(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    processes = [FORK.Process(target=write_often, args=(target, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert len(set(atomic.read_json(target)["numbers"])) == 1


def test_an_interrupt_while_it_cleans_up_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "file.txt"
    for module, name in ((atomic.shutil, "rmtree"), (Path, "unlink")):
        with pytest.raises(KeyboardInterrupt) as error, atomic.atomic_write(path) as temporary:
            temporary.write_text("first")
            monkeypatch.setattr(module, name, interrupt)
        monkeypatch.undo()
        with atomic.atomic_write(path) as temporary:
            temporary.write_text("second")
        assert error  # its frames, as those of the last error in a notebook, are alive until here
        assert path.read_text() == "second"
