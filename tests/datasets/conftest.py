import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
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


FER_PLUS = [
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
]


def fer_plus_votes(rows: list[dict[str, int]], usage: str = "Training") -> pd.DataFrame:
    """`fer2013new.csv` as FER+ publishes it.

    A row without a face (only votes for NF) has no name, and names number only the rows that have
    one: after such a row the number in a name is no longer the row.
    """
    table = pd.DataFrame(rows, columns=FER_PLUS).fillna(0).astype(int)
    table.insert(0, "Usage", usage)
    has_name = table["NF"] < 10
    names = [f"fer{number:07d}.png" for number in has_name.cumsum() - 1]
    table.insert(1, "Image name", pd.Series(names).where(has_name, ""))
    return table
