import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def pictures_hash(folder: Path) -> str:
    """Hash of names and decoded pixels, which no version of the PNG encoder changes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(np.asarray(Image.open(path)).tobytes())
    return digest.hexdigest()


def write_folder(
    root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("angry", "happy", "sad")
) -> Path:
    """`root/{split}/{class}/{number}.png`, `counts[split]` in each class."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (48, 48), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def table_rows(per_class: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """Rows `emotion,pixels,Usage` of a Kaggle table, and their images in that order."""
    numbers = [
        (number, usage) for usage, n in per_class.items() for number in range(7) for _ in range(n)
    ]
    images = np.random.default_rng(0).integers(0, 256, (len(numbers), 48 * 48), dtype=np.uint8)
    rows = [
        f"{number},{' '.join(map(str, image))},{usage}"
        for (number, usage), image in zip(numbers, images, strict=True)
    ]
    return rows, images


def write_table(path: Path, rows: list[str], header: str = "emotion,pixels,Usage") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
