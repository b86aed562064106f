from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fervit_lib.models import (
    LatentViT,
    MaskedAutoencoder,
    create_model,
    describe_model,
    load_model,
    options_of,
    save_model,
)
from fervit_lib.models.hybrid_vit import HybridLatentViT, interpolate_positions
from fervit_lib.models.layers import LayerwiseNorm, sinusoidal_positions
from fervit_lib.system.checkpoints import save_checkpoint

SMALL = {
    "scratch": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "hybrid": {"pretrained": "none"},
    "latent_cnn": {"embed_dim": 16, "depth": 2},
}
IMAGE = {
    "pretrained": "none",
    "model_name": "vit_tiny_patch16_224",
    "image_size": 48,
    "patch_size": 8,
}

# A small model of each family, and its prefix tokens: class, distillation, registers.
HYBRID_VITS = {
    "vit_tiny_patch16_224": 1,
    "vit_tiny_r_s16_p8_224": 1,
    "vit_small_patch16_18x2_224": 1,
    "vit_base_patch16_xp_224": 1,
    "vit_base_mci_224": 1,
    "vit_base_patch16_clip_224": 1,
    "vit_intern300m_patch14_448": 1,
    "vit_small_patch14_dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5,
    "vit_base_patch14_reg1_tipsv2": 2,
    "vit_base_patch16_radio_v3": 8,
    "flexivit_small": 1,
    "deit_tiny_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "deit3_small_patch16_224": 1,
    "beit3_base_patch16_224": 1,
    "eva_large_patch14_196": 1,
    "test_vit": 1,
}
NO_HYBRID = dict.fromkeys(
    (
        "vit_base_patch16_siglip_224",
        "vit_wee_patch16_reg1_gap_256",
        "vit_base_patch16_rpn_224",
        "aimv2_large_patch14_224",
        "vitamin_small_224",
    ),
    "class token",
) | dict.fromkeys(
    (
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_dinov3",
        "vit_relpos_small_patch16_224",
        "swin_tiny_patch4_window7_224",
        "resnet18",
    ),
    "VisionTransformer",
)


@pytest.mark.parametrize("approach", SMALL)
class TestEveryApproachOverCodes:
    def test_codes_to_logits(self, approach: str) -> None:
        model = create_model(approach, 5, **SMALL[approach]).eval()
        codes = torch.randn(3, 18, 512)
        assert model(codes).shape == (3, 5)
        assert model.forward_head(model.forward_features(codes)).shape == (3, 5)
        torch.testing.assert_close(model(codes.half()), model(codes), atol=2e-2, rtol=0)

    def test_logits_depend_on_every_layer_and_its_position(self, approach: str) -> None:
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
    def test_codes_of_another_shape(self, approach: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"w_plus: .*\(B, 18, 512\)"):
            create_model(approach, 5, **SMALL[approach])(torch.zeros(shape))

    def test_checkpoint_round_trip(self, approach: str, tmp_path: Path) -> None:
        model = create_model(approach, 3, **SMALL[approach]).eval()
        save_model(tmp_path / "m.safetensors", model, classes="abc")
        loaded, classes = load_model(tmp_path / "m.safetensors")
        codes = torch.randn(2, 18, 512)
        assert classes == ("a", "b", "c")
        assert torch.equal(loaded(codes), model(codes))


def test_hybrid_has_the_weights_of_the_timm_model() -> None:
    torch.manual_seed(0)
    hybrid = HybridLatentViT(pretrained="none")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    for name, weight in vit.blocks.state_dict().items():
        assert torch.equal(hybrid.blocks.state_dict()[name], weight)
    assert torch.equal(hybrid.tokens.pos_embed[:, :1], vit.pos_embed[:, :1])


def test_positions_are_interpolated_linearly() -> None:
    line = torch.arange(196.0).view(1, 196, 1)
    steps = interpolate_positions(line, 18)[0, :, 0].diff()
    torch.testing.assert_close(steps, torch.full((17,), 196 / 18), atol=1e-3, rtol=0)
    assert torch.equal(interpolate_positions(line, 196), line)


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError,
        match="approach: .*'scrach'",
    ):
        create_model("scrach")
    with pytest.raises(ValueError, match="options: .*embed_dimm.*embed_dim"):
        create_model("scratch", embed_dimm=3)
    with pytest.raises(ValueError, match="embed_dim: .*100"):
        LatentViT(embed_dim=100)
    with pytest.raises(
        ValueError,
        match="pretrained: .*'imagnet'",
    ):
        HybridLatentViT(pretrained="imagnet")
    with pytest.raises(
        ValueError, match="model_name: .*vit_teenie_patch16_224.*vit_tiny_patch16_224"
    ):
        HybridLatentViT(pretrained="none", model_name="vit_teenie_patch16_224")
    with pytest.raises(ValueError, match="model_name: .*'resnet18'"):
        HybridLatentViT(pretrained="none", model_name="resnet18")


