"""Convert codes between a `LatentStore` and one `.pt` file per face.

    python -m fervit_lib.pt_codes import <folder with train/ val/ test/> \\
        data/latents/<dataset>/<encoder> --faces data/<faces>
    python -m fervit_lib.pt_codes export data/latents/<dataset>/<encoder> <folder>

Each file is a dict `{"latent", "label", "img_path"}`, as earlier tools of this research wrote it.
One without `img_path` was made by moving a code: it has no picture, and trains models over codes.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path, PosixPath, PurePath, WindowsPath

import numpy as np
import torch
from torch import Tensor

from fervit_lib.datasets import EMOTIONS, SPLITS, val_mask
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
from fervit_lib.system.checkpoints import save_pickled
from fervit_lib.system.errors import (
    check_file_names,
    check_symlink,
    check_unpacked_size,
    explain_read_error,
)
from fervit_lib.system.names import show
from fervit_lib.system.progress import progress

# Codes (n, layers, 512) float16, labels (n,) and image paths of one split.
Contents = tuple[Tensor, np.ndarray, list[str]]


def import_pt_folder(
    source: Path,
    folder: Path,
    *,
    faces: Path,
    classes: Sequence[str] = EMOTIONS,
    encoder: str = "psp",
) -> dict[str, int]:
    """Write the store `folder` from `*.pt` files, at any depth in `source/train`, `/val`, `/test`.

    Files are sorted by name. Without val, a stratified eighth of train becomes val.

    Args:
        faces: where `datasets.load_faces` finds the faces; each `img_path` in it is stored relative
            to it. A code without `img_path` has the path of its .pt file in `source`.
        classes: names of the labels 0, 1, …
        encoder: name of the encoder of the codes.

    Returns:
        Number of codes per split.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: there are no training files; a file is damaged, contains code, or has other
            contents or shapes.
    """
    if not source.is_dir():
        raise FileNotFoundError(
            f"{source}: no such folder; give the one that contains train/, val/ and test/"
        )
    contents = {}
    for split in SPLITS:
        files = [check_symlink(path, source) for path in sorted((source / split).rglob("*.pt"))]
        check_file_names(source, files)
        if files:
            contents[split] = _read_files(files, source, split, faces, classes)
    if "train" not in contents:
        raise ValueError(
            f"{source}: expected .pt files in {source / 'train'}, found none; name the folders "
            f"{SPLITS}"
        )
    if "val" not in contents:
        codes, labels, paths = contents["train"]
        is_val = val_mask(labels)
        for split, mask in (("train", ~is_val), ("val", is_val)):
            indices = np.flatnonzero(mask)
            contents[split] = (codes[indices], labels[indices], [paths[i] for i in indices])
    # The encoder is unknown, so the fingerprint of a shard is that of its codes.
    for split, (codes, labels, paths) in contents.items():
        for index, start in enumerate(range(0, len(paths), SHARD_SIZE)):
            part = slice(start, start + SHARD_SIZE)
            sha256 = hashlib.sha256(codes[part].numpy().tobytes()).hexdigest()
            fingerprint = shard_fingerprint(sha256, paths[part], labels[part])
            path = shard_path(folder, split, index)
            write_shard(path, codes[part], labels[part], paths[part], fingerprint)
    num_codes = {split: len(paths) for split, (_, _, paths) in contents.items()}
    complete_store(
        folder, num_codes, classes=classes, encoder=encoder, faces=faces, synthetic=False
    )
    return num_codes


def export_pt_folder(folder: Path, target: Path) -> dict[str, int]:
    """Write each code of the store `folder` to `target/<split>/<number>.pt`, as float32.

    Files of these names are replaced; others are kept.

    Returns:
        Number of files per split.
    """
    stores = {split: LatentStore.open(folder, split) for split in read_store(folder)["num_codes"]}
    for split, store in stores.items():
        for i, path in enumerate(progress(store.paths, desc=f"export {split}", unit=" files")):
            content = {
                "latent": store.take([i])[0].float(),
                "label": int(store.labels[i]),
                "img_path": path,
            }
            save_pickled(target / split / f"{i:06d}.pt", content)
    return {split: len(store) for split, store in stores.items()}


def _read_files(
    files: Sequence[Path], source: Path, split: str, faces: Path, classes: Sequence[str]
) -> Contents:
    # Allocated once: a list and its stack would need the memory of all codes twice.
    first, _, _ = _read_file(files[0], classes)
    codes = torch.empty(len(files), *first.shape, dtype=torch.float16)
    labels = np.empty(len(files), np.int64)
    paths = []
    for i, file in enumerate(progress(files, desc=f"import {split}", unit=" files")):
        latent, labels[i], img_path = _read_file(file, classes)
        if latent.shape != first.shape:
            raise ValueError(
                f"{file}: latent: expected shape {tuple(first.shape)} as in {files[0]}, got "
                f"{tuple(latent.shape)}; use one folder per encoder"
            )
        codes[i] = latent
        # The .pt file itself stands for a picture that does not exist.
        path = file.relative_to(source).as_posix()
        paths.append(_relative_path(img_path, split, faces) if img_path else path)
    check_file_names(source, paths)
    return codes, labels, paths


def _read_file(file: Path, classes: Sequence[str]) -> tuple[Tensor, int, str]:
    problem = "expected {latent, label, img_path} as plain values; refused without running it"
    with (
        explain_read_error(file, problem, "save it with plain values, or remove it"),
        # Some tools saved `img_path` as a pathlib path, of either operating system.
        torch.serialization.safe_globals([PosixPath, WindowsPath]),
    ):
        check_unpacked_size(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
        if lacking := {"latent", "label"} - dict(content).keys():
            raise ValueError(f"it has {', '.join(content)}, but no {' or '.join(sorted(lacking))}")
        latent = content["latent"]
        label = content["label"]
        img_path = content.get("img_path") or ""
        if isinstance(label, Tensor):
            label = label.item()
        if isinstance(label, str):
            label = classes.index(label)
        if isinstance(label, bool) or int(label) != label:
            raise ValueError(f"label: expected a whole number or a name, got {show(label)}")
        label = int(label)
    if not isinstance(latent, Tensor) or latent.layout != torch.strided:
        raise ValueError(
            f"{file}: latent: expected a dense tensor, got {type(latent).__name__}; write it again"
        )
    if latent.ndim == 3:
        latent = latent.squeeze(0)  # (1, layers, 512)
    is_code = latent.ndim == 2 and latent.is_floating_point() and latent.shape[1] == LATENT_DIM
    if not is_code or not 0 < len(latent) <= NUM_LAYERS:
        raise ValueError(
            f"{file}: latent: expected shape (layers, {LATENT_DIM}) with at most {NUM_LAYERS} "
            f"layers, floats, got {tuple(latent.shape)} {latent.dtype}; write it again"
        )
    if not 0 <= label < len(classes):
        raise ValueError(
            f"{file}: label: expected 0 to {len(classes) - 1} for {', '.join(classes)}, got {label}"
        )
    return latent.detach(), label, str(img_path)


def _relative_path(img_path: str, split: str, faces: Path) -> str:
    """`split/class/name`, as `load_faces` names a face, wherever it was encoded."""
    path = PurePath(img_path.replace("\\", "/"))
    if path.is_relative_to(faces):
        return str(path.relative_to(faces))
    if path.parts[-3:-2] == (split,):
        return "/".join(path.parts[-3:])
    return img_path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    to_store = commands.add_parser("import", help="convert a folder of .pt files to a store")
    to_store.add_argument("source", type=Path)
    to_store.add_argument("folder", type=Path, help="the store, data/latents/<dataset>/<encoder>")
    to_store.add_argument(
        "--faces",
        type=lambda path: Path(path).resolve(),
        required=True,
        help="the faces of the codes",
    )
    to_store.add_argument(
        "--classes",
        type=lambda names: names.split(","),
        default=EMOTIONS,
        help="names of labels 0, 1, …",
    )
    to_store.add_argument("--encoder", default="psp", help="name of the encoder of the codes")
    to_files = commands.add_parser("export", help="convert a store to a folder of .pt files")
    to_files.add_argument("folder", type=Path, help="the store")
    to_files.add_argument("target", type=Path)
    options = vars(parser.parse_args(arguments))
    convert = import_pt_folder if options.pop("command") == "import" else export_pt_folder
    try:
        num_codes = convert(**options)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(", ".join(f"{n:,} {split}" for split, n in num_codes.items()), "codes")


if __name__ == "__main__":
    main()
