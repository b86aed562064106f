"""Codes as one `.pt` file a face, `{"latent", "label", "img_path"}`, to and from a `LatentStore`.

    python -m fervit_lib.pt_codes import <folder with train/ val/ test/> data/latents/<dataset>/<encoder> --faces data/…
    python -m fervit_lib.pt_codes export data/latents/<dataset>/<encoder> <folder>

Earlier tools of this research wrote such folders.
"""

import argparse
import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path, PosixPath, PurePath, WindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fervit_lib.datasets import EMOTIONS, SPLITS, stratified_mask
from fervit_lib.datasets.faces import VAL_FRACTION, VAL_SEED
from fervit_lib.latents import (
    LATENT_DIM,
    NUM_LAYERS,
    SHARD_SIZE,
    LatentStore,
    complete_store,
    read_store,
    shard_fingerprint,
    shard_path,
    write_shard,
)
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.errors import check_symlink
from fervit_lib.system.progress import progress


def import_pt_folder(
    source: Path,
    folder: Path,
    *,
    faces: Path,
    classes: Sequence[str] = EMOTIONS,
    encoder: str = "psp",
) -> dict[str, int]:
    """Make the store `folder` from `source`, which has the splits as folders, with `*.pt` at any depth.

    Without val, a stratified eighth of train becomes one. Files are taken in the order of their names.

    Args:
        faces: where `datasets.load_faces` finds the faces; an `img_path` of theirs is kept relative to it.
        classes: names of the labels 0, 1, …
        encoder: what made the codes.

    Returns:
        Number of codes by split.

    Raises:
        FileNotFoundError: `source` is not there.
        ValueError: no train folder or no files; a file is damaged, has code in it, or other contents or shapes.
    """
    if not source.is_dir():
        raise FileNotFoundError(
            f"{source}: no such folder; give the one that holds train/, val/ and test/"
        )
    files = {
        split: [check_symlink(p, source) for p in sorted((source / split).rglob("*.pt"))]
        for split in SPLITS
    }
    files = {split: paths for split, paths in files.items() if paths}
    if "train" not in files:
        raise ValueError(
            f"{source}: expected .pt files in {source / 'train'}, found none; name the folders {SPLITS}"
        )
    contents = {split: _read_files(paths, split, faces, classes) for split, paths in files.items()}
    if "val" not in contents:
        contents["train"], contents["val"] = _split_off_val(*contents["train"])
    num_codes = {}
    for split, (codes, labels, paths) in contents.items():
        num_codes[split] = len(paths)
        for first in range(0, len(paths), SHARD_SIZE):
            part = slice(first, first + SHARD_SIZE)
            made_from = hashlib.sha256(codes[part].numpy().tobytes()).hexdigest()
            fingerprint = shard_fingerprint(made_from, paths[part], labels[part])
            path = shard_path(folder, split, first // SHARD_SIZE)
            write_shard(path, codes[part], labels[part], paths[part], fingerprint)
    complete_store(
        folder, num_codes, classes=classes, encoder=encoder, faces=faces, synthetic=False
    )
    return num_codes


def export_pt_folder(folder: Path, target: Path) -> dict[str, int]:
    """Write every code of the store `folder` to `target/<split>/<number>.pt`, float32, in the order of the store.

    Files that are there already are written anew; others are left.

    Returns:
        Number of files by split.
    """
    stores = {split: LatentStore.open(folder, split) for split in read_store(folder)["num_codes"]}
    for split, store in stores.items():
        (target / split).mkdir(parents=True, exist_ok=True)
        for i, path in enumerate(progress(store.paths, desc=f"export {split}", unit=" files")):
            content = {
                "latent": store.take([i])[0].float(),
                "label": int(store.labels[i]),
                "img_path": path,
            }
            torch.save(
                content, buffer := io.BytesIO()
            )  # torch has no words of its own for a full disk
            with atomic_write(target / split / f"{i:06d}.pt") as temporary:
                temporary.write_bytes(buffer.getbuffer())
    return {split: len(store) for split, store in stores.items()}


Contents = tuple[
    Tensor, np.ndarray, list[str]
]  # codes (n, layers, 512) float16, labels (n,), paths


def _read_files(files: Sequence[Path], split: str, faces: Path, classes: Sequence[str]) -> Contents:
    codes, labels, paths = None, np.zeros(len(files), np.int64), []
    with torch.serialization.safe_globals([PosixPath, WindowsPath]):
        for i, file in enumerate(progress(files, desc=f"import {split}", unit=" files")):
            latent, labels[i], img_path = _read_file(file, classes)
            if codes is None:
                codes = torch.empty(len(files), *latent.shape, dtype=torch.float16)
            if latent.shape != codes.shape[1:]:
                raise ValueError(
                    f"{file}: latent: expected shape {tuple(codes.shape[1:])} as {files[0]} has, got "
                    f"{tuple(latent.shape)}; keep codes of one encoder in a folder"
                )
            codes[i] = latent
            paths.append(_within(img_path, split, faces))
    return codes, labels, paths


def _read_file(file: Path, classes: Sequence[str]) -> tuple[Tensor, int, str]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
        latent, label, img_path = content["latent"], content["label"], content["img_path"]
        label = classes.index(label) if isinstance(label, str) else int(label)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file}: refused, nothing in it was run: expected a tensor, a number and a path ({error}); save it anew "
            f"with plain values, or remove it"
        ) from error
    except Exception as error:  # torch has no error of its own for a damaged file
        raise ValueError(
            f"{file}: expected {{latent, label, img_path}}, but it is damaged or something else ({error!r}); write it "
            f"again, or remove it"
        ) from error
    latent = latent.squeeze(0) if isinstance(latent, Tensor) and latent.ndim == 3 else latent
    plain = (
        isinstance(latent, Tensor) and latent.layout == torch.strided and latent.is_floating_point()
    )
    if (
        not plain
        or latent.ndim != 2
        or latent.shape[1] != LATENT_DIM
        or not 0 < len(latent) <= NUM_LAYERS
    ):
        came = (
            f"{tuple(latent.shape)} {latent.dtype}"
            if isinstance(latent, Tensor)
            else type(latent).__name__
        )
        raise ValueError(
            f"{file}: latent: expected shape (layers, {LATENT_DIM}), floats, got {came}; write it again"
        )
    if not 0 <= label < len(classes):
        raise ValueError(
            f"{file}: label: expected 0 to {len(classes) - 1} for {', '.join(classes)}, got {label}"
        )
    return latent.detach(), label, str(img_path)


