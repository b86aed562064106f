from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.latents import (
    SHARD_SIZE,
    LatentStore,
    complete_store,
    read_fingerprint,
    shard_fingerprint,
    shard_path,
    write_shard,
)


def fill(folder: Path, n: int = 1500, split: str = "train") -> torch.Tensor:
    codes = torch.randn(n, 18, 512, generator=torch.Generator().manual_seed(0))
    for index, start in enumerate(range(0, n, SHARD_SIZE)):
        chunk = codes[start : start + SHARD_SIZE]
        labels = np.arange(start, start + len(chunk)) % 7
        write_shard(
            shard_path(folder, split, index),
            chunk,
            labels,
            [f"{i}.png" for i in range(start, start + len(chunk))],
            "f",
        )
    complete_store(
        folder,
        {split: n},
        classes="abcdefg",
        encoder="autoencoder",
        faces=Path("faces"),
        synthetic=True,
    )
    return codes


def test_round_trip_over_shards(tmp_path: Path) -> None:
    codes = fill(tmp_path)
    store = LatentStore.open(tmp_path, "train")
    assert len(store) == 1500
    assert len(store.shards) == 2
    assert store.codes.dtype == torch.float16
    assert torch.equal(store.codes, codes.half())
    assert store.labels.tolist() == [i % 7 for i in range(1500)]
    assert store.paths[1499] == "1499.png"
    assert store.classes == tuple("abcdefg")
    assert store.synthetic


def test_chosen_codes_come_in_the_order_asked_for_from_any_shard(tmp_path: Path) -> None:
    codes = fill(tmp_path, 2500).half()
    store = LatentStore.open(tmp_path, "train")
    for indices in (
        [2499, 0, 1023, 1024, 1024, 7],
        [1200],
        [],
        np.arange(2500),
        torch.randperm(2500),
    ):
        assert torch.equal(store.take(indices), codes[torch.as_tensor(indices, dtype=torch.int64)])
    for wrong in (2500, -1):
        with pytest.raises(IndexError, match="indices: expected 0 to 2499"):
            store.take([3, wrong])


def test_shards_beyond_the_store_are_removed(tmp_path: Path) -> None:
    fill(tmp_path, 1500)
    fill(tmp_path, 100)
    assert not shard_path(tmp_path, "train", 1).exists()
    assert len(LatentStore.open(tmp_path, "train")) == 100


def test_errors_name_file_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="01_encode"):
        LatentStore.open(tmp_path, "train")
    fill(tmp_path)
    with pytest.raises(FileNotFoundError, match="no split 'test'.*train"):
        LatentStore.open(tmp_path, "test")
    path = shard_path(tmp_path, "train", 1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"train-00001\.safetensors: not a complete shard"):
        LatentStore.open(tmp_path, "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001\.safetensors: shard missing"):
        LatentStore.open(tmp_path, "train")


def test_a_bad_shard_is_not_written(tmp_path: Path) -> None:
    path = shard_path(tmp_path, "train", 0)
    codes = torch.zeros(2, 18, 512)
    with pytest.raises(ValueError, match="expected"):
        write_shard(path, codes, np.zeros(3), ["a", "b", "c"], "f")
    codes[1, 0, 0] = 1e6  # finite in float32 only
    with pytest.raises(ValueError, match=r"finite.*b\.png"):
        write_shard(path, codes, np.zeros(2), ["a.png", "b.png"], "f")
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_says_what_a_shard_is_made_from(tmp_path: Path) -> None:
    labels = np.array([0, 1])
    one = shard_fingerprint("sha", ["a", "b"], labels)
    assert one == shard_fingerprint("sha", ["a", "b"], labels)
    others = {
        shard_fingerprint("other", ["a", "b"], labels),
        shard_fingerprint("sha", ["a", "c"], labels),
        shard_fingerprint("sha", ["a", "b"], labels[::-1]),
    }
    assert len(others | {one}) == 4
    path = shard_path(tmp_path, "train", 0)
    assert read_fingerprint(path) is None
    write_shard(path, torch.zeros(2, 18, 512), labels, ["a", "b"], one)
    assert read_fingerprint(path) == one
    path.write_bytes(path.read_bytes()[:50])
    assert read_fingerprint(path) is None
