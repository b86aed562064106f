import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib import runs
from fervit_lib.system import atomic, checkpoints


def test_json_round_trip_of_numpy_values(tmp_path: Path) -> None:
    atomic.write_json(
        tmp_path / "a.json",
        {"a": np.float32(0.5), "b": np.arange(2), "p": Path("x"), "name": "笑顔"},
    )
    assert atomic.read_json(tmp_path / "a.json") == {
        "a": 0.5,
        "b": [0, 1],
        "p": "x",
        "name": "笑顔",
    }


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic.write_json(target, {"a": 1})
    with pytest.raises(TypeError, match="object"):
        atomic.write_json(target, {"a": object()})
    with pytest.raises(RuntimeError), atomic.atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert atomic.read_json(target) == {"a": 1}


def test_a_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "big.json"
    code = (
        "import sys; from pathlib import Path; from fervit_lib.system import atomic\n"
        "while True: atomic.write_json(Path(sys.argv[1]), {'numbers': list(range(200_000))})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(target)])
    for _ in range(600):
        time.sleep(0.1)
        if target.exists():
            break
    time.sleep(0.35)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(json.loads(target.read_text())["numbers"]) == 200_000


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save_checkpoint(
        path, {"w": torch.arange(6.0).view(2, 3).T}, {"approach": "scratch"}
    )
    tensors, metadata = checkpoints.load_checkpoint(path)
    assert torch.equal(tensors["w"], torch.arange(6.0).view(2, 3).T)
    assert metadata == {"approach": "scratch"}


@pytest.mark.parametrize("kept", [0, 4, 40, 200])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save_checkpoint(path, {"w": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.safetensors.*truncated"):
        checkpoints.load_checkpoint(path)


def test_start_run_removes_the_older_result(tmp_path: Path) -> None:
    def start() -> runs.Run:
        return runs.start_run(
            tmp_path, "demo", "train", "a", parameters={"lr": 0.1}, seed=3, device="cpu"
        )

    start().write_result(accuracy=0.5)
    assert [run.variant for run in runs.completed_runs(tmp_path, "demo", "train")] == ["a"]
    run = start()
    assert runs.completed_runs(tmp_path, "demo", "train") == []
    assert run.config["parameters"] == {"lr": 0.1}
    assert run.config["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "-x"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="experiment"):
        runs.start_run(tmp_path, name, "train", "a", parameters={}, seed=0, device="cpu")
    assert not list(tmp_path.iterdir())


def test_notebook_parameters_are_the_plain_values() -> None:
    namespace = {
        "_i1": "x",
        "lr": 0.1,
        "name": "a",
        "flag": True,
        "runs": runs,
        "n": 3,
        "In": ["x"],
    }
    assert runs.notebook_parameters(namespace) == {"lr": 0.1, "name": "a", "flag": True, "n": 3}
