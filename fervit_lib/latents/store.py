"""Stores of StyleGAN `w+` codes.

A store is a folder with `<split>-00000.safetensors`, … of up to `SHARD_SIZE` codes each, and
`store.json`. The latter describes the store and is written last: only then is the store complete.
Stores of other settings stand side by side, `data/latents/<dataset>/<encoder>-<8 hex digits>/`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fervit_lib.latents.shards import SHARD_SIZE, read_shard
from fervit_lib.system import distributed
from fervit_lib.system.atomic import read_json, remove_partial_writes, write_json
from fervit_lib.system.identity import digest
from fervit_lib.system.runtime import display_path, resolve
from fervit_lib.system.shards import MappedRows, shard_path

RESULT = "codes.json"  # in a run of 01_encode: where its codes are, and what they are


def view_split(view: int) -> str:
    """Split with a view of the training faces: view 0 is the original, others are augmented."""
    return "train" if view == 0 else f"train-view{view}"


def store_path(folder: Path, name: str, *settings: Any) -> Path:
    """Where the codes of these settings go, beside those of other settings.

    Args:
        folder: of the data set, `data/latents/<dataset>`.
        settings: JSON values: the encoding, and which faces are encoded.
    """
    return folder / f"{name}-{digest(settings)[:8]}"


def find_store(path: Path | str) -> Path:
    """The folder of a complete store.

    Args:
        path: that folder; or the same without its 8 hex digits, if there is only one; or a run of
            01_encode, `reports/<experiment>/encode/<variant>`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several; the message says what tells them apart.
    """
    path = resolve(path)
    if (path / "store.json").is_file():
        return path
    if (path / RESULT).is_file():
        return find_store(read_json(path / RESULT)["store"])
    named = re.compile(re.escape(path.name) + "-[0-9a-f]{8}")
    files = sorted(path.parent.glob("*/store.json"))
    files = [file for file in files if named.fullmatch(file.parent.name)]
    complete = {file.parent: read_store(file.parent) for file in files}
    if not complete:
        raise FileNotFoundError(
            f"{display_path(path)}: no complete store of codes there (store.json is missing); run "
            f"01_encode, which resumes an interrupted run"
        )
    if len(complete) > 1:
        flat = {
            folder: store["made_by"].get("settings", {}) | store["made_by"] | store["num_codes"]
            for folder, store in complete.items()
        }
        names = {name for about in flat.values() for name in about} - {"settings", "checkpoint"}
        differing = sorted(n for n in names if len({str(a.get(n)) for a in flat.values()}) > 1)
        listed = "".join(
            f"\n  {display_path(folder)}: "
            + ", ".join(f"{name}={about.get(name)!s:.40}" for name in differing)
            for folder, about in flat.items()
        )
        raise ValueError(f"{display_path(path)}: several stores of codes; name one of:{listed}")
    return next(iter(complete))


def store_identity(folder: Path) -> dict:
    """What a model is trained on: store, face_size, encoding, and by split faces and labels.

    `encoding` identifies the weights, precision and alignment that made the codes. The others are
    hashes of the contents of the faces, and of their labels, in their order.
    """
    store = read_store(folder)
    return {"store": display_path(folder), "face_size": store["face_size"], **store["identity"]}


@distributed.rank_zero_only
def complete_store(
    folder: Path,
    num_codes: dict[str, int],
    *,
    classes: Sequence[str],
    encoder: str,
    faces: Path,
    synthetic: bool,
    face_size: int = 0,
    made_by: Mapping | None = None,
    protocol: Mapping | None = None,
) -> None:
    """Write `store.json`, which turns the shards in `folder` into a complete store.

    Shards that do not belong to it are removed.

    Args:
        num_codes: number of codes per split.
        faces: where `datasets.load_faces` finds the faces.
        face_size: longest side of the training faces in pixels, at which models over pixels read
            all faces; 0: unknown.
        made_by: checkpoint, sha256 of the checkpoint, landmarks and misses, to encode more faces in
            the same way, the run's folder and its `settings`, `encoding` (see `store_identity`);
            None: unknown.
        protocol: fields of the `datasets.Protocol` by which the faces were loaded; None: default.
    """
    for split, n in num_codes.items():
        current = {shard_path(folder, split, i) for i in range(_num_shards(n))}
        for path in set(folder.glob(f"{split}-[0-9]*.safetensors")) - current:
            path.unlink(missing_ok=True)  # left by an earlier run with more faces
    made_by = dict(made_by or {})
    identity: dict = {"encoding": made_by.get("encoding"), "faces": {}, "labels": {}}
    fingerprints = []
    for split, n in num_codes.items():
        shards = [_identify(shard_path(folder, split, i)) for i in range(_num_shards(n))]
        identity["faces"][split] = digest([shard["faces"] for shard in shards])
        identity["labels"][split] = digest(list(classes), [shard["labels"] for shard in shards])
        fingerprints += [shard["fingerprint"] for shard in shards]
    # Without a known encoder, other codes are another encoding.
    identity["encoding"] = identity["encoding"] or digest(fingerprints)
    content = {
        "encoder": encoder,
        "classes": list(classes),
        "faces": display_path(faces),
        "synthetic": synthetic,
        "face_size": face_size,
        "num_codes": num_codes,
        "made_by": made_by,
        "identity": identity,
        "protocol": dict(protocol or {}),
    }
    write_json(folder / "store.json", content)
    remove_partial_writes(folder)


def _identify(path: Path) -> dict[str, str]:
    shard = read_shard(path)
    is_known = shard["hashes"] is not None
    return {
        "faces": digest(shard["hashes"].tobytes().hex() if is_known else shard["paths"]),
        "labels": digest(shard["labels"].tolist()),
        "fingerprint": shard["fingerprint"],
    }


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
    face_size: int
    made_by: dict
    protocol: dict
    shards: tuple[dict, ...]

    @classmethod
    def open(cls, folder: Path | str, split: str) -> Self:
        """Open a split by memory map.

        Args:
            folder: see `find_store`.

        Raises:
            FileNotFoundError: the store, the split or a shard does not exist.
            ValueError: a shard is damaged, or does not match `store.json`; or see `find_store`.
        """
        folder = find_store(folder)
        store = read_store(folder)
        if split not in store["num_codes"]:
            splits = ", ".join(store["num_codes"])
            raise FileNotFoundError(f"{folder}: no split {split!r}; this store has {splits}")
        expected = store["num_codes"][split]
        shards = tuple(
            read_shard(shard_path(folder, split, i)) for i in range(_num_shards(expected))
        )
        encoding = store["made_by"].get("encoding")
        if encoding and any(shard["encoding"] != encoding for shard in shards):
            raise ValueError(f"{folder}: {split} has codes of another encoding; run 01_encode")
        num_codes = sum(len(shard.pop("paths")) for shard in shards)
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
            face_size=store["face_size"],
            made_by=store["made_by"],
            protocol=store["protocol"],
            shards=shards,
        )

    @classmethod
    def open_views(cls, folder: Path | str) -> list[Self]:
        """Open every view of the training faces in a store, the original first."""
        original = cls.open(folder, view_split(0))
        folder = original.folder
        splits = read_store(folder)["num_codes"]
        others = [view_split(view) for view in range(1, len(splits))]
        return [original, *(cls.open(folder, split) for split in others if split in splits)]

    def __len__(self) -> int:
        return sum(len(shard["labels"]) for shard in self.shards)

    @property
    def num_layers(self) -> int:
        """Layers per code: 18, or 16 or 14 for a smaller StyleGAN."""
        return self.shards[0]["codes"].shape[1]

    @cached_property
    def rows(self) -> MappedRows:
        """All codes (N, 18, 512) float16, read from disk batch by batch."""
        return MappedRows([shard["codes"].numpy() for shard in self.shards])

    def take(self, indices: np.ndarray | Tensor | Sequence[int]) -> Tensor:
        """The codes at positions `indices` (n,), in that order: (n, 18, 512) float16.

        Only these codes are read from disk.

        Raises:
            IndexError: an index is out of range.
        """
        indices = np.asarray(indices, np.int64)
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(
                f"indices: expected 0 to {len(self) - 1} for the {self.split} codes, got "
                f"{indices.tolist()!s:.80}"
            )
        return self.rows[indices]

    @cached_property
    def codes(self) -> Tensor:
        """All codes, (N, 18, 512) float16: a memory map if there is one shard, else in memory."""
        if len(self.shards) == 1:  # torch.cat would copy it to memory
            return self.shards[0]["codes"]
        return self.rows[:]

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64, indices into `classes`.

        Raises:
            ValueError: there is no such class.
        """
        labels = torch.cat([shard["labels"] for shard in self.shards])
        last = len(self.classes) - 1
        if len(wrong := labels[(labels < 0) | (labels > last)]):
            raise ValueError(
                f"{self.folder}: {self.split}: expected labels 0 to {last}, one per class, got "
                f"{int(wrong[0])}; run 01_encode"
            )
        return labels

    @cached_property
    def paths(self) -> list[str]:
        """The image of each code, as `datasets.load_faces` names it."""
        return [path for index in range(len(self.shards)) for path in self.shard_paths(index)]

    def shard_paths(self, index: int) -> list[str]:
        """The images of one shard. They are not kept: the names of a large set are many bytes.

        Raises:
            ValueError: the shard was replaced after the store was opened.
        """
        path = shard_path(self.folder, self.split, index)
        shard = read_shard(path)
        if shard["fingerprint"] != self.shards[index]["fingerprint"]:
            raise ValueError(f"{path}: encoded again since it was opened; open the store again")
        return shard["paths"]

    @cached_property
    def hashes(self) -> np.ndarray | None:
        """(N, 16) uint8, of the content of the faces when they were encoded; None: unknown."""
        hashes = [shard["hashes"] for shard in self.shards]
        return None if any(h is None for h in hashes) else np.concatenate(hashes)


def read_store(folder: Path) -> dict:
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
        "face_size": int,
        "num_codes": dict,
        "made_by": dict,
        "identity": dict,
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
