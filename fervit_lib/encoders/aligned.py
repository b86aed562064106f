"""Write faces as an encoder receives them, for other tools and other encoders."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from PIL import Image

from fervit_lib.datasets import FaceDataset
from fervit_lib.encoders.images import read_aligned
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.prefetch import PrefetchPool
from fervit_lib.system.progress import progress


def write_aligned(
    sets: Mapping[str, FaceDataset],
    align: Callable[[Image.Image], Image.Image],
    size: int,
    folder: Path,
) -> None:
    """Write the faces as an encoder of input side `size` receives them, as a set of their own.

    `folder`, which is replaced, becomes `{split}/{class}/*.png`, with a folder for each subject
    within a class where subjects are known.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    with hold_lock(folder.with_name(f".{folder.name}.lock")), PrefetchPool() as pool:
        shutil.rmtree(partial, ignore_errors=True)
        for split, faces in sets.items():
            subjects = faces.subjects if faces.subjects is not None else [""] * len(faces)
            numbers = {subject: str(i) for i, subject in enumerate(dict.fromkeys(subjects))}
            pixels = progress(read_aligned(faces, size, align, pool), desc=f"write {split}")
            for i, (face, label) in enumerate(zip(pixels, faces.labels, strict=True)):
                name = faces.classes[label].replace("/", "_")
                within = partial / split / name / (numbers[subjects[i]] if subjects[i] else "")
                within.mkdir(parents=True, exist_ok=True)
                stem = PurePath(faces.paths[i]).stem[-80:]
                Image.fromarray(face).save(within / f"{i:06d}-{stem}.png")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
