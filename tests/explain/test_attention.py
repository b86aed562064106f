import gc

import pytest
import torch
from torch import nn

from fervit_lib.explain import (
    attention_maps,
    attention_rollout,
    gradient_maps,
    gradient_rollout,
    image_maps,
    reads_cls,
    summarise_attention,
)
from fervit_lib.models import ImageModel, LatentViT


def test_rows_of_maps_sum_to_1_and_the_mode_is_restored(planted) -> None:
    _, codes, _ = planted
    model = LatentViT(3, embed_dim=32, depth=2, num_heads=2, drop_rate=0.5).train()
    model.transformer.norm.eval()
    maps = attention_maps(model, codes[:4])
    assert [m.shape for m in maps] == [(4, 2, 19, 19)] * 2
    torch.testing.assert_close(
        torch.stack(maps).sum(-1), torch.ones(2, 4, 2, 19), atol=1e-5, rtol=0
    )
    assert all(
        torch.equal(a, b) for a, b in zip(maps, attention_maps(model, codes[:4]), strict=True)
    )
    assert model.training and model.blocks.training and not model.transformer.norm.training


def test_a_head_that_ignores_cls_is_recognised(planted) -> None:
    model, codes, _ = planted
    assert reads_cls(model, codes[:1])

    class MeanViT(LatentViT):
        def forward_head(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(tokens[:, 1:].mean(1))

    assert not reads_cls(MeanViT(3, embed_dim=32, depth=1, num_heads=2), codes[:1])


def test_rollout_is_the_product_of_the_blocks() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 1, 2, 3, 3).softmax(-1)
    expected = (second.mean(1)[0] + torch.eye(3)) / 2 @ ((first.mean(1)[0] + torch.eye(3)) / 2)
    rolled = attention_rollout([first, second])
    torch.testing.assert_close(rolled[0], expected[0])
    torch.testing.assert_close(rolled.sum(-1), torch.ones(1))


def test_rollout_of_identity_attention_stays_at_cls() -> None:
    eye = torch.eye(4).expand(2, 3, 4, 4)
    assert torch.equal(attention_rollout([eye, eye]), torch.eye(4)[:1].expand(2, 4))


def test_gradient_finds_the_planted_layer(planted) -> None:
    model, codes, labels = planted
    maps = gradient_maps(model, codes, labels)
    assert all((m >= 0).all() and not m.requires_grad for m in maps)
    assert gradient_rollout(maps)[:, 1:].mean(0).argmax() == 5
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all()
        for parameter in model.parameters()
    )
    other = gradient_maps(model, codes, (labels + 1) % 3)
    assert not torch.allclose(maps[-1], other[-1])


def test_gradients_work_under_no_grad_and_for_frozen_models(planted) -> None:
    model, codes, _ = planted
    before = [p.grad for p in model.parameters()]
    with torch.no_grad():
        trained = gradient_maps(model, codes[:2])
    model.requires_grad_(False)
    frozen = gradient_maps(model, codes[:2])
    model.requires_grad_(True)
    assert all(torch.equal(a, b) for a, b in zip(trained, frozen, strict=True))
    assert not codes.requires_grad
    assert all(a is b for a, b in zip(before, (p.grad for p in model.parameters()), strict=True))


def test_the_summary_is_the_mean_over_each_group_for_any_batch_size(planted) -> None:
    model, codes, labels = planted
    maps = torch.stack(attention_maps(model, codes), dim=1)
    for batch_size in (7, 60):
        summary = summarise_attention(model, codes, labels, 4, batch_size)
        assert summary.count.tolist() == [60, 20, 20, 20, 0]
        torch.testing.assert_close(summary.mean[0], maps.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(summary.mean[2], maps[labels == 1].mean(0), atol=1e-5, rtol=1e-4)
        standard_error = maps[labels == 1][..., 0, :].std(0) / 20**0.5
        torch.testing.assert_close(
            summary.half_width[2], 1.96 * standard_error, atol=1e-5, rtol=1e-2
        )
        assert summary.mean[4].isnan().all()


def test_memory_does_not_grow_with_the_number_of_faces(planted) -> None:
    model, codes, labels = planted
    alive = []

    def count(module: nn.Module, inputs: tuple) -> None:
        tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
        alive.append(sum(t.numel() for t in tensors if t.shape[-2:] == (19, 19)))

    handle = model.register_forward_pre_hook(count)
    summarise_attention(model, codes, labels, 3, batch_size=10)
    handle.remove()
    assert len(alive) == 6
    assert max(alive[2:]) <= alive[1]  # from the second batch on only the sums


def test_maps_of_an_image_vit_are_laid_out_as_the_image() -> None:
    model = ImageModel(3, pretrained="none", image_size=32, patch_size=8).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    result = image_maps(model, images)
    assert {name: tuple(maps.shape) for name, maps in result.items()} == dict.fromkeys(
        ("attention", "rollout", "gradient rollout"), (2, 4, 4)
    )
    rollout = attention_rollout(attention_maps(model, images.float() / 255))
    torch.testing.assert_close(result["rollout"][:, 1, 0], rollout[:, 5])  # second row, after CLS


def test_a_cnn_is_refused() -> None:
    with pytest.raises(ValueError, match="model"):
        attention_maps(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8))
