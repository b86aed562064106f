"""A small model, and codes in which a known layer carries the class."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.models import LatentViT
from fervit_lib.system.runtime import seed_everything

PLANTED = 5


def planted_codes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codes (n, 18, 512) and labels (n,): noise, plus a direction per class in layer `PLANTED`."""
    directions = torch.randn(3, 512, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    codes = torch.randn(n, 18, 512, generator=generator)
    codes[:, PLANTED] += 2 * directions[labels]
    return codes, labels


@pytest.fixture(scope="session")
def planted() -> tuple[nn.Module, Tensor, Tensor]:
    """A model trained on the planted layer, and 60 unseen codes with their labels."""
    seed_everything(0)
    model = LatentViT(3, embed_dim=32, depth=2, num_heads=2, drop_rate=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(160):
        # New noise in every step, so that only the layer can be learned.
        codes, labels = planted_codes(48, seed=100 + step)
        optimizer.zero_grad()
        F.cross_entropy(model(codes), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    codes, labels = planted_codes(60, seed=2)
    model.eval()
    assert (model(codes).argmax(1) == labels).float().mean() > 0.9
    return model, codes, labels
