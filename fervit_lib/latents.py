"""Shards of StyleGAN `w+` codes on disk: written atomically, read by memory map.

A store is a folder `data/latents/<dataset>/<encoder>/` with `<split>-00000.safetensors`, … of up to
`SHARD_SIZE` codes each, and `store.json`. The latter describes the store and is written last: only
then is the store complete.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fervit_lib.system import distributed
from fervit_lib.system.atomic import (
    LOCK_SUFFIX,
    atomic_write,
    read_json,
    remove_partial_writes,
    write_json,
)
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.locks import file_lock, remove_lock, try_lock
from fervit_lib.system.runtime import display_path, resolve

NUM_LAYERS = 18  # styles of a 1024×1024 StyleGAN2
LATENT_DIM = 512
SHARD_SIZE = 1024
# What the layers of w+ control: pose and shape, facial features, colour and texture
# (StyleGAN, section 3.1; pSp, section 3.1).
BANDS = {"coarse": slice(0, 3), "middle": slice(3, 7), "fine": slice(7, 18)}


def view_split(view: int) -> str:
    """Split with a view of the training faces: view 0 is the original, others are augmented."""
    return "train" if view == 0 else f"train-view{view}"


def shard_path(folder: Path, split: str, index: int) -> Path:
    return folder / f"{split}-{index:05d}.safetensors"


def shard_fingerprint(encoder_sha256: str, paths: Sequence[str], labels: np.ndarray) -> str:
    """Hash of what a shard is encoded from; a shard with an equal one is not encoded again."""
    content = json.dumps([encoder_sha256, list(paths), labels.tolist()])
    return hashlib.sha256(content.encode()).hexdigest()


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint in a shard's header; None if there is no complete shard."""
    try:
        with safe_open(path, framework="pt") as file:
            return _read_header(file)["fingerprint"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def store_fingerprint(folder: Path | str) -> str:
    """Hash of the fingerprints of all shards: it changes with any face, label or encoder weight."""
    shards = sorted(Path(folder).glob("*.safetensors"))
    fingerprints = {path.name: read_fingerprint(path) for path in shards}
    return hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()


def store_encoding(folder: Path) -> str:
    """Identifies weights, precision and alignment that made a store's codes; empty if unknown."""
    return read_store(folder)["made_by"].get("encoding", "")


def claim_shards(folder: Path, split: str, indices: Sequence[int]) -> Iterator[int]:
    """Iterate over the shards at `indices`, holding the lock of each until the next is requested.

    Shards that no other process holds come first. The others come when their holder has finished or
    was killed; the caller has to check whether they are written by then.
    """
    # First without waiting, so that several processes do not queue for the same shard.
    held_elsewhere = []
    for index in indices:
        if lock := try_lock(_claim_path(folder, split, index)):
            yield from _hold(lock, index)
        else:
            held_elsewhere.append(index)
    for index in held_elsewhere:
        lock = file_lock(_claim_path(folder, split, index))
        lock.acquire()
        yield from _hold(lock, index)


def _claim_path(folder: Path, split: str, index: int) -> Path:
    # `remove_partial_writes` removes such files if a killed process left them behind.
    return folder / f".{split}-{index:05d}{LOCK_SUFFIX}"


def _hold(lock: FileLock, index: int) -> Iterator[int]:
    try:
        yield index
    finally:
        remove_lock(lock)


def write_shard(
    path: Path, codes: Tensor, labels: np.ndarray, paths: Sequence[str], fingerprint: str
) -> None:
    """Write codes (n, 18, 512) as float16 with their labels (n,) and image paths, atomically.

    Raises:
        ValueError: the shapes do not match, or a code is not finite in float16.
        OSError: it could not be written, for instance because the disk is full.
    """
    n = len(paths)
    if codes.ndim != 3 or len(codes) != n or len(labels) != n or n > SHARD_SIZE:
        raise ValueError(
            f"codes: expected shape ({n}, layers, dim) for {n} paths and {len(labels)} labels, at "
            f"most {SHARD_SIZE} of each, got {tuple(codes.shape)}"
        )
    half = codes.to(torch.float16).cpu().contiguous()
    is_finite = half.isfinite().flatten(1).all(1)
    if not is_finite.all():
        first_bad = paths[int((~is_finite).nonzero()[0])]
        raise ValueError(
            f"codes: expected finite values in float16, got others for {first_bad}; check the "
            f"weights of the encoder"
        )
    tensors = {"codes": half, "labels": torch.as_tensor(labels, dtype=torch.int64)}
    # One metadata entry: safetensors writes several in random order, and equal codes should be
    # equal files.
    metadata = {"shard": json.dumps({"fingerprint": fingerprint, "paths": list(paths)})}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


@distributed.rank_zero_only
def complete_store(
    folder: Path,
    num_codes: dict[str, int],
    *,
    classes: Sequence[str],
    encoder: str,
    faces: Path,
    synthetic: bool,
    made_by: Mapping[str, str] | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> None:
    """Write `store.json`, which turns the shards in `folder` into a complete store.

    Shards that do not belong to it are removed.

    Args:
        num_codes: number of codes per split.
        faces: where `datasets.load_faces` finds the faces.
        made_by: checkpoint, sha256 of the checkpoint, landmarks and misses, to encode more faces in
            the same way, the run's folder, `encoding` (see `store_encoding`); None: unknown.
        protocol: fields of the `datasets.Protocol` by which the faces were loaded; None: default.
    """
    for split, n in num_codes.items():
        current = {shard_path(folder, split, i) for i in range(_num_shards(n))}
        for path in set(folder.glob(f"{split}-[0-9]*.safetensors")) - current:
            path.unlink(missing_ok=True)  # left by an earlier run with more faces
    content = {
        "encoder": encoder,
        "classes": list(classes),
        "faces": display_path(faces),
        "synthetic": synthetic,
        "num_codes": num_codes,
        "made_by": dict(made_by or {}),
        "protocol": dict(protocol or {}),
    }
    write_json(folder / "store.json", content)
    remove_partial_writes(folder)


def _num_shards(num_codes: int) -> int:
    return -(-num_codes // SHARD_SIZE)  # rounded up


@dataclass(frozen=True)
class LatentStore:
    """One split of a complete store: codes, labels and image paths, in the order of the faces."""

    folder: Path
    split: str
    encoder: str
    classes: tuple[str, ...]
    faces: Path
    synthetic: bool
    made_by: dict[str, str]
    protocol: dict[str, Any]
    shards: tuple[dict[str, Any], ...]

    @classmethod
    def open(cls, folder: Path | str, split: str) -> Self:
        """Open a split by memory map.

        Raises:
            FileNotFoundError: the store, the split or a shard does not exist.
            ValueError: a shard is damaged, or does not match `store.json`.
        """
        folder = Path(folder)
        if not (folder / "store.json").is_file():
            raise FileNotFoundError(
                f"{folder}: no complete store of codes there (store.json is missing); run "
                f"01_encode, which resumes an interrupted run"
            )
        store = read_store(folder)
        if split not in store["num_codes"]:
            splits = ", ".join(store["num_codes"])
            raise FileNotFoundError(f"{folder}: no split {split!r}; this store has {splits}")
        expected = store["num_codes"][split]
        shards = tuple(
            _read_shard(shard_path(folder, split, i)) for i in range(_num_shards(expected))
        )
        num_codes = sum(len(shard["paths"]) for shard in shards)
        if num_codes != expected:
            raise ValueError(
                f"{folder}: store.json says {expected} {split} codes, the shards hold {num_codes}; "
                f"run 01_encode"
            )
        return cls(
            folder=folder,
            split=split,
            encoder=store["encoder"],
            classes=tuple(store["classes"]),
            faces=resolve(store["faces"]),
            synthetic=store["synthetic"],
            made_by=store["made_by"],
            protocol=store["protocol"],
            shards=shards,
        )

    @classmethod
    def open_views(cls, folder: Path | str) -> list[Self]:
        """Open every view of the training faces in a store, the original first."""
        original = cls.open(folder, view_split(0))
        splits = read_store(Path(folder))["num_codes"]
        others = [view_split(view) for view in range(1, len(splits))]
        return [original, *(cls.open(folder, split) for split in others if split in splits)]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_layers(self) -> int:
        """Layers per code: 18, or 16 or 14 for a smaller StyleGAN."""
        return self.shards[0]["codes"].shape[1]

    def take(self, indices: np.ndarray | Tensor | Sequence[int]) -> Tensor:
        """The codes at positions `indices` (n,), in that order: (n, 18, 512) float16.

        Only these codes are read from disk.

        Raises:
            IndexError: an index is out of range.
        """
        indices = torch.as_tensor(indices, dtype=torch.int64)
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(
                f"indices: expected 0 to {len(self) - 1} for the {self.split} codes, got "
                f"{indices.tolist()!s:.80}"
            )
        first = self.shards[0]["codes"]
        codes = torch.empty(len(indices), *first.shape[1:], dtype=first.dtype)  # (n, 18, 512)
        # Each shard is a memory map, of which only the pages with these codes are read.
        start = 0
        for shard in self.shards:
            end = start + len(shard["labels"])
            in_shard = (start <= indices) & (indices < end)  # (n,) bool
            codes[in_shard] = shard["codes"][indices[in_shard] - start]
            start = end
        return codes

    @cached_property
    def codes(self) -> Tensor:
        """All codes, (N, 18, 512) float16: a memory map if there is one shard, else in memory."""
        if len(self.shards) == 1:  # torch.cat would copy it to memory
            return self.shards[0]["codes"]
        return torch.cat([shard["codes"] for shard in self.shards])

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64, indices into `classes`."""
        return torch.cat([shard["labels"] for shard in self.shards])

    @cached_property
    def paths(self) -> list[str]:
        """The image of each code, as `datasets.load_faces` names it."""
        return [path for shard in self.shards for path in shard["paths"]]


def read_store(folder: Path) -> dict[str, Any]:
    """Read the `store.json` that `complete_store` wrote.

    Raises:
        ValueError: it has other content; names the field.
    """
    store = read_json(folder / "store.json")
    types = {
        "encoder": str,
        "classes": list,
        "faces": str,
        "synthetic": bool,
        "num_codes": dict,
        "made_by": dict,
        "protocol": dict,
    }
    invalid = [name for name, type_ in types.items() if not isinstance(store.get(name), type_)]
    if not invalid and not all(isinstance(n, int) and n > 0 for n in store["num_codes"].values()):
        invalid = ["num_codes"]
    if not invalid and not all(isinstance(name, str) for name in store["classes"]):
        invalid = ["classes"]
    if invalid:
        raise ValueError(
            f"{folder / 'store.json'}: {invalid[0]}: expected what 01_encode writes, got "
            f"{store.get(invalid[0])!r:.80}; run 01_encode, which keeps complete shards"
        )
    return store


def _read_header(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()["shard"])


def _read_shard(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: shard missing; run 01_encode, which encodes it again")
    with (
        explain_read_error(path, "not a complete shard", "delete it and run 01_encode"),
        safe_open(path, framework="pt") as file,
    ):
        codes = file.get_tensor("codes")
        labels = file.get_tensor("labels")
        paths = _read_header(file)["paths"]
        is_codes = codes.ndim == 3 and codes.is_floating_point()
        is_labels = labels.ndim == 1 and labels.dtype == torch.int64 and (labels >= 0).all()
        is_paths = isinstance(paths, list) and all(isinstance(name, str) for name in paths)
        if not (is_codes and is_labels and is_paths and len(codes) == len(labels) == len(paths)):
            raise TypeError(
                f"codes {tuple(codes.shape)} {codes.dtype} do not match its labels "
                f"{tuple(labels.shape)} and {len(paths)} paths"
            )
    return {"codes": codes, "labels": labels, "paths": paths}
