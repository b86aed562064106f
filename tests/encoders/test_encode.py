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

from fervit_lib import latents
from fervit_lib.datasets import FaceDataset, load_faces
from fervit_lib.encoders import (
    Autoencoder,
    change_view,
    check_domain,
    distance_from_average,
    encode_faces,
    encoder_dtype,
    images_to_tensor,
    prepare_encoder,
    tensor_to_images,
)
from fervit_lib.encoders.style_encoder import StyleEncoder
from fervit_lib.latents import LatentStore, complete_store, shard_path

CPU = torch.device("cpu")

# A slow encoder, so that a kill falls between two shards or within one.
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
faces, folder = make_faces(3000), Path(sys.argv[2])
print(encode_faces(Slow(), "sha", faces, folder, "train", device=torch.device("cpu")))
"""


class MeanColour(nn.Module):
    """Every code is the mean colour."""

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


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_images_round_trip() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    tensor = images_to_tensor([image, image.convert("L")], 32)
    assert tensor.shape == (2, 3, 32, 32)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert np.array_equal(np.asarray(tensor_to_images(tensor)[0]), np.asarray(image))


def test_views() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(change_view(images, 0, seeds=[1, 2, 3]), images)
    assert torch.equal(change_view(images, 1, seeds=[1, 2, 3]), images.flip(-1))
    state = torch.random.get_rng_state()
    moved = change_view(images, 2, seeds=[1, 2, 3])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(moved, change_view(images, 2, seeds=[1, 2, 3]))
    assert not torch.equal(moved, change_view(images, 2, seeds=[4, 5, 6]))
    assert not torch.equal(moved, images)


def test_a_second_run_adds_nothing_and_another_encoder_everything(tmp_path: Path) -> None:
    faces = make_faces(1500)
    assert encode(tmp_path, faces) == 1500
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert encode(tmp_path, faces) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert encode(tmp_path, faces, sha="other") == 1500


def test_a_damaged_shard_is_encoded_again(tmp_path: Path) -> None:
    faces = make_faces(1500)
    encode(tmp_path, faces)
    path = shard_path(tmp_path, "train", 1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert encode(tmp_path, faces) == 1500 - 1024
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "after_shards",
    [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)],
)
def test_a_killed_run_continues_to_the_same_store(tmp_path: Path, after_shards: int) -> None:
    faces = make_faces(3000)
    # Not side by side, where one would use the codes of the other.
    undisturbed = tmp_path / "undisturbed" / "store"
    killed = tmp_path / "killed" / "store"
    encode(undisturbed, faces)
    process = start(killed)
    deadline = time.monotonic() + 120
    while (
        len(list(killed.glob("train-*.safetensors"))) < after_shards and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    assert process.poll() is None, "ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(FileNotFoundError, match="01_encode"):
        LatentStore.open(killed, "train")
    assert encode(killed, faces) == 3000 - 1024 * after_shards  # complete shards are kept
    for folder in (undisturbed, killed):
        complete_store(
            folder,
            {"train": 3000},
            classes=faces.classes,
            encoder="mean",
            faces=Path("faces"),
            synthetic=False,
        )
    names = sorted(path.name for path in undisturbed.iterdir())
    # No half-written file is left.
    assert sorted(path.name for path in killed.iterdir()) == names
    for name in names:
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()


def test_processes_encode_disjoint_shards_and_take_over_those_of_a_killed_one(
    tmp_path: Path,
) -> None:
    alone = tmp_path / "alone" / "store"
    encode(alone, make_faces(3000))
    together = tmp_path / "together" / "store"
    first, second, third = (start(together) for _ in range(3))
    deadline = time.monotonic() + 120
    while not list(together.glob("train-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    added = [int(process.communicate(timeout=120)[0]) for process in (second, third)]
    # No shard is encoded twice: the rest is what the first process had written.
    assert 3000 - sum(added) in (0, 952, 1024, 1024 + 952, 2048)
    # Killed between a shard and its lock, the process leaves the lock for `complete_store`.
    shards = sorted(together.glob("train-*"))
    assert [path.name for path in shards] == sorted(path.name for path in alone.iterdir())
    for path in shards:
        assert path.read_bytes() == (alone / path.name).read_bytes()


class Small(MeanColour):
    """Has memory for few faces at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(len(images))
        return super().forward(images)


