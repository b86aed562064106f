import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fervit_lib import runs
from fervit_lib.system.runtime import PROJECT_ROOT, resolve
from tests.faults.notebooks import FORK


def start(reports: Path, **options: Any) -> runs.Run:
    names = {"experiment": "e", "step": "train", "variant": "v", "parameters": {"lr": 0.1}}
    return runs.start_run(reports, **names | options, seed=3, device="cpu")


def test_a_run_has_a_config_and_no_earlier_result(tmp_path: Path) -> None:
    start(tmp_path).write_result(accuracy=0.5)
    assert runs.Run(tmp_path, "e", "train", "v").result["accuracy"] == 0.5
    run = start(tmp_path)
    with pytest.raises(FileNotFoundError):
        _ = run.result
    assert run.config["parameters"] == {"lr": 0.1}
    assert run.config["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_finished_run_of_other_parameters_is_replaced_only_if_asked(tmp_path: Path) -> None:
    start(tmp_path).write_result(accuracy=0.5)
    with pytest.raises(ValueError, match="e/train/v: .*lr=0.1.*overwrite"):
        start(tmp_path, parameters={"lr": 0.2})
    assert runs.Run(tmp_path, "e", "train", "v").result["accuracy"] == 0.5
    start(tmp_path, parameters={"lr": 0.1, "interactive": False}).write_result(accuracy=0.6)
    start(tmp_path, parameters={"lr": 0.2}, overwrite=True).write_result(accuracy=0.7)
    for names in ({"experiment": "scratchpad"}, {"variant": "scratchpad"}):
        start(tmp_path, **names).write_result()
        start(tmp_path, parameters={"lr": 0.2}, **names)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "-x", "a\n", "a" * 300, 7])
@pytest.mark.parametrize("argument", ["experiment", "step", "variant"])
def test_a_name_that_cannot_be_a_folder_is_refused(
    tmp_path: Path, argument: str, name: object
) -> None:
    with pytest.raises(ValueError, match=f"{argument}: expected"):
        start(tmp_path, **{argument: name})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("linked", ["e", "e/train", "e/train/v"])
def test_a_run_linked_to_another_folder_is_refused(tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "reports" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(ValueError, match=str(link.relative_to(tmp_path))):
        start(tmp_path / "reports")
    assert not list(outside.iterdir())


def test_the_folder_of_all_runs_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "reports").symlink_to(tmp_path / "disk")
    assert start(tmp_path / "reports").config["variant"] == "v"


@pytest.mark.parametrize("name", ["../up", "/etc", "a;b", "a b", "é", "", 7, "x" * 300])
@pytest.mark.parametrize("parameter", ["experiment", "dataset", "variant"])
def test_names_in_a_notebook_are_checked(parameter: str, name: object) -> None:
    if parameter != "dataset" and not name:
        return  # a default of some notebooks
    namespace = {"__annotations__": {parameter: str}, parameter: name}
    with pytest.raises(ValueError, match=f"{parameter}: expected"):
        runs.notebook_parameters(namespace)


@pytest.mark.parametrize("value", ["pretrained_models/\udc8f\udc9a.pt", "x" * 100_000])
def test_texts_that_cannot_be_recorded_are_refused(value: str) -> None:
    namespace = {"__annotations__": {"checkpoint": str}, "checkpoint": value}
    with pytest.raises(ValueError, match="checkpoint: expected.*UTF-8") as refused:
        runs.notebook_parameters(namespace)
    assert len(str(refused.value).encode()) < 2000


@pytest.mark.parametrize(
    ("is_complete", "resume", "is_kept"),
    [(False, True, True), (False, False, False), (True, True, False)],
)
def test_the_state_of_an_interrupted_fit_is_kept(
    tmp_path: Path, is_complete: bool, resume: bool, is_kept: bool
) -> None:
    run = start(tmp_path)
    run.last_checkpoint.parent.mkdir()
    epoch = run.last_checkpoint.with_name("epoch_1.safetensors")  # of `keep_epochs`
    for path in (run.last_checkpoint, epoch, run.best_checkpoint):
        path.touch()
    if is_complete:
        run.write_result()
    run = start(tmp_path, resume=resume)
    assert run.last_checkpoint.exists() == epoch.exists() == is_kept
    assert run.best_checkpoint.exists()


