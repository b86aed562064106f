"""Commands in a warm process: the results of a cold one, and nothing is left when one is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from fervit_lib.report import warm
from fervit_lib.system.runtime import PROJECT_ROOT

START = """
import os, sys
from fervit_lib.report import warm
warm.start_server()
print(os.environ[warm.SOCKET], flush=True)
sys.stdin.read()
"""
WHERE = "import sys, torch; print('fastai' in sys.modules, torch.get_num_threads())"
FIGURES = (
    "from fervit_lib.figures.theme import use_theme; use_theme()\n"
    "import plotly.graph_objects as go; go.Figure([go.Bar(y=[1])]).show()",
    "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()",
    "import warnings; warnings.warn('mind this')",
    "from fervit_lib.system.runtime import seed_everything; seed_everything(0)\n"
    "torch.nn.Linear(99, 9)(torch.randn(99)).sum().item()",
)


@pytest.fixture(scope="module")
def parent() -> "Iterator[subprocess.Popen[str]]":
    """A process that has started a server, as Snakemake does."""
    if warm.list_gpus() or sys.platform != "linux":
        pytest.skip("no warm process on a machine with a GPU, or outside of Linux")
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "ignore", "-c", START]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=pipe, stdout=pipe, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def socket(parent: "subprocess.Popen[str]") -> str:
    return parent.stdout.readline().strip()


def write_source(folder: Path, *cells: str) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    code = [new_code_cell(cell) for cell in cells]
    notebook = new_notebook(cells=code, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "source.ipynb")
    return folder / "source.ipynb"


def start(folder: Path, *cells: str, socket: str, threads: int = 1) -> subprocess.Popen[str]:
    """Execute cells into `folder`, warm, or cold if `socket` is empty."""
    folder.mkdir()
    command = [sys.executable, "-m", "fervit_lib.report", "run", write_source(folder, *cells)]
    return subprocess.Popen(
        [*command, folder, "{}"],
        cwd=PROJECT_ROOT,
        env=os.environ | {warm.SOCKET: socket, "OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs(folder: Path) -> list[list[NotebookNode]]:
    cells = nbformat.read(folder / "notebook.ipynb", as_version=4).cells
    return [cell.outputs for cell in cells]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_without_a_server_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(warm.SOCKET, raising=False)
    assert warm.request(["index", "reports/none"]) is None
    monkeypatch.setenv(warm.SOCKET, "/no/such/socket")
    assert warm.request(["index", "reports/none"]) is None


@pytest.mark.slow
@pytest.mark.launched
@pytest.mark.notebooks
class TestWarmProcess:
    def test_a_notebook_shows_what_it_shows_in_a_cold_process(
        self, socket: str, tmp_path: Path
    ) -> None:
        shown = {}
        for name, address in (("cold", ""), ("warm", socket)):
            process = start(tmp_path / name, WHERE, *FIGURES, socket=address, threads=2)
            assert process.communicate()[1] == "" and process.returncode == 0
            where, *shown[name] = outputs(tmp_path / name)
            has_fastai, threads = where[0].text.split()
            assert (has_fastai, threads) == (str(name == "warm"), "2")
            assert "over TCP" not in (tmp_path / name / "log.txt").read_text()
        texts = [
            json.dumps(cells)
            .replace("ipykernel_", "")
            .translate(str.maketrans("", "", "0123456789"))
            for cells in shown.values()
        ]
        assert texts[0] == texts[1]
        assert shown["warm"][3] == shown["cold"][3]  # the seeded number, with its digits

    def test_the_notebook_has_the_times_outside_of_its_cells(
        self, socket: str, tmp_path: Path
    ) -> None:
        assert start(tmp_path / "run", "1", socket=socket).wait() == 0
        metadata = nbformat.read(tmp_path / "run" / "notebook.ipynb", as_version=4).metadata
        assert metadata.fervit.started < metadata.papermill.start_time
        assert metadata.fervit.page_seconds > 0

    def test_a_failed_cell_ends_the_command_with_its_error(
        self, socket: str, tmp_path: Path
    ) -> None:
        process = start(
            tmp_path / "run", "1", "raise ValueError('lr: expected more')", socket=socket
        )
        assert "failed in cell 2" in process.communicate()[1]
        assert process.returncode == 1
        assert "lr: expected more" in (tmp_path / "run" / "notebook.html").read_text()

    @pytest.mark.parametrize("warm_process", [True, False], ids=["warm", "cold"])
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
    def test_a_killed_command_leaves_no_kernel(
        self, socket: str, tmp_path: Path, number: signal.Signals, warm_process: bool
    ) -> None:
        file = tmp_path / "pid"
        cell = (
            f"import os, time; open({str(file)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(99)"
        )
        process = start(tmp_path / "run", cell, socket=socket if warm_process else "")
        wait_for(lambda: file.exists() and file.read_text().endswith(" "))
        kernel = int(file.read_text())
        executing = psutil.Process(kernel).ppid()
        assert (executing == process.pid) != warm_process
        process.send_signal(number)
        process.communicate()
        wait_for(lambda: not is_running(kernel) and not is_running(executing))

    def test_it_ends_with_its_parent(self, parent: "subprocess.Popen[str]", socket: str) -> None:
        [server] = psutil.Process(parent.pid).children()
        assert is_running(server.pid)
        parent.kill()
        wait_for(lambda: not is_running(server.pid))
        assert not Path(socket).parent.exists()