def test_batches_are_halved_while_memory_is_too_small(tmp_path: Path) -> None:
    faces = make_faces(100)
    small = Small(10)
    options = {"device": CPU, "batch_size": 64}
    encode_faces(small, "small", faces, tmp_path / "small", "train", **options)
    encode_faces(MeanColour(), "large", faces, tmp_path / "large", "train", **options)
    shards = [
        latents.read_shard(shard_path(tmp_path / name, "train", 0)) for name in ("small", "large")
    ]
    assert torch.equal(shards[0]["codes"], shards[1]["codes"])
    assert max(small.sizes) == 8
    with pytest.raises(torch.OutOfMemoryError):
        encode_faces(Small(0), "none", faces, tmp_path / "none", "train", **options)


def test_no_faces(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"faces\.csv: .*'train'"):
        encode(tmp_path, make_faces(0))
    assert not list(tmp_path.iterdir())


def test_faces_are_aligned_before_they_are_resized(tmp_path: Path) -> None:
    faces = make_faces(3)
    encode_faces(
        MeanColour(),
        "sha",
        faces,
        tmp_path,
        "train",
        device=CPU,
        align=lambda face: face.crop((0, 0, 24, 24)),
    )
    complete_store(
        tmp_path, {"train": 3}, classes=("a", "b"), encoder="mean", faces=tmp_path, synthetic=False
    )
    images = images_to_tensor([faces[i][0].crop((0, 0, 24, 24)) for i in range(3)], 32)
    assert torch.equal(LatentStore.open(tmp_path, "train").codes, MeanColour()(images).half())


def test_encoding_a_shard_again_marks_the_store_incomplete(tmp_path: Path) -> None:
    faces = make_faces(10)
    encode(tmp_path, faces)
    complete_store(
        tmp_path, {"train": 10}, classes=("a", "b"), encoder="mean", faces=tmp_path, synthetic=False
    )
    encode(tmp_path, faces)
    assert (tmp_path / "store.json").exists()
    encode(tmp_path, faces, sha="other")
    assert not (tmp_path / "store.json").exists()


def test_precision() -> None:
    narrow = StyleEncoder("psp", 256, ((16, 1), (16, 1), (16, 1), (32, 1)))
    narrow.latent_avg.fill_(1 / 3)
    model = prepare_encoder(narrow, CPU, dtype="bfloat16")
    assert encoder_dtype(model) == torch.bfloat16
    assert model.latent_avg.dtype == torch.float32
    assert encoder_dtype(prepare_encoder(Autoencoder(32), CPU)) == torch.float32
    with pytest.raises(ValueError, match="dtype: .*'half'"):
        prepare_encoder(narrow, CPU, dtype="half")


def test_off_domain_codes_give_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    model = StyleEncoder("e4e", 256, ((16, 1), (16, 1), (16, 1), (32, 1)))
    model.latent_avg.normal_()
    model.w_distance = 10.0
    offsets = torch.nn.functional.normalize(torch.randn(1500, 14, 32), dim=-1)
    distance = distance_from_average((model.latent_avg + 12 * offsets).half(), model)
    assert torch.allclose(distance, torch.full((1500,), 12.0), atol=0.01)
    usual, low, high = check_domain(distance, model)
    assert not recwarn.list
    assert low < usual == 10 < high
    for factor in (1e-3, 100):
        with pytest.warns(UserWarning, match="codes look off-domain"):
            check_domain(factor * distance, model)


class Texture(nn.Module):
    """Codes that differ with any change of the picture, in batches as alone."""

    img_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.encoded += len(images)
        return images[:, 0, :18, :].repeat(1, 1, 16)


