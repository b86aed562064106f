"""02_train and 03_distill by two processes of one launch: one run directory, as of one process."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from launched import ACCELERATE, TORCHRUN, launch

from fervit_lib.datasets import draw_toy_people
from fervit_lib.report.__main__ import main as report_main
from fervit_lib.system.runtime import PROJECT_ROOT

pytestmark = [pytest.mark.notebooks, pytest.mark.launched, pytest.mark.slow]
TRAIN = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "drop_rate": 0.0,
    "epochs": 2,
    "batch_size": 16,
    "lr": 1e-3,
}
DISTILL = {
    "toy_people": 20,
    "toy_size": 64,
    "image_size": 64,
    "batch_size": 4,
    "epochs": 1,
    "seeds": 1,
    "teacher": "toy",
    "teacher_epochs": 1,
    "teacher_encoder": "resnet18",
    "detector": "toy",
    "detector_epochs": 1,
    "student_encoder": "resnet18",
    "student_decoder": "slim",
}


def to_json(reports: Path, parameters: Mapping[str, Any]) -> str:
    shared = {"reports": str(reports), "experiment": "tiny", "precision": "float32"}
    return json.dumps({**shared, **parameters})


def run_by_one(notebook: str, reports: Path, parameters: Mapping[str, Any]) -> None:
    path = PROJECT_ROOT / "notebooks" / notebook
    report_main(["run", str(path), str(reports), to_json(reports, parameters)])


def run_by_two(
    notebook: str, reports: Path, parameters: Mapping[str, Any], by: tuple[str, ...] = TORCHRUN
) -> Any:
    arguments = "-m", "fervit_lib.report", "run", f"notebooks/{notebook}", reports
    return launch(*arguments, to_json(reports, parameters), by=by)


def file_names(reports: Path) -> list[str]:
    return sorted(str(p.relative_to(reports)) for p in reports.rglob("*") if p.is_file())


def test_02_train_by_two_processes_is_the_run_of_one(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    codes = make_store(tmp_path / "codes", {"train": 96, "val": 31, "test": 30}, noise=4.0)
    parameters = {**TRAIN, "latents": str(codes)}
    one, two = tmp_path / "one", tmp_path / "two"
    run_by_one("02_train.ipynb", one, parameters)
    launched = run_by_two("02_train.ipynb", two, parameters, by=ACCELERATE)
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert file_names(one) == file_names(two)
    variant = Path("tiny", "train", "scratch-full-seed0")
    losses = [
        pd.read_csv(reports / variant / "metrics.csv")[["train_loss", "valid_loss"]]
        for reports in (one, two)
    ]
    pd.testing.assert_frame_equal(*losses, rtol=0.02)
    config = json.loads((two / variant / "config.json").read_text())
    assert config["device"].startswith("2 x cpu")
    assert json.loads((two / variant / "result.json").read_text())["epochs"] == 2
    executed = nbformat.read(two / "notebook.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")


def test_03_distill_by_two_processes_writes_the_files_of_one(tmp_path: Path) -> None:
    """The curves differ: on CPUs the student's batch norm normalises each shard for itself."""
    parameters = {**DISTILL, "data_dir": str(tmp_path / "data")}
    one, two = tmp_path / "one", tmp_path / "two"
    run_by_one("03_distill.ipynb", one, parameters)
    launched = run_by_two("03_distill.ipynb", two, parameters)
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert file_names(one) == file_names(two)
    results = [
        json.loads((reports / "tiny/distill/all/result.json").read_text()) for reports in (one, two)
    ]
    arms = [[arm["arm"] for arm in result["arms"]] for result in results]
    assert arms[0] == arms[1]
    images = [[arm["test_images"] for arm in result["arms"]] for result in results]
    assert images[0] == images[1]  # gathered from both ranks, none missing or repeated


def test_an_image_that_one_rank_cannot_read_ends_all_and_is_named(tmp_path: Path) -> None:
    people = draw_toy_people(tmp_path / "people", 20, 64)
    broken = people / "train" / "images" / "000005.png"
    # The check at the start reads the ends of a JPEG: the damage between them is found later.
    broken.write_bytes(b"\xff\xd8\xff" + bytes(200) + b"\xff\xd9")
    launched = run_by_two("03_distill.ipynb", tmp_path / "run", {**DISTILL, "people": str(people)})
    assert launched.returncode != 0
    assert "000005.png: cannot be read as an image" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "notebook.html").is_file()
    assert not list(tmp_path.rglob("result.json"))
