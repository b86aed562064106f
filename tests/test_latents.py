import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fervit_lib.latents import (
    SHARD_SIZE,
    LatentStore,
    complete_store,
    read_fingerprint,
    shard_fingerprint,
    shard_path,
    store_identity,
    store_path,
    write_shard,
)
from fervit_lib.latents.clean import unused_stores
from fervit_lib.system.atomic import read_json, write_json
from fervit_lib.system.shards import claim_shards
from tests.faults.notebooks import FORK


def write_store(
    folder: Path, n: int = 1500, split: str = "train", shape: tuple[int, int] = (18, 512)
) -> torch.Tensor:
    codes = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    for index, start in enumerate(range(0, n, SHARD_SIZE)):
        shard = codes[start : start + SHARD_SIZE]
        numbers = np.arange(start, start + len(shard))
        paths = [f"{i}.png" for i in numbers]
        write_shard(shard_path(folder, split, index), shard, numbers % 7, paths, "f")
    about = {"encoder": "autoencoder", "faces": Path("faces"), "synthetic": True}
    complete_store(folder, {split: n}, classes="abcdefg", **about)
    return codes


def test_round_trip_over_shards(tmp_path: Path) -> None:
    codes = write_store(tmp_path)
    store = LatentStore.open(tmp_path, "train")
    assert len(store) == 1500
    assert len(store.shards) == 2
    assert store.codes.dtype == torch.float16
    assert torch.equal(store.codes, codes.half())
    assert store.labels.tolist() == [i % 7 for i in range(1500)]
    assert store.paths[1499] == "1499.png"
    assert store.classes == tuple("abcdefg")
    assert store.synthetic


@pytest.mark.parametrize(
    "indices",
    [[2499, 0, 1023, 1024, 1024, 7], [1200], [], np.arange(2500), torch.randperm(2500)],
    ids=["any order", "one", "none", "all", "shuffled"],
)
def test_codes_are_taken_in_the_given_order(tmp_path: Path, indices: Any) -> None:
    codes = write_store(tmp_path, 2500, shape=(3, 4)).half()
    store = LatentStore.open(tmp_path, "train")
    expected = codes[torch.as_tensor(indices, dtype=torch.int64)]
    assert torch.equal(store.take(indices), expected)


@pytest.mark.parametrize("index", [2500, -1])
def test_an_index_out_of_range_is_refused(tmp_path: Path, index: int) -> None:
    write_store(tmp_path, 2500, shape=(3, 4))
    with pytest.raises(IndexError, match="indices: expected 0 to 2499"):
        LatentStore.open(tmp_path, "train").take([3, index])


def test_shards_beyond_the_store_are_removed(tmp_path: Path) -> None:
    write_store(tmp_path, 1500, shape=(3, 4))
    write_store(tmp_path, 100, shape=(3, 4))
    assert not shard_path(tmp_path, "train", 1).exists()
    assert len(LatentStore.open(tmp_path, "train")) == 100


def test_missing_parts_of_a_store_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="store.json.*01_encode"):
        LatentStore.open(tmp_path, "train")
    write_store(tmp_path, shape=(3, 4))
    with pytest.raises(FileNotFoundError, match="'test'.*train"):
        LatentStore.open(tmp_path, "test")
    path = shard_path(tmp_path, "train", 1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"train-00001\.safetensors"):
        LatentStore.open(tmp_path, "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001\.safetensors"):
        LatentStore.open(tmp_path, "train")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_codes", None),
        ("num_codes", {"train": "2"}),
        ("num_codes", {"train": -1}),
        ("classes", "ab"),
        ("classes", [1]),
        ("made_by", None),
    ],
)
def test_a_wrong_field_of_a_store_is_named(tmp_path: Path, field: str, value: Any) -> None:
    write_store(tmp_path, 2, shape=(3, 4))
    write_json(tmp_path / "store.json", read_json(tmp_path / "store.json") | {field: value})
    with pytest.raises(ValueError, match=rf"store\.json: {field}: expected"):
        LatentStore.open(tmp_path, "train")


