"""What several tests share: tiny stores of codes, made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.latents import complete_store, shard_path, write_shard

CLASSES = ("angry", "happy", "sad")


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    """A store of easily told codes: each class has its own direction. Faces are named as in FER+."""

    def make(folder: Path, sizes: dict[str, int] | None = None, noise: float = 1.0) -> Path:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(len(CLASSES), 18, 512, generator=generator)
        sizes = sizes or {"train": 96, "val": 30, "test": 30}
        for split, n in sizes.items():
            labels = np.arange(n) % len(CLASSES)
            codes = directions[labels] + noise * torch.randn(n, 18, 512, generator=generator)
            write_shard(
                shard_path(folder, split, 0),
                codes,
                labels,
                [f"{split}/fer{i:07d}.png" for i in range(n)],
                "made",
            )
        complete_store(
            folder,
            sizes,
            classes=CLASSES,
            encoder="autoencoder",
            faces=Path("faces"),
            synthetic=True,
        )
        return folder

    return make
