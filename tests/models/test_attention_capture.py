"""Captured heads are those of the pass, and the model is unchanged afterwards."""

import pytest
import torch
from timm.layers import Attention
from torch import Tensor, nn

from fervit_lib.models import ImageModel, LatentViT, MaskedAutoencoder
from fervit_lib.models.attention import (
    ATTENTIONS,
    SIMILARITIES,
    Heads,
    RectifiedAttention,
    attention_modules,
    capture_heads,
    head_similarity,
    rectify,
    scale_heads,
)
from fervit_lib.models.hybrid_vit import HybridLatentViT


def latent_vit() -> tuple[nn.Module, Tensor]:
    return LatentViT(3, embed_dim=32, depth=2, num_heads=2), torch.randn(3, 18, 512)


def hybrid() -> tuple[nn.Module, Tensor]:
    return HybridLatentViT(3, pretrained="none"), torch.randn(2, 18, 512)


def with_adapters() -> tuple[nn.Module, Tensor]:
    model = LatentViT(
        3, embed_dim=32, depth=2, num_heads=2, adapter_dim=4, layer_norm=True, layer_gates=True
    )
    for block in model.blocks:
        nn.init.normal_(block.adapter.up.weight)
    return model, torch.randn(3, 18, 512)


def image_vit() -> tuple[nn.Module, Tensor]:
    return ImageModel(3, pretrained="none", image_size=32, patch_size=8), torch.randn(2, 3, 32, 32)


def rectified() -> tuple[nn.Module, Tensor]:
    return LatentViT(3, embed_dim=32, depth=2, num_heads=2, attention="rectified"), torch.randn(
        3, 18, 512
    )


