"""Several processes that draw the same toy faces at once."""

from pathlib import Path

from fervit_lib.datasets import draw_toy_faces
from tests.faults.notebooks import FORK


def test_processes_that_draw_the_same_faces_draw_them_once(tmp_path: Path) -> None:
    (tmp_path / ".toy.drawing").mkdir()  # left by a killed process
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
