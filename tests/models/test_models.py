from pathlib import Path

import pytest
import timm
import torch

from fervit_lib.models import HybridLatentViT, LatentViT, create_model, load_model, options_of, save_model
from fervit_lib.models.hybrid_vit import interpolate_positions
from fervit_lib.runs import save_checkpoint

SMALL = {"scratch": {"embed_dim": 32, "depth": 2, "num_heads": 2}, "hybrid": {"pretrained": "none"}}


@pytest.mark.parametrize("approach", SMALL)
class TestEveryApproach:
    def test_codes_to_logits(self, approach: str) -> None:
        model = create_model(approach, 5, **SMALL[approach]).eval()
        codes = torch.randn(3, 18, 512)
        assert model(codes).shape == (3, 5)
        assert model.forward_features(codes).shape[:2] == (3, 19)
        torch.testing.assert_close(model(codes.half()), model(codes), atol=2e-2, rtol=0)

    def test_every_token_counts_and_so_does_its_place(self, approach: str) -> None:
        torch.manual_seed(0)
        model = create_model(approach, 5, **SMALL[approach]).eval()
        codes = torch.randn(1, 18, 512)
        logits = model(codes)
        for layer in (0, 9, 17):
            changed = codes.clone()
            changed[:, layer] = 0
            assert not torch.allclose(model(changed), logits)
        assert not torch.allclose(model(codes.flip(1)), logits, atol=1e-6)

    @pytest.mark.parametrize("shape", [(2, 14, 512), (2, 18, 256), (2, 512, 18)])
    def test_codes_of_another_shape_are_refused(self, approach: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"w_plus: expected \(B, 18, 512\)"):
            create_model(approach, 5, **SMALL[approach])(torch.zeros(shape))

    def test_checkpoint_round_trip(self, approach: str, tmp_path: Path) -> None:
        model = create_model(approach, 3, **SMALL[approach]).eval()
        save_model(tmp_path / "m.safetensors", model, approach=approach, classes="abc", options=SMALL[approach])
        loaded, classes = load_model(tmp_path / "m.safetensors")
        codes = torch.randn(2, 18, 512)
        assert classes == ("a", "b", "c")
        assert torch.equal(loaded(codes), model(codes))


def test_the_hybrid_holds_the_weights_of_the_timm_model() -> None:
    torch.manual_seed(0)
    hybrid = HybridLatentViT(pretrained="none")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    for name, weight in vit.blocks.state_dict().items():
        assert torch.equal(hybrid.blocks.state_dict()[name], weight)
    assert torch.equal(hybrid.pos_embed[:, :1], vit.pos_embed[:, :1])


def test_positions_are_stretched_linearly() -> None:
    line = torch.arange(196.0).view(1, 196, 1)
    stretched = interpolate_positions(line, 18)[0, :, 0]
    steps = stretched.diff()
    torch.testing.assert_close(steps, torch.full((17,), 196 / 18), atol=1e-3, rtol=0)
    assert torch.equal(interpolate_positions(line, 196), line)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="approach: expected one of scratch, hybrid, got 'scrach'"):
        create_model("scrach")
    with pytest.raises(ValueError, match="scratch has no embed_dimm; it has .*embed_dim"):
        create_model("scratch", embed_dimm=3)
    with pytest.raises(ValueError, match="multiple of num_heads=8, got 100"):
        LatentViT(embed_dim=100)
    with pytest.raises(ValueError, match="pretrained: expected one of none, got 'imagnet'"):
        HybridLatentViT(pretrained="imagnet")
    with pytest.raises(ValueError, match="timm has no 'vit_teenie_patch16_224'; nearest are vit_"):
        HybridLatentViT(pretrained="none", model_name="vit_teenie_patch16_224")
    with pytest.raises(ValueError, match="expected a timm VisionTransformer with one class token, got 'resnet18'"):
        HybridLatentViT(pretrained="none", model_name="resnet18")


def test_options_are_those_of_the_approach() -> None:
    parameters = {"embed_dim": 8, "model_name": "x", "pretrained": "none", "lr": 1.0, "drop_rate": 0.0}
    assert options_of("scratch", parameters) == {"drop_rate": 0.0, "embed_dim": 8}
    assert options_of("hybrid", parameters) == {"drop_rate": 0.0, "model_name": "x", "pretrained": "none"}


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, LatentViT(3, **SMALL["scratch"]), approach="scratch", classes="abc", options={"depth": 1})
    with pytest.raises(ValueError, match=r"m\.safetensors: made by another version"):
        load_model(path)
    save_checkpoint(path, {}, {"kind": "autoencoder"})
    with pytest.raises(ValueError, match="expected a trained model, got a checkpoint of kind 'autoencoder'"):
        load_model(path)
