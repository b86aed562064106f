import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fervit_lib.datasets import FaceDataset
from fervit_lib.encoders import change_view, encode_faces, images_to_tensor, tensor_to_images
from fervit_lib.latents import LatentStore, complete_store, shard_path

CPU = torch.device("cpu")

# An encoder that is slow on purpose, so that a kill falls between two shards or within one.
SCRIPT = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, str(Path(sys.argv[1])))
from test_encode import MeanColour, make_faces
from fervit_lib.encoders import encode_faces
class Slow(MeanColour):
    def forward(self, images):
        time.sleep(0.03)
        return super().forward(images)
encode_faces(Slow(), "sha", make_faces(3000), Path(sys.argv[2]), "train", device=torch.device("cpu"))
"""


class MeanColour(nn.Module):
    """The mean colour in every code."""

    img_size = 32

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).repeat(1, 171)[:, None, :512].repeat(1, 18, 1)


def make_faces(n: int) -> FaceDataset:
    rng = np.random.default_rng(0)
    return FaceDataset(
        classes=("angry", "happy"),
        labels=np.arange(n) % 2,
        paths=tuple(f"faces.csv:{i}" for i in range(n)),
        source=Path("faces.csv"),
        pixels=rng.integers(0, 256, (n, 48, 48), dtype=np.uint8),
    )


def encode(folder: Path, faces: FaceDataset, sha: str = "sha") -> int:
    return encode_faces(MeanColour(), sha, faces, folder, "train", device=CPU)


def test_images_round_trip() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    tensor = images_to_tensor([image, image.convert("L")], 32)
    assert tensor.shape == (2, 3, 32, 32)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert np.array_equal(np.asarray(tensor_to_images(tensor)[0]), np.asarray(image))


def test_views() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(change_view(images, 0, seed=1), images)
    assert torch.equal(change_view(images, 1, seed=1), images.flip(-1))
    state = torch.random.get_rng_state()
    moved = change_view(images, 2, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(moved, change_view(images, 2, seed=1))
    assert not torch.equal(moved, change_view(images, 2, seed=2))
    assert not torch.equal(moved, images)


def test_a_second_run_makes_nothing_and_another_encoder_everything(tmp_path: Path) -> None:
    faces = make_faces(1500)
    assert encode(tmp_path, faces) == 1500
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert encode(tmp_path, faces) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert encode(tmp_path, faces, sha="other") == 1500


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    faces = make_faces(1500)
    encode(tmp_path, faces)
    path = shard_path(tmp_path, "train", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert encode(tmp_path, faces) == 1500 - 1024
    assert path.read_bytes() == whole


@pytest.mark.parametrize("after_shards", [0, 1, 2])
def test_killed_and_started_again_gives_the_same_store(tmp_path: Path, after_shards: int) -> None:
    faces = make_faces(3000)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    encode(undisturbed, faces)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(killed)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(killed.glob("train-*.safetensors"))) < after_shards and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "it was to be killed at work"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(FileNotFoundError, match="01_encode"):
        LatentStore.open(killed, "train")
    assert encode(killed, faces) == 3000 - 1024 * after_shards  # whole shards are kept
    for folder in (undisturbed, killed):
        complete_store(
            folder, {"train": 3000}, classes=faces.classes, encoder="mean", faces=Path("faces"), synthetic=False
        )
    names = sorted(path.name for path in undisturbed.iterdir())
    assert sorted(path.name for path in killed.iterdir() if not path.name.endswith(".tmp")) == names
    for name in names:
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
