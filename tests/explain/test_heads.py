from functools import partial

import numpy as np
import pytest
import torch

from fervit_lib.explain import attention_maps, head_importance, head_statistics, pruning_curve
from fervit_lib.models import LatentViT
from fervit_lib.models.attention import scale_heads


def test_entropy_and_distance_of_known_maps() -> None:
    model = LatentViT(3, embed_dim=32, depth=1, num_heads=2).eval()
    codes = torch.randn(3, 18, 512)
    with torch.no_grad():
        # Queries and keys are 0, so attention is uniform.
        model.blocks[0].attn.qkv.weight[:64] = 0
        model.blocks[0].attn.qkv.bias[:64] = 0
    result = head_statistics(model, codes)
    torch.testing.assert_close(result.entropy, torch.ones(1, 2).double())
    mean_distance = np.abs(np.subtract.outer(np.arange(18), np.arange(18))).mean()
    torch.testing.assert_close(result.distance, torch.tensor([[mean_distance] * 2]))
    torch.testing.assert_close(result.similarity["position"], torch.ones(1, 2, 2).double())


def test_statistics_do_not_depend_on_the_batch(planted) -> None:
    model, codes, _ = planted
    one = head_statistics(model, codes, batch_size=7)
    other = head_statistics(model, codes, batch_size=60)
    # The sums are float64; the forward pass in float32 depends on the batch by about 1e-7.
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=0)
    close(one.entropy, other.entropy)
    close(one.distance, other.distance, atol=2e-5)
    for kind, similarity in one.similarity.items():
        close(similarity, other.similarity[kind])
        torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(2, 2).double())


def test_importance_is_the_slope_of_the_loss_at_each_head(planted) -> None:
    model, codes, labels = planted
    importance = head_importance(model, codes[:1], labels[:1])
    step = 1e-3
    loss = torch.nn.functional.cross_entropy
    for block in range(2):
        for head in range(2):
            losses = []
            for sign in (1, -1):
                scales = torch.ones(2, 2)
                scales[block, head] += sign * step
                with torch.no_grad(), scale_heads(model, list(scales)):
                    losses.append(loss(model(codes[:1]), labels[:1]).item())
            slope = abs(losses[0] - losses[1]) / (2 * step)
            assert importance[block, head].item() == pytest.approx(slope, rel=0.05, abs=1e-4)


def test_pruning_no_head_changes_nothing_and_pruning_all_hurts(planted) -> None:
    model, codes, labels = planted
    accuracy = (model(codes).argmax(1) == labels).float().mean().item()
    curve = pruning_curve(
        model, codes, labels, head_importance(model, codes, labels).flatten().argsort()
    )
    assert curve.shape == (5,)
    assert curve[0] == pytest.approx(accuracy)
    assert curve[-1] < accuracy - 0.3  # nothing of the layers reaches CLS
    assert (model(codes).argmax(1) == labels).float().mean().item() == accuracy
    assert np.array_equal(pruning_curve(model, codes, labels, []), curve[:1])


def test_a_switched_off_head_keeps_its_attention_but_has_no_effect(planted) -> None:
    model, codes, _ = planted
    with scale_heads(model, [torch.ones(2), torch.tensor([1.0, 0])]):
        maps = attention_maps(model, codes[:2])
        off = model(codes[:2])
    torch.testing.assert_close(maps[1], attention_maps(model, codes[:2])[1])
    assert not torch.allclose(off, model(codes[:2]), atol=1e-4)
