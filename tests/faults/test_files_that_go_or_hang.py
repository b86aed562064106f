"""Files that disappear or hang while in use: an error names them soon, and a rerun resumes."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image
from torch import nn

from fervit_lib import inputs
from fervit_lib.datasets import FaceDataset, audit_faces, draw_toy_people, load_faces, load_people
from fervit_lib.distillation import people_dls
from fervit_lib.encoders import encode_faces
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
    """Make reading `file` block forever, as on a dead network share: a pipe without a writer."""
    file.unlink()
    os.mkfifo(file)


def load_pixels_of(faces: FaceDataset) -> torch.Tensor:
    """`inputs.load_pixels` of faces that are listed already, without a store of their codes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "load_store_faces", lambda store, indices: faces)
        return inputs.load_pixels(SimpleNamespace(), np.arange(len(faces)), 32)


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "audit": lambda faces, folder: audit_faces({"train": load_and_hang(faces)}),
    "pixels": lambda faces, folder: load_pixels_of(load_and_hang(faces).subset([5, 0, 1])),
    "set": lambda faces, folder: list(load_and_hang(faces)),
    "encode": lambda faces, folder: encode_faces(
        MeanColour(),
        "sha",
        load_and_hang(faces),
        folder,
        "train",
        device=CPU,
        batch_size=4,
    ),
}


def load_and_hang(faces: Path) -> Any:
    """Faces of which one hangs after they were listed."""
    loaded = load_faces(faces, "train")
    hang(faces / FACE)
    return loaded


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_face_that_hangs_is_named(
    read: Callable[[Path, Path], Any], faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(TimeoutError, match=rf"faces/{FACE}: not read within 0\.5 s"):
        read(faces, tmp_path / "codes")


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
    hang(faces / FACE)
    script = (
        "import sys; from pathlib import Path; from fervit_lib.system import prefetch; "
        "prefetch.TIMEOUT_SECONDS = 0.5; pool = prefetch.PrefetchPool(); "
        "next(pool.map(Path.read_bytes, [Path(sys.argv[1])], str))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, faces / FACE], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("TimeoutError: ")


def test_pipes_are_not_listed_as_files(faces: Path, tmp_path: Path) -> None:
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


def test_a_face_that_disappears_while_it_is_encoded_is_named(faces: Path, tmp_path: Path) -> None:
    face = faces / "train" / "sad" / "11.png"
    elsewhere = tmp_path / "11.png"

    class Remove(MeanColour):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if face.exists():
                face.rename(elsewhere)
            return super().forward(images)

    loaded = load_faces(faces, "train")
    blocked = threading.Event()

    class Slow(type(loaded)):  # the first batch is encoded before the face is read
        def __getitem__(self, index: int) -> Any:
            if index == len(self) - 1:
                while face.exists():
                    blocked.wait(0.01)
            return super().__getitem__(index)

    slow = Slow(loaded.classes, loaded.labels, loaded.paths, loaded.source)
    with pytest.raises(
        OSError, match=r"train/sad/11\.png: cannot be read as an image .*No such file"
    ):
        encode_faces(Remove(), "sha", slow, tmp_path / "codes", "train", device=CPU, batch_size=4)
    assert [path.name for path in (tmp_path / "codes").iterdir()] == []
    elsewhere.rename(face)
    assert encode_train(faces, tmp_path / "codes") == 24


def test_a_fit_does_not_need_its_shards_after_the_start(
    fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class Remove(Callback):
        def before_epoch(self) -> None:
            for shard in (tmp_path / "store").glob("*.safetensors"):
                shard.unlink()

    fit(tmp_path / "run", Remove())
    assert (tmp_path / "run" / "best.safetensors").is_file()
    with pytest.raises(
        FileNotFoundError, match=r"-00000\.safetensors: no such file; run 01_encode"
    ):
        fit(tmp_path / "again")


def test_a_run_directory_that_disappears_is_created_again(
    fit: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class Remove(Callback):
        def before_epoch(self) -> None:
            if self.epoch == 2:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    fit(tmp_path / "run", Remove())
    assert {"last.safetensors", "metrics.csv", "tensorboard"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