def test_notebook_parameters_are_the_same_when_all_cells_are_run_again() -> None:
    namespace: dict = {}
    for _ in range(2):
        exec('lr: float = 0.1\nname: str = "a"\nflag: bool = True', namespace)
        namespace["name"] = "injected"  # as papermill does
        parameters = runs.notebook_parameters(namespace)
        assert parameters == {"lr": 0.1, "name": "injected", "flag": True}
        exec('hardware = "cpu"\nwidth = 3\nrows: list = []', namespace)


@pytest.mark.parametrize(
    ("injected", "problem"),
    [
        ('flag = "false"', "flag: expected bool, got 'false'"),
        ('lr = "fast"', "lr: expected float"),
        ("lr = True", "lr: expected float"),
        ("epoch = 3", "epoch: no parameter .* 'epochs'"),
    ],
)
def test_what_papermill_passes_is_checked(injected: str, problem: str) -> None:
    cells = ["lr: float = 0.1\nepochs: int = 2\nflag: bool = True", f"# Parameters\n{injected}"]
    namespace: dict = {"In": ["", *cells, "later = 1"]}
    for cell in cells:
        exec(cell, namespace)
    with pytest.raises(ValueError, match=problem):
        runs.notebook_parameters(namespace)


def start_and_wait(reports: Path) -> None:
    run = start(reports)
    run.last_checkpoint.parent.mkdir()
    run.last_checkpoint.write_text("state")
    time.sleep(600)


def test_a_second_process_is_refused_and_a_kill_releases_the_run(tmp_path: Path) -> None:
    process = FORK.Process(target=start_and_wait, args=(tmp_path,))
    process.start()
    folder = tmp_path / "e" / "train" / "v"
    while process.is_alive() and not (folder / "checkpoints" / "last.safetensors").exists():
        time.sleep(0.01)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    holder = rf"process {process.pid} since \d{{4}}-\d\d-\d\d"
    for resume in (True, False):
        with pytest.raises(RuntimeError, match=holder):
            start(tmp_path, resume=resume)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    process.kill()
    process.join()
    assert start(tmp_path).last_checkpoint.read_text() == "state"


@pytest.fixture
def is_free(tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """Whether another process can start the run."""
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


def test_a_run_is_held_until_its_result_is_written_or_it_is_dropped(
    tmp_path: Path, is_free: Callable[[], bool]
) -> None:
    run = start(tmp_path)
    assert not is_free()
    run = start(tmp_path)  # as when a cell of a notebook is run again
    assert not is_free()
    assert pickle.loads(pickle.dumps(run)) == run
    run.write_result(accuracy=1.0)
    assert is_free()
    run = start(tmp_path)
    assert not is_free()
    del run
    assert is_free()


def test_a_run_that_is_not_exclusive_is_held_by_nobody(
    tmp_path: Path, is_free: Callable[[], bool]
) -> None:
    run = start(tmp_path, exclusive=False)
    assert run.lock is None
    assert is_free()


def test_recorded_paths_are_relative_and_lead_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    paths = [str(home / "faces"), str(tmp_path / "faces"), str(PROJECT_ROOT / "data"), "data/toy"]
    for path in paths:
        namespace = {"__annotations__": {"faces": str}, "faces": path}
        recorded = runs.notebook_parameters(namespace)["faces"]
        assert not recorded.startswith("/") and "home" not in recorded
        assert resolve(recorded).resolve() == resolve(path).resolve()
    start(tmp_path).write_result(latents=paths[0], table=[{"file": paths[1]}], share=0.5)
    result = runs.Run(tmp_path, "e", "train", "v").result
    assert result["latents"] == "~/faces" and result["share"] == 0.5
    assert not result["table"][0]["file"].startswith("/")
