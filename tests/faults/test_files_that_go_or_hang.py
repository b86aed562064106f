"""Files that vanish while they are used, or hang: an error that names them, soon, and the rest goes on afterwards."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image
from torch import nn

from fervit_lib.datasets import audit_faces, draw_toy_people, load_faces, load_people
from fervit_lib.distillation import people_dls
from fervit_lib.encoders import encode_faces
from fervit_lib.inputs import _stack
from fervit_lib.system import prefetch
from tests.faults.conftest import CPU, MeanColour, encode_train

FACE = "train/happy/00.png"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for name in ("happy", "sad"):
            folder = tmp_path / "faces" / split / name
            folder.mkdir(parents=True)
            for number in range(12):
                Image.fromarray(np.full((40, 40), 9 * number, np.uint8)).save(
                    folder / f"{number:02d}.png"
                )
    return tmp_path / "faces"


def hang(file: Path) -> None:
    """Opened, it is waited for without an end, as a file on a share that is gone: a pipe nobody writes to."""
    file.unlink()
    os.mkfifo(file)


WAYS: dict[str, Callable[[Path, Path], Any]] = {
    "audit": lambda faces, folder: audit_faces({"train": listed_before_it_hangs(faces)}),
    "pixels": lambda faces, folder: _stack(
        listed_before_it_hangs(faces).subset([5, 0, 1]), 32, Image.Image.resize
    ),
    "set": lambda faces, folder: list(listed_before_it_hangs(faces)),
    "encode": lambda faces, folder: encode_faces(
        MeanColour(),
        "sha",
        listed_before_it_hangs(faces),
        folder,
        "train",
        device=CPU,
        batch_size=4,
    ),
}


def listed_before_it_hangs(faces: Path) -> Any:
    found = load_faces(faces, "train")
    hang(faces / FACE)
    return found


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_face_that_hangs_is_named(
    way: Callable[[Path, Path], Any], faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(
        TimeoutError, match=rf"faces/{FACE}: not read within 0\.5 s.*disk or network share"
    ):
        way(faces, tmp_path / "codes")


def test_a_photograph_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "TIMEOUT_SECONDS", 2.0)
    draw_toy_people(tmp_path / "people", 20, 32, 0)
    mask = load_people(tmp_path / "people", "train").masks[0]
    dls = people_dls(tmp_path / "people", size=32, batch_size=4, device=CPU)
    hang(mask)
    with pytest.raises(
        TimeoutError, match=rf"images/{mask.stem}\.\w+ or .*{mask.name}: not read within 2 s"
    ):
        list(dls.train)


def test_a_process_ends_though_a_file_hangs(faces: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from fervit_lib.system import prefetch; "
        "from fervit_lib.datasets import load_faces; prefetch.TIMEOUT_SECONDS = 0.5; "
        "faces = load_faces(Path(sys.argv[1]), 'train'); file = faces.file(0); "
        "file.unlink(); os.mkfifo(file); list(faces)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, faces], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("TimeoutError: ")


def test_pipes_are_not_taken_for_files(faces: Path, tmp_path: Path) -> None:
    hang(faces / FACE)
    assert FACE not in load_faces(faces, "train").paths
    os.mkfifo(tmp_path / "fer2013.csv")
    with pytest.raises(FileNotFoundError, match=r"fer2013\.csv: no such file or folder"):
        load_faces(tmp_path / "fer2013.csv", "train")
    draw_toy_people(tmp_path / "people", 20, 32, 0)
    mask = load_people(tmp_path / "people", "test").masks[0]
    hang(mask)
    with pytest.raises(ValueError, match="image without mask"):
        load_people(tmp_path / "people", "test")


def test_a_face_that_goes_while_it_is_encoded_is_named_and_put_back_it_goes_on(
    faces: Path, tmp_path: Path
) -> None:
    gone, kept = faces / "train" / "sad" / "11.png", tmp_path / "kept.png"

    class TakeAway(MeanColour):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if gone.exists():
                gone.rename(kept)
            return super().forward(images)

    found = load_faces(faces, "train")
    blocked = threading.Event()

    class Slow(type(found)):  # so that it is not read before the first batch is encoded
        def __getitem__(self, index: int) -> Any:
            if index == len(self) - 1:
                while gone.exists():
                    blocked.wait(0.01)
            return super().__getitem__(index)

    slow = Slow(found.classes, found.labels, found.paths, found.source)
    with pytest.raises(
        OSError, match=r"train/sad/11\.png: cannot be read as an image .*No such file"
    ):
        encode_faces(TakeAway(), "sha", slow, tmp_path / "codes", "train", device=CPU, batch_size=4)
    assert [path.name for path in (tmp_path / "codes").iterdir()] == []
    kept.rename(gone)
    assert encode_train(faces, tmp_path / "codes") == 24


def test_codes_that_go_while_a_model_is_fitted_are_not_missed(
    fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class TakeAway(Callback):
        def before_epoch(self) -> None:
            for shard in (tmp_path / "store").glob("*.safetensors"):
                shard.unlink()

    fit(tmp_path / "run", TakeAway())
    assert (tmp_path / "run" / "best.safetensors").is_file()
    with pytest.raises(
        FileNotFoundError, match=r"-00000\.safetensors: shard missing; run 01_encode"
    ):
        fit(tmp_path / "again")


def test_a_run_directory_that_goes_is_made_again(
    fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class TakeAway(Callback):
        def before_epoch(self) -> None:
            if self.epoch == 2:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    fit(tmp_path / "run", TakeAway())
    assert {"last.safetensors", "metrics.csv", "tensorboard"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