def test_options_of_selects_the_options_of_an_approach() -> None:
    parameters = {
        "embed_dim": 8,
        "model_name": "x",
        "pretrained": "none",
        "lr": 1.0,
        "drop_rate": 0.0,
    }
    assert options_of("scratch", parameters) == {"drop_rate": 0.0, "embed_dim": 8}
    assert options_of("hybrid", parameters) == {
        "drop_rate": 0.0,
        "model_name": "x",
        "pretrained": "none",
    }


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = LatentViT(3, **SMALL["scratch"])
    save_checkpoint(path, model.state_dict(), describe_model(LatentViT(3, depth=1)))
    with pytest.raises(ValueError, match=r"m\.safetensors: "):
        load_model(path)
    save_checkpoint(path, {}, {"kind": "autoencoder"})
    with pytest.raises(ValueError, match=r"m\.safetensors: .*'autoencoder'"):
        load_model(path)


@pytest.mark.parametrize("position", ["sinusoidal", "semantic", "relative"])
def test_scratch_options_have_an_effect(position: str) -> None:
    torch.manual_seed(0)
    options = {"position": position, "layer_norm": True, "layer_gates": True}
    model = LatentViT(3, **SMALL["scratch"], **options)
    model(torch.randn(4, 18, 512)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    codes = torch.randn(1, 18, 512)
    assert not torch.allclose(model.eval()(codes), model(codes.flip(1)), atol=1e-6)
    with torch.no_grad():
        model.tokens.scale_layers[1].weight[3] = 0
    changed = codes.clone()
    changed[:, 3] = 7
    # A gate of 0 hides its layer.
    torch.testing.assert_close(model(changed), model(codes))


def test_layerwise_norm_removes_scale_and_shift_per_layer() -> None:
    norm, codes = LayerwiseNorm(18, 512), torch.randn(2, 18, 512)
    scale, shift = torch.rand(18, 1) * 9 + 1, torch.randn(18, 1)
    torch.testing.assert_close(norm(codes * scale + shift), norm(codes), atol=1e-4, rtol=0)


def test_sinusoidal_positions() -> None:
    positions = sinusoidal_positions(20, 64)[0]
    assert positions.shape == (20, 64)
    assert positions[3, 0] == pytest.approx(np.sin(3))
    assert positions[3, 5] == pytest.approx(np.cos(3 / 10_000 ** (4 / 64)))


class TestAdapters:
    def test_adapters_start_as_the_identity(self) -> None:
        torch.manual_seed(0)
        plain = HybridLatentViT(pretrained="none", model_name="vit_small_patch16_224").eval()
        torch.manual_seed(0)
        adapted = HybridLatentViT(
            pretrained="none", model_name="vit_small_patch16_224", adapter_dim=64
        ).eval()
        adapted.tokens = plain.tokens
        adapted.head = plain.head
        codes = torch.randn(2, 18, 512)
        torch.testing.assert_close(adapted(codes), plain(codes))
        count = {
            name: sum(p.numel() for p in model.parameters())
            for name, model in (("a", adapted), ("p", plain))
        }
        assert count["a"] - count["p"] == 12 * (2 * 384 * 64 + 64 + 384)

    def test_a_cnn_takes_no_adapters(self) -> None:
        with pytest.raises(ValueError, match="adapter_dim: .*resnet18"):
            create_model("image", pretrained="none", model_name="resnet18", adapter_dim=64)


class TestHybridOfAnyViT:
    @pytest.mark.parametrize(("name", "num_prefix"), HYBRID_VITS.items())
    def test_it_has_the_tokens_positions_and_norms_of_the_timm_model(
        self, name: str, num_prefix: int
    ) -> None:
        torch.manual_seed(0)
        hybrid = HybridLatentViT(pretrained="none", model_name=name, num_blocks=1).eval()
        torch.manual_seed(0)
        vit = timm.create_model(name, num_classes=0, depth=1).eval()
        patches = torch.zeros(2, *vit.patch_embed.grid_size, vit.embed_dim)
        patches = patches if vit.dynamic_img_size else patches.flatten(1, 2)
        expected = vit._pos_embed(patches)  # zeros: what is left of patches is their positions
        prefix, _ = hybrid.embed(torch.randn(2, 18, 512))
        assert prefix.shape[1] == hybrid.tokens.num_prefix_tokens == num_prefix
        assert prefix.shape[1] == vit.num_prefix_tokens
        torch.testing.assert_close(prefix, expected[:, :num_prefix])
        positions = interpolate_positions(expected[:1, num_prefix:], 18)
        torch.testing.assert_close(hybrid.tokens.pos_embed[:, 1:], positions)
        tokens = torch.randn(2, num_prefix + 18, vit.embed_dim)
        after = vit.fc_norm(vit.norm(vit.blocks(vit.norm_pre(tokens))))
        torch.testing.assert_close(hybrid.encode(tokens), after)
        assert hybrid(torch.randn(2, 18, 512)).shape == (2, 7)

    @pytest.mark.parametrize(("name", "reason"), NO_HYBRID.items())
    def test_others_are_refused_with_the_reason(self, name: str, reason: str) -> None:
        with pytest.raises(ValueError, match=f"model_name: .*{reason}.*'{name}'"):
            HybridLatentViT(pretrained="none", model_name=name, num_blocks=1)

    def test_transformer_equals_timm(self) -> None:
        """On equal tokens, the hybrid equals the timm model."""
        torch.manual_seed(0)
        vit = timm.create_model("deit_tiny_patch16_224", num_classes=0).eval()
        torch.manual_seed(0)
        hybrid = HybridLatentViT(pretrained="none", model_name="deit_tiny_patch16_224").eval()
        tokens = torch.randn(2, 19, 192)
        torch.testing.assert_close(hybrid.encode(tokens), vit.norm(vit.blocks(tokens)))

    def test_weights_from_a_file(self, tmp_path: Path) -> None:
        """Published files contain the classifier."""
        torch.manual_seed(1)
        published = timm.create_model("vit_tiny_patch16_224")
        save_file(published.state_dict(), tmp_path / "vit.safetensors")
        torch.save(published.state_dict(), tmp_path / "vit.pth")
        for file in (tmp_path / "vit.safetensors", tmp_path / "vit.pth"):
            hybrid = HybridLatentViT(pretrained=str(file))
            assert torch.equal(hybrid.blocks[3].mlp.fc1.weight, published.blocks[3].mlp.fc1.weight)
            assert torch.equal(hybrid.tokens.cls_token, published.cls_token)
        image = create_model(
            "image", pretrained=str(file), **{k: v for k, v in IMAGE.items() if k != "pretrained"}
        )
        assert torch.equal(image.body.blocks[3].mlp.fc1.weight, published.blocks[3].mlp.fc1.weight)
        assert image.body.patch_embed.proj.weight.shape[-1] == 8

    def test_weights_of_another_model_or_truncated(self, tmp_path: Path) -> None:
        save_file(
            timm.create_model("vit_tiny_patch16_224", depth=2).state_dict(),
            tmp_path / "other.safetensors",
        )
        with pytest.raises(ValueError, match=r"other\.safetensors: .*vit_tiny_patch16_224"):
            HybridLatentViT(pretrained=str(tmp_path / "other.safetensors"))
        content = (tmp_path / "other.safetensors").read_bytes()
        (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"half\.safetensors: "):
            HybridLatentViT(pretrained=str(tmp_path / "half.safetensors"))
        with pytest.raises(ValueError, match="pretrained: no file .*none.safetensors"):
            HybridLatentViT(pretrained=str(tmp_path / "none.safetensors"))

    def test_without_a_hub_the_error_names_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="pretrained_models/vit_tiny_patch16_224.safetensors"):
            HybridLatentViT(pretrained="imagenet")


