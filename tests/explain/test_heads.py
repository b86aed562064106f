import numpy as np
import pytest
import torch

from fervit_lib.explain import attention_maps, head_importance, head_statistics, pruning_curve
from fervit_lib.models import LatentViT
from fervit_lib.models.attention import scale_heads


def test_entropy_and_distance_of_known_maps() -> None:
    model, codes = LatentViT(3, embed_dim=32, depth=1, num_heads=2).eval(), torch.randn(3, 18, 512)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[:64] = (
            0  # neither query nor key says anything: every token alike
        )
        model.blocks[0].attn.qkv.bias[:64] = 0
    found = head_statistics(model, codes)
    torch.testing.assert_close(found.entropy, torch.ones(1, 2))
    mean_distance = np.abs(np.subtract.outer(np.arange(18), np.arange(18))).mean()
    torch.testing.assert_close(found.distance, torch.full((1, 2), float(mean_distance)))
    torch.testing.assert_close(found.similarity["position"], torch.ones(1, 2, 2))


def test_statistics_do_not_depend_on_the_batch(planted) -> None:
    model, codes, _ = planted
    one, other = (
        head_statistics(model, codes, batch_size=7),
        head_statistics(model, codes, batch_size=60),
    )
    torch.testing.assert_close(one.entropy, other.entropy)
    for kind, similarity in one.similarity.items():
        torch.testing.assert_close(similarity, other.similarity[kind])
        torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(2, 2))


def test_importance_is_the_slope_of_the_loss_at_each_head(planted) -> None:
    model, codes, labels = planted
    importance = head_importance(model, codes[:1], labels[:1])
    step, loss = 1e-3, torch.nn.functional.cross_entropy
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


def test_pruning_no_head_changes_nothing_and_all_of_them_hurt(planted) -> None:
    model, codes, labels = planted
    whole = (model(codes).argmax(1) == labels).float().mean().item()
    curve = pruning_curve(
        model, codes, labels, head_importance(model, codes, labels).flatten().argsort()
    )
    assert curve.shape == (5,)
    assert curve[0] == pytest.approx(whole)
    assert curve[-1] < whole - 0.3  # CLS has nothing from the layers left
    assert (model(codes).argmax(1) == labels).float().mean().item() == whole
    with pytest.raises(ValueError, match="order: expected every head from 0 to 3 once, got"):
        pruning_curve(model, codes, labels, [0, 1, 1, 2])


def test_a_switched_off_head_still_looks_but_is_not_heard(planted) -> None:
    model, codes, _ = planted
    with scale_heads(model, [torch.ones(2), torch.tensor([1.0, 0])]):
        maps = attention_maps(model, codes[:2])
        off = model(codes[:2])
    torch.testing.assert_close(maps[1], attention_maps(model, codes[:2])[1])
    assert not torch.allclose(off, model(codes[:2]), atol=1e-4)