@pytest.mark.parametrize("num_codes", [1, 3])
def test_a_store_of_another_length_is_refused(tmp_path: Path, num_codes: int) -> None:
    write_store(tmp_path, 2, shape=(3, 4))
    store = read_json(tmp_path / "store.json") | {"num_codes": {"train": num_codes}}
    write_json(tmp_path / "store.json", store)
    with pytest.raises(ValueError, match=f"store.json says {num_codes} train codes"):
        LatentStore.open(tmp_path, "train")


HEADER = {"fingerprint": "f", "paths": ["a.png", "b.png"]}


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({}, [1]),
        ({}, {"paths": 7}),
        ({}, {"paths": ["a.png"]}),
        ({"codes": torch.zeros(2, 18).half()}, HEADER),
        ({"codes": torch.zeros(2, 18, 4).int()}, HEADER),
        ({"labels": torch.zeros(2)}, HEADER),
        ({"labels": torch.tensor([0, -1])}, HEADER),
    ],
)
def test_a_shard_with_other_content_is_named(tmp_path: Path, changes: dict, header: Any) -> None:
    write_store(tmp_path, 2, shape=(3, 4))
    content = {"codes": torch.zeros(2, 18, 4).half(), "labels": torch.tensor([0, 1])} | changes
    path = shard_path(tmp_path, "train", 0)
    save_file(content, path, {"shard": json.dumps(header)})
    with pytest.raises(ValueError, match=r"train-00000\.safetensors.*run 01_encode"):
        LatentStore.open(tmp_path, "train")


def test_a_bad_shard_is_not_written(tmp_path: Path) -> None:
    path = shard_path(tmp_path, "train", 0)
    codes = torch.zeros(2, 18, 512)
    with pytest.raises(ValueError, match="codes: expected shape"):
        write_shard(path, codes, np.zeros(3), ["a", "b", "c"], "f")
    codes[1, 0, 0] = 1e6  # finite in float32 only
    with pytest.raises(ValueError, match=r"codes: expected finite.*b\.png"):
        write_shard(path, codes, np.zeros(2), ["a.png", "b.png"], "f")
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_depends_on_what_a_shard_is_encoded_from(tmp_path: Path) -> None:
    labels = np.array([0, 1])
    fingerprint = shard_fingerprint("sha", ["a", "b"], labels)
    assert fingerprint == shard_fingerprint("sha", ["a", "b"], labels)
    others = {
        shard_fingerprint("other", ["a", "b"], labels),
        shard_fingerprint("sha", ["a", "c"], labels),
        shard_fingerprint("sha", ["a", "b"], labels[::-1]),
    }
    assert len(others | {fingerprint}) == 4
    path = shard_path(tmp_path, "train", 0)
    assert read_fingerprint(path) is None
    write_shard(path, torch.zeros(2, 18, 512), labels, ["a", "b"], fingerprint)
    assert read_fingerprint(path) == fingerprint
    path.write_bytes(path.read_bytes()[:50])
    assert read_fingerprint(path) is None


def test_a_shard_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    ours, theirs = FORK.Pipe()

    def claim_all() -> None:
        for index in claim_shards(tmp_path, "train", range(3)):
            theirs.send(index)
        theirs.send("done")

    claims = claim_shards(tmp_path, "train", range(3))
    assert next(claims) == 0
    process = FORK.Process(target=claim_all)
    process.start()
    assert [ours.recv(), ours.recv()] == [1, 2]
    assert not ours.poll(0.2), "shard 0 is still ours"
    assert list(claims) == [1, 2]
    assert [ours.recv(), ours.recv()] == [0, "done"]
    process.join()
    assert not list(tmp_path.iterdir())