class TestImageModel:
    @pytest.mark.parametrize(
        "name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto", "face_cnn", "pixel_linear"]
    )
    def test_grey_uint8_equals_rgb_float(self, name: str) -> None:
        model = create_model("image", 5, pretrained="none", model_name=name, image_size=64).eval()
        grey = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
        logits = model(grey)
        assert logits.shape == (2, 5)
        torch.testing.assert_close(model(grey.expand(-1, 3, -1, -1).float() / 255), logits)

    def test_images_are_normalised_as_the_timm_model_expects(self) -> None:
        model = create_model("image", 5, pretrained="none", model_name="resnet18", image_size=48)
        mean, std = model.body.pretrained_cfg["mean"], model.body.pretrained_cfg["std"]
        prepared = model.prepare(torch.tensor(mean).view(1, 3, 1, 1).expand(1, 3, 48, 48))
        assert prepared.abs().max() < 1e-6
        bright = model.prepare(torch.full((1, 3, 48, 48), 255, dtype=torch.uint8))
        torch.testing.assert_close(bright[0, :, 0, 0], (1 - torch.tensor(mean)) / torch.tensor(std))

    def test_face_cnn_has_no_published_weights(self, tmp_path: Path) -> None:
        model = create_model("image", 5, pretrained="none", model_name="face_cnn")
        assert model.image_size == 48 and model.forward_features(
            torch.rand(2, 1, 48, 48)
        ).shape == (2, 512, 6, 6)
        with pytest.raises(ValueError, match="pretrained: .*face_cnn"):
            create_model("image", 5, pretrained="imagenet", model_name="face_cnn")
        save_checkpoint(tmp_path / "face_cnn.safetensors", model.body.state_dict(), {})
        with pytest.raises(ValueError, match="pretrained: face_cnn"):
            create_model(
                "image", 5, pretrained=str(tmp_path / "face_cnn.safetensors"), model_name="face_cnn"
            )

    def test_pixel_linear_is_linear(self) -> None:
        model = create_model("image", 5, pretrained="none", model_name="pixel_linear").eval()
        a, b = torch.rand(2, 4, 3, 32, 32)
        torch.testing.assert_close(
            model((a + b) / 2), (model(a) + model(b)) / 2, rtol=1e-4, atol=1e-5
        )

    def test_patch_size(self) -> None:
        model = create_model("image", 5, **IMAGE)
        assert model.body.patch_embed.num_patches == 36
        assert model.forward_features(torch.rand(2, 3, 48, 48)).shape == (2, 37, 192)
        with pytest.raises(ValueError, match="images: "):
            model(torch.rand(2, 18, 512))

    def test_checkpoint_round_trip(self, tmp_path: Path) -> None:
        model = create_model("image", 3, **IMAGE).eval()
        save_model(tmp_path / "m.safetensors", model, classes="abc")
        images = torch.rand(2, 3, 48, 48)
        assert torch.equal(load_model(tmp_path / "m.safetensors")[0](images), model(images))

    def test_checkpoint_loads_without_pretrained_file(self, tmp_path: Path) -> None:
        file = tmp_path / "gone.safetensors"
        save_file(timm.create_model(IMAGE["model_name"]).state_dict(), file)
        model = create_model("image", 3, **IMAGE | {"pretrained": str(file)})
        file.unlink()
        save_model(tmp_path / "m.safetensors", model, classes="abc")
        load_model(tmp_path / "m.safetensors")