def num_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("build", [latent_vit, hybrid, with_adapters, image_vit, rectified])
class TestEveryModel:
    def test_weights_times_values_are_the_output(self, build) -> None:
        torch.manual_seed(0)
        model, x = build()
        outputs = []
        module = attention_modules(model)[-1]
        handle = module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        with torch.no_grad(), capture_heads(model.eval()) as captured:
            model(x)
        handle.remove()
        heads = captured[-1]
        torch.testing.assert_close(
            heads.attn.sum(-1), torch.ones(heads.attn.shape[:-1]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(heads.attn @ heads.values, heads.outputs, atol=1e-5, rtol=1e-4)
        mixed = (heads.attn @ heads.values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(module.proj(mixed), outputs[0], atol=1e-5, rtol=1e-4)

    def test_the_model_is_unchanged_afterwards(self, build) -> None:
        torch.manual_seed(0)
        model, x = build()
        model.eval()
        before, hooks = model(x), num_hooks(model)
        with capture_heads(model) as captured:
            during = model(x)
        torch.testing.assert_close(during, before, atol=1e-5, rtol=1e-4)
        assert torch.equal(model(x), before)
        assert num_hooks(model) == hooks == 0
        assert len(captured) == len(attention_modules(model))
        with pytest.raises(ValueError), capture_heads(model):
            model(x[:, :, :, None])
        assert num_hooks(model) == 0
        assert torch.equal(model(x), before)

    def test_scale_heads(self, build) -> None:
        torch.manual_seed(0)
        model, x = build()
        model.eval()
        ones = [torch.ones(module.num_heads) for module in attention_modules(model)]
        with scale_heads(model, ones):
            scaled = model(x)
        assert torch.equal(scaled, model(x))
        with scale_heads(model, [0 * one for one in ones]), capture_heads(model) as captured:
            model(x)
        assert num_hooks(model) == 0
        assert captured[0].attn is not None

    def test_a_gradient_reaches_the_weights(self, build) -> None:
        torch.manual_seed(0)
        model, x = build()
        with capture_heads(model.eval()) as captured:
            score = model(x)[:, 0].sum()
        gradients = torch.autograd.grad(score, [heads.attn for heads in captured])
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_fused_and_unfused_give_the_same_maps() -> None:
    torch.manual_seed(0)
    model, x = latent_vit()
    maps = []
    for fused in (True, False):
        for module in attention_modules(model.eval()):
            module.fused_attn = fused
        with torch.no_grad(), capture_heads(model) as captured:
            model(x)
        maps.append(torch.stack([heads.attn for heads in captured]))
    torch.testing.assert_close(*maps, atol=1e-5, rtol=0)


def test_gradient_of_a_map_equals_finite_difference() -> None:
    torch.manual_seed(0)
    module = Attention(16, num_heads=2).double().eval()
    tokens, direction = torch.randn(1, 5, 16).double(), torch.randn(1, 2, 5, 5).double()
    with capture_heads(module) as captured:
        score = module(tokens).square().sum()
    [heads] = captured
    [gradient] = torch.autograd.grad(score, heads.attn)
    step = 1e-6
    moved = ((heads.attn + step * direction) @ heads.values).transpose(1, 2).flatten(2)
    difference = (module.proj(moved).square().sum() - score) / step
    assert difference.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_captured_weights_are_before_dropout() -> None:
    torch.manual_seed(0)
    module = Attention(16, num_heads=2, attn_drop=0.5).train()
    with capture_heads(module) as captured:
        module(torch.randn(4, 5, 16))
    [heads] = captured
    torch.testing.assert_close(heads.attn.sum(-1), torch.ones(4, 2, 5))
    assert not torch.allclose(heads.attn @ heads.values, heads.outputs, atol=1e-3)


def test_masked_tokens_have_no_weight() -> None:
    torch.manual_seed(0)
    module, mask = Attention(16, num_heads=2).eval(), torch.ones(5, 5, dtype=torch.bool)
    mask[:, 3] = False
    with torch.no_grad(), capture_heads(module) as captured:
        module(torch.randn(2, 5, 16), attn_mask=mask)
    assert captured[0].attn[..., 3].abs().max() == 0


def test_bf16_maps() -> None:
    model, x = latent_vit()
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
        capture_heads(model.eval()) as captured,
    ):
        model(x)
    torch.testing.assert_close(
        captured[0].attn.float().sum(-1), torch.ones(3, 2, 19), atol=2e-2, rtol=0
    )


def test_a_cnn_has_no_attention() -> None:
    with pytest.raises(ValueError, match="model: .* Sequential"):
        attention_modules(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_scales_have_to_match_the_heads() -> None:
    model, _ = latent_vit()
    with pytest.raises(ValueError, match=r"scales: .*\[2, 2\].*\[2\]"):
        scale_heads(model, [torch.ones(2)]).__enter__()


def test_rectified_rows_are_distributions_with_exact_zeros() -> None:
    weights = rectify(torch.tensor([[-1.0, 0.0, 1.0, 3.0], [-1.0, -2.0, -3.0, -4.0]]))
    torch.testing.assert_close(weights[0], torch.tensor([0, 0, 0.25, 0.75]), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights[1], torch.full((4,), 0.25))
    with pytest.raises(ValueError, match="attention: .*'sparse'"):
        LatentViT(attention="sparse")
    with pytest.raises(ValueError, match="attn_mask"):
        RectifiedAttention(8, num_heads=2)(torch.zeros(1, 3, 8), is_causal=True)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_similarity_is_1_for_equal_heads_and_0_for_orthogonal_ones(kind: str) -> None:
    eye = torch.eye(4).expand(2, 1, 4, 4)
    shifted = eye.roll(1, dims=-1)
    heads = Heads(*(torch.cat([eye, eye, shifted], dim=1) for _ in range(3)))
    expected = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(head_similarity(heads, kind), expected)
    with pytest.raises(ValueError, match="kind: .*'x'"):
        head_similarity(heads, "x")


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_relative_positions_are_a_bias_per_head_and_distance(attention: str) -> None:
    torch.manual_seed(0)
    options = {"num_tokens": 14, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = LatentViT(3, position="relative", attention=attention, **options).eval()
    module = model.blocks[0].attn
    with torch.no_grad():
        module.qkv.weight.zero_()  # all scores are 0: what is left is the bias
        module.relative_bias.uniform_(0.5, 2)
    with capture_heads(model) as heads, torch.no_grad():
        model(torch.randn(3, 14, 512))
    scores = heads[0].attn[0]  # (num_heads, 15, 15)
    if attention == "softmax":
        scores = scores.log()
    for row in range(15):  # softmax hides a constant, rectified attention a factor, of each row
        bias = module.relative_bias[:, 14 - row : 29 - row]  # of distances -row to 14 - row
        if attention == "softmax":
            found, expected = (x - x[:, :1] for x in (scores[:, row], bias))
        else:
            found, expected = (x / x[:, :1] for x in (scores[:, row], bias))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_relative_positions_need_all_layers() -> None:
    model = LatentViT(3, position="relative", embed_dim=32, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="position: relative .*18 layers, got 10 tokens"):
        MaskedAutoencoder(model, mask_ratio=0.5)(torch.randn(2, 18, 512))