class TestStoresSideBySide:
    def test_one_is_found_by_its_name_and_several_are_listed(self, tmp_path: Path) -> None:
        first = store_path(tmp_path / "toy", "psp", "weights", {"img_size": 256})
        write_store(first, 3)
        assert LatentStore.open(tmp_path / "toy" / "psp", "train").folder == first
        second = store_path(tmp_path / "toy", "psp", "weights", {"img_size": 128})
        write_store(second, 4)
        with pytest.raises(ValueError, match="name one of") as several:
            LatentStore.open(tmp_path / "toy" / "psp", "train")
        assert all(f"{folder.name}: train=" in str(several.value) for folder in (first, second))
        write_json(tmp_path / "run" / "codes.json", {"store": str(second)})
        assert LatentStore.open(tmp_path / "run", "train").folder == second

    def test_each_part_of_the_identity_follows_what_it_is_of(self, tmp_path: Path) -> None:
        def identity(encoding: str, face: int, label: int) -> dict[str, Any]:
            codes, hashes = torch.zeros(1, 18, 4), np.full((1, 16), face, np.uint8)
            file = shard_path(tmp_path, "train", 0)
            write_shard(file, codes, [label], ["a.png"], "f", hashes=hashes)
            about = {"classes": "ab", "encoder": "psp", "faces": tmp_path, "synthetic": True}
            complete_store(tmp_path, {"train": 1}, made_by={"encoding": encoding}, **about)
            return store_identity(tmp_path)

        before = identity("psp", 1, 0)
        for changed, after in (
            ("encoding", identity("e4e", 1, 0)),
            ("faces", identity("psp", 2, 0)),
            ("labels", identity("psp", 1, 1)),
        ):
            assert {name for name in before if before[name] != after[name]} == {changed}
        assert identity("psp", 1, 0) == before

    def test_only_codes_that_no_run_uses_are_unused(self, tmp_path: Path) -> None:
        data, reports = tmp_path / "data", tmp_path / "reports"
        of_toy, encoded = data / "latents" / "toy", reports / "x" / "encode" / "psp"
        stores = {name: of_toy / f"psp-{name}" for name in ("trained", "encoded", "old", "own")}
        for name, folder in stores.items():
            codes = torch.zeros(1, 18, 4)
            write_shard(shard_path(folder, "train", 0), codes, [0], ["a.png"], "f")
            about = {"classes": "ab", "encoder": "psp", "faces": tmp_path, "synthetic": True}
            made_by = {} if name == "own" else {"run": str(encoded)}
            complete_store(folder, {"train": 1}, made_by=made_by, **about)
        write_json(encoded / "codes.json", store_identity(stores["encoded"]))
        train = reports / "x" / "train" / "a" / "config.json"
        write_json(train, {"codes": store_identity(stores["trained"])})
        assert unused_stores(data, reports) == [stores["old"]]
        # A run of 01_encode that has not ended may have written any of its stores.
        (encoded / "codes.json").unlink()
        write_json(encoded / "config.json", {"codes": {}})
        assert unused_stores(data, reports) == []


def test_a_flipped_bit_is_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    write_store(tmp_path, 3, shape=(2, 4))
    rng = np.random.default_rng(0)
    for path in (tmp_path / "store.json", shard_path(tmp_path, "train", 0)):
        content = path.read_bytes()
        # In JSON the key of the checksum may be lost without effect on the rest.
        first = 8 * content.index(b"xxh3") + 300 if path.suffix == ".json" else 0
        for place in rng.integers(first, 8 * len(content), 40):
            changed = bytearray(content)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=path.name):
                LatentStore.open(tmp_path, "train")
        path.write_bytes(content)
    assert len(LatentStore.open(tmp_path, "train")) == 3


def test_a_shard_of_another_encoding_is_refused(tmp_path: Path) -> None:
    for name in ("psp", "e4e"):
        file = shard_path(tmp_path / name, "train", 0)
        write_shard(file, torch.zeros(1, 18, 4), [0], ["a.png"], "f", encoding=name)
        about = {"classes": "a", "encoder": name, "faces": tmp_path, "synthetic": True}
        complete_store(tmp_path / name, {"train": 1}, made_by={"encoding": name}, **about)
    (tmp_path / "e4e" / file.name).replace(tmp_path / "psp" / file.name)
    with pytest.raises(ValueError, match="psp: train .*another encoding"):
        LatentStore.open(tmp_path / "psp", "train")
