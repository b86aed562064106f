"""Codes on disk: shards of StyleGAN `w+` codes, written whole, read by memory map.

A store is a folder `data/latents/<dataset>/<encoder>/` with `<split>-00000.safetensors`, … of up to `SHARD_SIZE` codes
each and `store.json`, which is written last: it says what is in the store and that it is complete.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fervit_lib.system import distributed
from fervit_lib.system.atomic import atomic_write, read_json, remove_partial_writes, write_json
from fervit_lib.system.errors import explain_read_error, explain_write_error
from fervit_lib.system.runtime import display_path, resolve

NUM_LAYERS = 18  # styles of a 1024×1024 StyleGAN2
LATENT_DIM = 512
SHARD_SIZE = 1024
# What the layers of w+ steer (StyleGAN, section 3.1; pSp, section 3.1): pose and shape, features, colour and texture.
BANDS = {"coarse": slice(0, 3), "middle": slice(3, 7), "fine": slice(7, 18)}


def view_split(view: int) -> str:
    """The split that holds a view of the training faces: 0 is the faces as they are, the others are changed copies."""
    return "train" if view == 0 else f"train-view{view}"


def shard_path(folder: Path, split: str, index: int) -> Path:
    return folder / f"{split}-{index:05d}.safetensors"


def shard_fingerprint(encoder_sha256: str, paths: Sequence[str], labels: np.ndarray) -> str:
    """What a shard is made from, as a hash: a shard with the same one need not be encoded again."""
    content = json.dumps([encoder_sha256, list(paths), labels.tolist()])
    return hashlib.sha256(content.encode()).hexdigest()


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint in a shard's header; None where there is no whole shard."""
    try:
        with safe_open(path, framework="pt") as file:
            return _read_header(file)["fingerprint"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def store_fingerprint(folder: Path | str) -> str:
    """What all shards of a store are made from, as a hash: it changes when any face, label or weight does."""
    prints = {
        path.name: read_fingerprint(path) for path in sorted(Path(folder).glob("*.safetensors"))
    }
    return hashlib.sha256(json.dumps(prints).encode()).hexdigest()


def claim_shards(folder: Path, split: str, indices: Sequence[int]) -> Iterator[int]:
    """Go through the shards at `indices`, each held by this process alone until the next one is asked for.

    First those that nobody holds, then the others, each when it is let go: it may be made by then, or not. The system
    lets go what a killed process held. What it left half written is removed.
    """
    with explain_write_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".{split}.lock").open("ab")
    with file:
        held_elsewhere: list[int] = []
        for wait, to_do in ((False, indices), (True, held_elsewhere)):
            for index in to_do:
                try:  # a byte a shard
                    fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, index)
                except (BlockingIOError, PermissionError):
                    held_elsewhere.append(index)
                    continue
                try:
                    yield index
                finally:
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, index)