def _within(img_path: str, split: str, faces: Path) -> str:
    """`split/class/name`, as `load_faces` calls an image, wherever the folder was when it was encoded."""
    path = PurePath(img_path.replace("\\", "/"))
    if path.is_relative_to(faces):
        return str(path.relative_to(faces))
    return "/".join(path.parts[-3:]) if path.parts[-3:-2] == (split,) else img_path


def _split_off_val(
    codes: Tensor, labels: np.ndarray, paths: list[str]
) -> tuple[Contents, Contents]:
    in_val = stratified_mask(labels, VAL_FRACTION, VAL_SEED)

    def part(mask: np.ndarray) -> Contents:
        return (
            codes[torch.from_numpy(mask)],
            labels[mask],
            [paths[i] for i in np.flatnonzero(mask)],
        )

    return part(~in_val), part(in_val)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    to_store = commands.add_parser("import", help="a folder of .pt files to a store")
    to_store.add_argument("source", type=Path)
    to_store.add_argument("folder", type=Path, help="the store, data/latents/<dataset>/<encoder>")
    to_store.add_argument(
        "--faces", type=Path, required=True, help="the faces that the codes are of"
    )
    to_store.add_argument(
        "--classes", default=",".join(EMOTIONS), help="names of the labels 0, 1, …"
    )
    to_store.add_argument("--encoder", default="psp", help="what made the codes")
    to_files = commands.add_parser("export", help="a store to a folder of .pt files")
    to_files.add_argument("folder", type=Path, help="the store")
    to_files.add_argument("target", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "import":
            classes = given.classes.split(",")
            made = import_pt_folder(
                given.source,
                given.folder,
                faces=given.faces.resolve(),
                classes=classes,
                encoder=given.encoder,
            )
        else:
            made = export_pt_folder(given.folder, given.target)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(", ".join(f"{number:,} {split}" for split, number in made.items()), "codes")


if __name__ == "__main__":
    main()
