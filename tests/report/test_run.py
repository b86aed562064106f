"""One step of an experiment: its GPUs, for which a script stands in the place of nvidia-smi."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fervit_lib.report.run import reserve_gpus, run_notebook
from fervit_lib.report.warm import list_gpus
from fervit_lib.system.runtime import PROJECT_ROOT

HOLD = """
import os, sys
from fervit_lib.report.run import reserve_gpus
with reserve_gpus(int(sys.argv[1])):
    print(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with GPU-a, GPU-b and GPU-c; returns the folder of the locks."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "cache" / "fervit" / "gpus"


@pytest.fixture
def hold() -> "Callable[[int], tuple[subprocess.Popen[str], str]]":
    """Start a process that reserves GPUs; returns it and the GPUs that it sees."""
    processes = []

    def start(count: int) -> "tuple[subprocess.Popen[str], str]":
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", HOLD, str(count)]
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=pipe, stdout=pipe, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


class TestReserveGpus:
    def test_two_processes_get_different_gpus_and_a_killed_one_frees_its_own(
        self, three_gpus: Path, hold: Callable
    ) -> None:
        process, gpus = hold(1)
        assert gpus == "GPU-a"
        with reserve_gpus(2):
            assert visible() == "GPU-b,GPU-c"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with reserve_gpus(1):
            assert visible() == "GPU-a"
        assert visible() is None
        assert {path.name for path in three_gpus.iterdir()} == {
            f"GPU-{name}.lock" for name in "abc"
        }

    def test_one_process_can_reserve_twice(self, three_gpus: Path) -> None:
        with reserve_gpus(1):
            first = visible()
            del os.environ["CUDA_VISIBLE_DEVICES"]
            with reserve_gpus(1):
                assert {first, visible()} == {"GPU-a", "GPU-b"}
            os.environ["CUDA_VISIBLE_DEVICES"] = first

    def test_a_step_sees_all_gpus_if_too_few_are_free(self, three_gpus: Path) -> None:
        with reserve_gpus(4):
            assert visible() is None

    @pytest.mark.parametrize("given", ["3", ""])
    def test_a_scheduler_decides(
        self, three_gpus: Path, monkeypatch: pytest.MonkeyPatch, given: str
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with reserve_gpus(1):
            assert visible() == given
        assert not three_gpus.exists()

    def test_a_machine_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert list_gpus() == []
        with reserve_gpus(1):
            assert visible() is None


@pytest.mark.slow
@pytest.mark.launched
@pytest.mark.notebooks
def test_several_gpus_are_reserved_once_for_all_processes_of_a_launch(
    three_gpus: Path, tmp_path: Path
) -> None:
    """Each process sees the GPUs of the launch; the notebook is replaced by one that shows them."""
    import nbformat

    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['WORLD_SIZE'])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(show)])
    nbformat.write(notebook, tmp_path / "show.ipynb")
    command = [sys.executable, "-m", "fervit_lib.report", "run", "--gpus", "2", "--launch"]
    done = subprocess.run(
        [*command, tmp_path / "show.ipynb", tmp_path / "run", "{}"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [cell] = nbformat.read(tmp_path / "run" / "notebook.ipynb", as_version=4).cells
    assert cell.outputs[0].text == "GPU-a,GPU-b 2\n"


@pytest.mark.parametrize("name", ["lr = 1; open('ran', 'w'); x", "epoch", "", "x" * 9000])
def test_a_name_that_the_notebook_does_not_have_never_becomes_code(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="no parameter of") as caught:
        run_notebook(PROJECT_ROOT / "notebooks" / "02_train.ipynb", tmp_path / "run", {name: 1})
    assert len(str(caught.value)) < 2000
    assert not (tmp_path / "run").exists()
