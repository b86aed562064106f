"""A full or read-only disk: one clear error, complete files are kept, and a rerun resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from fervit_lib import runs
from fervit_lib.datasets import FaceDataset, draw_toy_faces
from fervit_lib.encoders import encode_faces
from fervit_lib.latents import LatentStore, complete_store
from fervit_lib.models.segmentation import build_segmenter, save_teacher
from fervit_lib.sweep.config import parse_sweep
from fervit_lib.sweep.study import open_study
from fervit_lib.system.atomic import read_json
from fervit_lib.system.checkpoints import load_checkpoint
from tests.faults.conftest import CPU, Disk, MeanColour, same_weights

MEGABYTE = 1_000_000
PROBLEM = "could not be written .*(No space left|Read-only file system).* MB are free"


def encode(folder: Path) -> int:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 48, 48), dtype=np.uint8)
    paths = tuple(f"f.csv:{i}" for i in range(1500))
    faces = FaceDataset(("a", "b"), np.arange(1500) % 2, paths, Path("f.csv"), pixels=pixels)
    return encode_faces(MeanColour(), "sha", faces, folder, "train", device=CPU)


def start(reports: Path) -> runs.Run:
    return runs.start_run(reports, "e", "train", "v", parameters={}, seed=0, device="cpu")


def test_encoding_keeps_complete_shards(make_disk: Callable[[int], Disk], tmp_path: Path) -> None:
    disk = make_disk(22 * MEGABYTE)  # room for the shard of 18.9 MB, not for the next of 8.8
    with pytest.raises(OSError, match=rf"train-00001\.safetensors: {PROBLEM}"):
        encode(disk.folder)
    assert sorted(p.name for p in disk.folder.iterdir()) == [
        "train-00000.safetensors",
    ]
    disk.grow(60 * MEGABYTE)
    assert encode(disk.folder) == 1500 - 1024
    encode(tmp_path / "roomy")
    store = {"classes": ("a", "b"), "encoder": "mean", "faces": tmp_path, "synthetic": False}
    for folder in (disk.folder, tmp_path / "roomy"):
        complete_store(folder, {"train": 1500}, **store)
    assert torch.equal(
        *(LatentStore.open(f, "train").codes for f in (disk.folder, tmp_path / "roomy"))
    )


def test_a_fit_resumes_from_its_last_state_with_the_same_result(
    make_disk: Callable[[int], Disk], fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    disk = make_disk(8 * MEGABYTE)
    state = disk.folder / "last.safetensors"

    class FillUp(Callback):
        def after_epoch(self) -> None:
            if self.epoch == 2:
                disk.fill()

    with pytest.raises(OSError, match=PROBLEM):
        fit(disk.folder, FillUp())
    assert load_checkpoint(state)[1]["epoch"] in (1, 2)
    load_checkpoint(disk.folder / "best.safetensors")
    assert not list(disk.folder.rglob(".*.tmp"))
    (disk.folder / "ballast").unlink()
    assert same_weights(fit(disk.folder), fit(tmp_path / "roomy"))


def test_partial_tensorboard_files_are_an_error(
    make_disk: Callable[[int], Disk], fit: Callable[..., nn.Module]
) -> None:
    disk = make_disk(8 * MEGABYTE)

    class FillUp(Callback):
        order = 61.5  # after the best weights are written, before the curves

        def after_epoch(self) -> None:
            if self.epoch == 0:
                disk.fill()

    with pytest.raises(OSError, match=f"tensorboard: {PROBLEM}"):
        fit(disk.folder, FillUp())


@pytest.mark.parametrize("write", ["result", "teacher"])
def test_a_file_that_does_not_fit_is_not_written(
    make_disk: Callable[[int], Disk], write: str
) -> None:
    disk = make_disk(MEGABYTE)
    run = start(disk.folder)
    written = run.folder / "teacher.pth" if write == "teacher" else run.folder / "result.json"
    with pytest.raises(OSError, match=f"{written.name}: {PROBLEM}"):
        if write == "result":
            run.write_result(numbers=list(range(300_000)))
        else:
            save_teacher(written, build_segmenter("mobilenet_v2", "slim"))
    assert sorted(p.name for p in run.folder.iterdir()) == [".lock", "config.json"]
    run.write_result(accuracy=0.5)
    written = read_json(run.folder / "result.json")
    assert written == {"accuracy": 0.5, "ended": written["ended"]}


def sweep(folder: Path) -> Any:
    parameters = {"lr": {"values": [1]}}
    metric = {"name": "accuracy", "goal": "maximize"}
    return open_study(
        parse_sweep({"name": "s", "method": "grid", "metric": metric, "parameters": parameters}),
        folder,
    )


@pytest.mark.parametrize(
    "write",
    [start, encode, sweep, lambda folder: draw_toy_faces(folder / "toy", 28)],
    ids=["run", "codes", "sweep", "toy faces"],
)
def test_a_read_only_folder(make_disk: Callable[[int], Disk], write: Callable[[Path], Any]) -> None:
    disk = make_disk(MEGABYTE)
    disk.forbid_writing()
    with pytest.raises(OSError, match=PROBLEM):
        write(disk.folder)
    assert not list(disk.folder.iterdir())
