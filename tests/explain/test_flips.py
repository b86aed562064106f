"""The smallest change that changes a prediction, where the truth is known."""

import pytest
import torch
from torch import Tensor, nn

from fervit_lib.explain import face_distance, smallest_flips
from tests.explain.conftest import PLANTED

LAYERS = range(18)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(18 * 512, 3)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(codes.flatten(1))


def test_of_a_linear_model_it_is_the_distance_to_the_nearest_boundary() -> None:
    torch.manual_seed(0)
    model = Linear()
    codes = torch.randn(20, 18, 512)
    length = (smallest_flips(model, codes, LAYERS)[0] - codes).flatten(1).norm(dim=1)
    logits = model(codes)
    for code_logits, taken in zip(logits, length, strict=True):
        first = code_logits.argmax()
        gaps = [
            (code_logits[first] - code_logits[other])
            / (model.head.weight[first] - model.head.weight[other]).norm()
            for other in range(3)
            if other != first
        ]
        assert min(gaps) <= taken * 1.001
        assert torch.isclose(min(gaps), taken, rtol=0.015, atol=1e-4)


@pytest.mark.parametrize("layers", [LAYERS, range(4, 7)])
def test_the_prediction_changes_and_only_there(
    planted: tuple[nn.Module, Tensor, Tensor], layers: range
) -> None:
    model, codes, _ = planted
    moved, flipped = smallest_flips(model, codes, layers)
    assert flipped.float().mean() > 0.9
    before, after = model(codes).argmax(1), model(moved).argmax(1)
    assert torch.equal(before != after, flipped)
    assert torch.equal(moved[~flipped], codes[~flipped])
    way = (moved - codes)[flipped]
    assert not way[:, [layer for layer in LAYERS if layer not in layers]].any()
    # It ends just beyond the boundary: two hundredths less do not change the prediction.
    assert (model(codes[flipped] + 0.98 * way).argmax(1) == before[flipped]).all()
    # A random way of the same length does not change it either.
    random = torch.randn_like(way) * (way != 0)
    random *= (
        way.flatten(1).norm(dim=1)[:, None, None] / random.flatten(1).norm(dim=1)[:, None, None]
    )
    assert (model(codes[flipped] + random).argmax(1) == before[flipped]).float().mean() > 0.8


def test_layers_that_the_model_does_not_read_change_nothing() -> None:
    model = Linear()
    with torch.no_grad():
        model.head.weight.view(3, 18, 512)[:, 3:] = 0
    codes = torch.randn(4, 18, 512)
    assert not smallest_flips(model, codes, range(3, 18))[1].any()
    assert smallest_flips(model, codes, range(3))[1].all()


def test_more_layers_never_need_a_longer_way(planted: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, codes, _ = planted
    lengths = []
    for layers in (LAYERS, [PLANTED]):
        moved, changed = smallest_flips(model, codes, layers)
        assert changed.float().mean() > 0.9
        lengths.append((moved - codes).norm(dim=(1, 2))[changed].median())
    assert lengths[0] <= lengths[1]


def test_a_layer_that_the_codes_lack() -> None:
    with pytest.raises(ValueError, match="layers: expected"):
        smallest_flips(Linear(), torch.zeros(1, 18, 512), [17, 18])


def test_the_distance_of_faces_is_the_median_of_the_pairs() -> None:
    codes = torch.zeros(3, 18, 512)
    codes[1, 0, 0], codes[2, 9, 0] = 3, 4
    assert face_distance(codes) == 4
