"""Disks that are full or read-only, and a small fit."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fervit_lib import models, training
from fervit_lib.datasets import load_faces
from fervit_lib.encoders import encode_faces
from fervit_lib.system.runtime import seed_everything

CPU = torch.device("cpu")


class MeanColour(nn.Module):
    """An encoder whose codes repeat the mean colour of the face."""

    img_size = 32

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).repeat(1, 171)[:, None, :512].repeat(1, 18, 1)


def encode_train(faces: Path, folder: Path) -> int:
    return encode_faces(
        MeanColour(), "sha", load_faces(faces, "train"), folder, "train", device=CPU, batch_size=4
    )


class Disk:
    """A file system in memory whose size can change."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.mount(f"size={size}", "-t", "tmpfs", "tmpfs")

    def mount(self, options: str, *arguments: str) -> None:
        command = ["mount", "-o", options, *arguments, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    def grow(self, size: int) -> None:
        self.mount(f"remount,size={size}")

    def fill(self) -> Path:
        """Write a file that uses all free space."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        return ballast

    def forbid_writing(self) -> None:
        self.mount("remount,ro")


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    folder = tmp_path / "disk"

    def make(size: int) -> Disk:
        folder.mkdir()
        return Disk(folder, size)

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def fit(make_store: Callable[..., Path], tmp_path: Path) -> Callable[..., nn.Module]:
    """Train a small model for 5 epochs in a folder, resuming from a state there; return it."""
    store = make_store(tmp_path / "store", {"train": 96, "val": 30, "test": 30}, noise=4.0)

    def run(folder: Path, *callbacks: object) -> nn.Module:
        seed_everything(0)
        options = {"embed_dim": 48, "depth": 2, "num_heads": 2}
        model = models.create_model("scratch", 3, **options)
        dls = training.face_dls(model, store, batch_size=16, device=CPU)
        best = training.SaveBest(
            lambda: models.save_model(folder / "best.safetensors", model, classes=dls.classes)
        )
        strategy = training.get_strategy("full")
        learn = training.build_learner(model, dls, strategy, folder=folder, cbs=[best, *callbacks])
        training.fit(learn, strategy, epochs=5, lr=1e-3, state=folder / "last.safetensors")
        return model

    return run


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
