import torch
from torch import nn

from fervit_lib.evaluation import count_macs


def test_macs_of_known_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16 * 16, 5)
    )
    expected = 16 * 16 * 8 * 3 * 9 + 8 * 16 * 16 * 5
    assert count_macs(model, torch.zeros(1, 3, 16, 16)) == expected


def test_macs_count_attention() -> None:
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_macs(Attend(), torch.zeros(1, 2, 10, 4)) == 2 * 2 * 10 * 10 * 4
