"""02_train and 03_distill by two processes of one launch: the run directory and the curves of one process."""

import json
import shutil
import subprocess
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

pytestmark = pytest.mark.notebooks
SMALL = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "drop_rate": 0.0,
    "epochs": 2,
    "batch_size": 16,
    "lr": 1e-3,
}
PEOPLE = {
    "toy_people": 20,
    "toy_size": 64,
    "image_size": 64,
    "batch_size": 4,
    "epochs": 2,
    "seeds": 1,
}
STAND_INS = {"teacher": "toy", "detector": "toy", "teacher_epochs": 1, "detector_epochs": 1}
MODELS = {"teacher_encoder": "resnet18", "student_encoder": "resnet18", "student_decoder": "slim"}


def given(reports: Path, parameters: Mapping[str, Any]) -> str:
    return json.dumps(
        {"reports": str(reports), "experiment": "tiny", "precision": "float32"} | dict(parameters)
    )


def run_alone(notebook: str, reports: Path, parameters: Mapping[str, Any]) -> None:
    report_main(
        [
            "run",
            str(PROJECT_ROOT / "notebooks" / notebook),
            str(reports),
            given(reports, parameters),
        ]
    )


def run_together(
    notebook: str, reports: Path, parameters: Mapping[str, Any], by: tuple[str, ...] = TORCHRUN
) -> subprocess.CompletedProcess[str]:
    told = given(reports, parameters)
    return launch("-m", "fervit_lib.report", "run", f"notebooks/{notebook}", reports, told, by=by)


def files_of(reports: Path) -> list[str]:
    """All files, TensorBoard's own names left out."""
    paths = (path.relative_to(reports) for path in reports.rglob("*") if path.is_file())
    return sorted(
        str(path.parent / "events" if path.name.startswith("events.") else path) for path in paths
    )


def check_same(reports: Path, other: Path) -> None:
    """The same files, and the same curves but for rounding; a pixel may fall on the other side of a threshold."""
    assert files_of(reports) == files_of(other)
    for path in reports.rglob("metrics.csv"):
        one, two = (
            pd.read_csv(p).drop(columns="seconds")
            for p in (path, other / path.relative_to(reports))
        )
        losses = [name for name in one if "loss" in name or "term" in name]
        pd.testing.assert_frame_equal(one[losses], two[losses], rtol=1e-4, atol=1e-6)
        pd.testing.assert_frame_equal(one, two, rtol=1e-2, atol=1e-3)


def test_02_train_is_one_run_of_several_processes(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    codes = make_store(tmp_path / "codes", {"train": 96, "val": 31, "test": 30}, noise=4.0)
    parameters = SMALL | {"latents": str(codes), "mixup": 0.4, "class_weights": True}
    run_alone("02_train.ipynb", tmp_path / "alone", parameters)
    done = run_together("02_train.ipynb", tmp_path / "together", parameters, by=ACCELERATE)
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(tmp_path / "alone", tmp_path / "together")
    run = tmp_path / "together" / "tiny" / "train" / "scratch-full-seed0"
    assert json.loads((run / "config.json").read_text())["device"].startswith("2 x cpu")
    assert json.loads((run / "result.json").read_text())["epochs"] == 2
    shown = nbformat.read(tmp_path / "together" / "notebook.ipynb", as_version=4)
    assert all(cell.execution_count for cell in shown.cells if cell.cell_type == "code")


def test_03_distill_is_one_run_of_several_processes(tmp_path: Path) -> None:
    # Stand-ins that were taught: where they say next to nothing, nor do the terms, and rounding alone is a large part.
    taught = {"teacher_epochs": 12, "detector_epochs": 8, "lr": 2e-5}
    parameters = PEOPLE | STAND_INS | MODELS | taught | {"data_dir": str(tmp_path / "data")}
    done = run_together("03_distill.ipynb", tmp_path / "together", parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    person = tmp_path / "together" / "tiny" / "distill" / "person"
    # The same stand-ins for both: trained again, they would differ in the last digits, which all that follows inherits.
    stand_ins = shutil.ignore_patterns("*-seed*", "*.json", "compared", "student.onnx")
    shutil.copytree(person, tmp_path / "alone" / "tiny" / "distill" / "person", ignore=stand_ins)
    run_alone("03_distill.ipynb", tmp_path / "alone", parameters)
    check_same(tmp_path / "alone", tmp_path / "together")
    one, two = (
        json.loads((folder / "tiny/distill/person/result.json").read_text())
        for folder in (tmp_path / "alone", tmp_path / "together")
    )
    assert [arm["arm"] for arm in one["arms"]] == [arm["arm"] for arm in two["arms"]]
    assert [fit["best_epoch"] for fit in one["fits"]] == [fit["best_epoch"] for fit in two["fits"]]


def test_what_one_process_cannot_read_ends_all_and_is_told(tmp_path: Path) -> None:
    people = draw_toy_people(tmp_path / "people", 20, 64)
    broken = people / "train" / "images" / "000005.png"
    broken.write_bytes(broken.read_bytes()[:200])
    done = run_together(
        "03_distill.ipynb", tmp_path / "run", PEOPLE | STAND_INS | MODELS | {"people": str(people)}
    )
    assert done.returncode != 0
    assert "000005.png: cannot be read as an image" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "notebook.html").is_file()
    assert not list(tmp_path.rglob("result.json"))