def write_shard(
    path: Path, codes: Tensor, labels: np.ndarray, paths: Sequence[str], fingerprint: str
) -> None:
    """Write codes `(n, 18, 512)` as float16 with their labels `(n,)` and source paths, whole or not at all.

    Raises:
        ValueError: shapes do not fit, or a code is not finite in float16.
        OSError: it could not be written, for instance because the disk is full; nothing is left behind.
    """
    n = len(paths)
    if codes.ndim != 3 or len(codes) != n or len(labels) != n or n > SHARD_SIZE:
        raise ValueError(
            f"codes: expected ({n}, layers, dim) for {n} paths and {len(labels)} labels, at most {SHARD_SIZE} of "
            f"each, got {tuple(codes.shape)}"
        )
    half = codes.to(torch.float16).cpu().contiguous()
    if not half.isfinite().all():
        bad = paths[int((~half.isfinite()).flatten(1).any(1).nonzero()[0])]
        raise ValueError(
            f"codes: expected finite values in float16, got others for {bad}; check the encoder's weights"
        )
    tensors = {"codes": half, "labels": torch.as_tensor(labels, dtype=torch.int64)}
    # One entry: safetensors writes several in any order, and the same codes shall be the same bytes.
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
) -> Path:
    """Write `store.json`, which makes the shards in `folder` a complete store. Shards beyond it are removed.

    Args:
        faces: where `datasets.load_faces` finds the faces again.
        made_by: checkpoint, sha256 (of the checkpoint) and landmarks, with which more faces can be encoded the same
            way, and the folder of the run that did it; None: not known.
    """
    for split, n in num_codes.items():
        keep = {shard_path(folder, split, i) for i in range(-(-n // SHARD_SIZE))}
        for path in set(folder.glob(f"{split}-[0-9]*.safetensors")) - keep:
            path.unlink(missing_ok=True)  # left by an earlier run on more images
    content = {
        "encoder": encoder,
        "classes": list(classes),
        "faces": display_path(faces),
        "synthetic": synthetic,
        "num_codes": num_codes,
        "made_by": dict(made_by or {}),
    }
    write_json(folder / "store.json", content)
    remove_partial_writes(folder)
    return folder / "store.json"


@dataclass(frozen=True)
class LatentStore:
    """One split of a complete store: codes with labels and source paths, in the order of the face dataset."""

    folder: Path
    split: str
    encoder: str
    classes: tuple[str, ...]
    faces: Path
    synthetic: bool
    made_by: dict[str, str]
    shards: tuple[dict[str, Any], ...]

    @classmethod
    def open(cls, folder: Path | str, split: str) -> Self:
        """Open a split by memory map.

        Raises:
            FileNotFoundError: the store, the split or a shard is not there.
            ValueError: a shard is truncated, or does not hold what `store.json` says.
        """
        folder = Path(folder)
        if not (folder / "store.json").is_file():
            raise FileNotFoundError(
                f"{folder}: no complete store of codes there (store.json is missing); run 01_encode, which goes on "
                f"where an interrupted run stood"
            )
        store = read_store(folder)
        if split not in store["num_codes"]:
            raise FileNotFoundError(
                f"{folder}: no split {split!r}; this store has {', '.join(store['num_codes'])}"
            )
        expected = store["num_codes"][split]
        shards = tuple(
            _read_shard(shard_path(folder, split, i)) for i in range(-(-expected // SHARD_SIZE))
        )
        found = sum(len(shard["paths"]) for shard in shards)
        if found != expected:
            raise ValueError(
                f"{folder}: store.json says {expected} {split} codes, the shards hold {found}; run 01_encode"
            )
        return cls(
            folder,
            split,
            store["encoder"],
            tuple(store["classes"]),
            resolve(store["faces"]),
            store["synthetic"],
            store["made_by"],
            shards,
        )

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def open_views(cls, folder: Path | str) -> list[Self]:
        """Every view of the training faces that a store holds, the faces as they are first."""
        first = cls.open(folder, view_split(0))
        splits = read_store(Path(folder))["num_codes"]
        return [first] + [
            cls.open(folder, view_split(v))
            for v in range(1, len(splits))
            if view_split(v) in splits
        ]

    @property
    def num_layers(self) -> int:
        """Layers of a code: 18, or 16 or 14 of a smaller StyleGAN."""
        return self.shards[0]["codes"].shape[1]

    def take(self, indices: np.ndarray | Tensor | Sequence[int]) -> Tensor:
        """The codes at positions `indices` (n,), in that order, (n, 18, 512) float16; of the others nothing is read."""
        wanted = torch.as_tensor(indices, dtype=torch.int64)
        if ((wanted < 0) | (wanted >= len(self))).any():
            raise IndexError(
                f"indices: expected 0 to {len(self) - 1}, the {self.split} codes, got {wanted.tolist()!s:.80}"
            )
        order = wanted.argsort()
        ends = torch.tensor([len(shard["labels"]) for shard in self.shards]).cumsum(0)
        parts = order.tensor_split(torch.searchsorted(wanted[order], ends)[:-1])
        taken = torch.empty(
            len(wanted), *self.shards[0]["codes"].shape[1:], dtype=self.shards[0]["codes"].dtype
        )
        for shard, end, part in zip(self.shards, ends, parts, strict=True):
            taken[part] = shard["codes"][wanted[part] - (end - len(shard["labels"]))]
        return taken

    @cached_property
    def codes(self) -> Tensor:
        """All, (N, 18, 512) float16; one shard stays a memory map, several are joined in memory."""
        return (
            torch.cat([shard["codes"] for shard in self.shards])
            if len(self.shards) > 1
            else self.shards[0]["codes"]
        )

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64, positions in `classes`."""
        return torch.cat([shard["labels"] for shard in self.shards])

    @cached_property
    def paths(self) -> list[str]:
        return [path for shard in self.shards for path in shard["paths"]]


def read_store(folder: Path) -> dict[str, Any]:
    """What `complete_store` wrote. Raises ValueError where it is something else."""
    store = read_json(folder / "store.json")
    kinds = {
        "encoder": str,
        "classes": list,
        "faces": str,
        "synthetic": bool,
        "num_codes": dict,
        "made_by": dict,
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(store.get(name), kind)]
    if not wrong and any(type(n) is not int or n < 1 for n in store["num_codes"].values()):
        wrong = ["num_codes"]
    if not wrong and not all(isinstance(name, str) for name in store["classes"]):
        wrong = ["classes"]
    if wrong:
        raise ValueError(
            f"{folder / 'store.json'}: {wrong[0]}: expected what 01_encode writes, got {store.get(wrong[0])!r:.80}; "
            f"run 01_encode, which keeps whole shards"
        )
    return store


def _read_header(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()["shard"])


def _read_shard(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: shard missing; run 01_encode, which makes what is missing"
        )
    again = "delete it and run 01_encode"
    with (
        explain_read_error(path, "not a whole shard", again),
        safe_open(path, framework="pt") as file,
    ):
        codes, labels = file.get_tensor("codes"), file.get_tensor("labels")
        paths = _read_header(file)["paths"]
        if not isinstance(paths, list) or not all(isinstance(name, str) for name in paths):
            raise TypeError("its paths are no list of names")
    fits = (
        codes.ndim == 3
        and codes.is_floating_point()
        and labels.ndim == 1
        and labels.dtype == torch.int64
    )
    if not fits or not len(codes) == len(labels) == len(paths) or (labels < 0).any():
        raise ValueError(
            f"{path}: codes {tuple(codes.shape)} {codes.dtype} do not fit its labels {tuple(labels.shape)} and "
            f"{len(paths)} paths; {again}"
        )
    return {"codes": codes, "labels": labels, "paths": paths}