class TestMaskedAutoencoder:
    @pytest.mark.parametrize("approach", ["scratch", "hybrid", "image"])
    def test_output_does_not_depend_on_hidden_tokens(self, approach: str) -> None:
        torch.manual_seed(0)
        encoder = create_model(approach, 3, **(IMAGE if approach == "image" else SMALL[approach]))
        masked = MaskedAutoencoder(encoder, mask_ratio=0.75).eval()
        inputs = torch.rand(2, 3, 48, 48) if approach == "image" else torch.randn(2, 18, 512)
        reconstructed, mask = masked(inputs)
        target = masked.targets(inputs)
        assert reconstructed.shape == target.shape
        assert mask.sum(1).tolist() == [round(0.75 * target.shape[1])] * 2
        changed = inputs.clone()
        if approach == "image":
            where = mask.view(2, 1, 6, 1, 6, 1).expand(2, 3, 6, 8, 6, 8).reshape(2, 3, 48, 48)
            changed[where] = 0.5
        else:
            changed[mask] = 5
        visible = (~mask).nonzero()[:, 1].view(2, -1)
        torch.testing.assert_close(masked(changed, visible)[0], reconstructed)
        assert not torch.equal(masked.targets(changed), target)

    def test_targets_are_patches_in_order(self) -> None:
        masked = MaskedAutoencoder(create_model("image", 3, **IMAGE))
        image = torch.zeros(1, 3, 48, 48)
        image[:, :, 8:16, 16:24] = 1  # row 1, column 2 of 6 x 6
        target = masked.targets(image)
        assert (target[0] != target[0, 0]).any(-1).nonzero().tolist() == [[8]]

    def test_mask_ratio(self) -> None:
        with pytest.raises(ValueError, match="mask_ratio: "):
            MaskedAutoencoder(LatentViT(3, **SMALL["scratch"]), mask_ratio=1)