def write_faces(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label, name in enumerate(("happy", "sad")):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(n if split == "train" else 2):
                pixels = rng.integers(0, 256, (8, 8), np.uint8) // (label + 1)
                Image.fromarray(pixels).save(folder / split / name / f"{i:04d}.png")


def encode_folder(faces: Path, folder: Path, view: int = 0) -> tuple[int, dict[str, torch.Tensor]]:
    """The number of encoded faces, and the code of each face by its name."""
    loaded = load_faces(faces, "train")
    encoder = Texture()
    added = encode_faces(
        encoder, "sha", loaded, folder, latents.view_split(view), device=CPU, view=view
    )
    assert encoder.encoded == added
    split = latents.view_split(view)
    about = {"classes": loaded.classes, "encoder": "texture", "faces": faces, "synthetic": True}
    complete_store(folder, {split: len(loaded)}, **about)
    store = LatentStore.open(folder, split)
    return added, dict(zip(store.paths, store.codes, strict=True))


def changed_names(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {
        name for name in after if not torch.equal(before.get(name, torch.empty(0)), after[name])
    }


@pytest.mark.parametrize("view", [0, 3])
def test_only_a_replaced_face_is_encoded_again(tmp_path: Path, view: int) -> None:
    faces, folder = tmp_path / "faces", tmp_path / "codes"
    write_faces(faces, 600)  # two shards
    added, before = encode_folder(faces, folder, view)
    assert added == 1200
    replaced = faces / "train/sad/0007.png"
    state = replaced.stat()
    Image.open(replaced).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(replaced)
    os.utime(replaced, ns=(state.st_atime_ns, state.st_mtime_ns))
    added, after = encode_folder(faces, folder, view)
    assert added == 1
    assert changed_names(before, after) == {"train/sad/0007.png"}


@pytest.mark.parametrize("view", [0, 1])
def test_codes_of_stores_beside_it_are_used(tmp_path: Path, view: int) -> None:
    write_faces(tmp_path / "faces", 6)
    number, codes = encode_folder(tmp_path / "faces", tmp_path / "codes" / "psp-1", view)
    assert number == 12
    (tmp_path / "faces" / "train" / "a" / "0000.png").unlink(missing_ok=True)
    number, fewer = encode_folder(tmp_path / "faces", tmp_path / "codes" / "psp-2", view)
    assert number == 0
    assert all(torch.equal(codes[name], fewer[name]) for name in fewer)


def test_a_face_that_is_touched_or_renamed_is_not_encoded_again(tmp_path: Path) -> None:
    faces, folder = tmp_path / "faces", tmp_path / "codes"
    write_faces(faces, 10)
    _, before = encode_folder(faces, folder)
    shard = shard_path(folder, "train", 0).stat().st_mtime_ns
    (faces / "train/sad/0003.png").touch()
    assert encode_folder(faces, folder)[0] == 0
    assert shard_path(folder, "train", 0).stat().st_mtime_ns == shard
    (faces / "train/sad/0003.png").rename(faces / "train/sad/0099.png")
    added, after = encode_folder(faces, folder)
    assert added == 0
    assert torch.equal(after["train/sad/0099.png"], before["train/sad/0003.png"])


@pytest.mark.parametrize("view", [0, 1, 2])
def test_no_code_depends_on_other_faces(tmp_path: Path, view: int) -> None:
    """Neither in a store that is encoded further, nor in one that is encoded from the start."""
    faces, folder = tmp_path / "faces", tmp_path / "codes"
    write_faces(faces, 600)
    _, before = encode_folder(faces, folder, view)
    (faces / "train/happy/0000.png").unlink()  # all others move
    added, after = encode_folder(faces, folder, view)
    assert added == 0
    assert not changed_names(before, after)
    assert len(after) == len(before) - 1
    _, alone = encode_folder(faces, tmp_path / "other", view)
    assert not changed_names(after, alone)


def test_a_face_that_changes_while_it_is_encoded_is_an_error(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces", 2)

    class Replace(Texture):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Image.new("L", (8, 8)).save(tmp_path / "faces/train/sad/0001.png")
            return super().forward(images)

    loaded = load_faces(tmp_path / "faces", "train")
    with pytest.raises(ValueError, match="changed while they were encoded.*01_encode"):
        encode_faces(Replace(), "sha", loaded, tmp_path / "codes", "train", device=CPU)
    assert not list((tmp_path / "codes").iterdir())
