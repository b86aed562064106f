"""Every parameter of every model belongs to exactly one part."""

import pytest
from torch import nn

from fervit_lib.models import PARTS, create_model
from fervit_lib.models.latent_cnn import LatentCNN

MODELS = [
    ("scratch", {"position": "sinusoidal", "adapter_dim": 4}),
    ("scratch", {"position": "semantic", "layer_norm": True, "layer_gates": True}),
    ("scratch", {"position": "relative", "adapter_dim": 4}),
    ("latent_cnn", {}),
    ("hybrid", {"adapter_dim": 4}),
    ("hybrid", {"model_name": "vit_small_patch14_reg4_dinov2", "layer_norm": True}),
    ("hybrid", {"model_name": "vit_base_patch16_clip_224"}),
    ("image", {"adapter_dim": 4}),
    ("image", {"stem": "conv"}),
    ("image", {"model_name": "vit_small_patch14_reg4_dinov2"}),
    ("image", {"model_name": "deit_tiny_distilled_patch16_224", "token_head": True}),
    ("image", {"model_name": "eva02_tiny_patch14_224"}),
    ("image", {"model_name": "swin_tiny_patch4_window7_224"}),
    ("image", {"model_name": "convnext_atto"}),
    ("image", {"model_name": "efficientnet_b0"}),
    ("image", {"model_name": "mobilenetv3_small_050"}),
    ("image", {"model_name": "resnet18"}),
    ("image", {"model_name": "face_cnn"}),
    ("image", {"model_name": "pixel_linear"}),
    ("hybrid", {"model_name": "test_vit", "num_blocks": 3}),
]
WITHOUT_BLOCKS = (
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "resnet18",
    "face_cnn",
    "pixel_linear",
)


@pytest.mark.parametrize(("approach", "options"), MODELS, ids=str)
def test_every_parameter_belongs_to_one_part(approach: str, options: dict) -> None:
    if approach in ("hybrid", "image"):
        options = options | {"pretrained": "none"}
    model = create_model(approach, 7, **options)
    part_of = {name: model.part_of(name, lower_blocks=1) for name, _ in model.named_parameters()}
    assert set(part_of.values()) <= set(PARTS)
    for name, part in part_of.items():
        assert (part == "head") == name.startswith(("head.", "token_head.")), name
        assert (part == "adapter") == (".adapter." in name), name
    assert ("adapter" in part_of.values()) == ("adapter_dim" in options)
    has_blocks = options.get("model_name") not in WITHOUT_BLOCKS
    assert (model.num_blocks > 0) == has_blocks
    if has_blocks:
        assert "lower_blocks" in part_of.values()


def test_relative_positions_are_no_weights_of_the_transformer() -> None:
    model = create_model("scratch", embed_dim=32, depth=2, num_heads=2, position="relative")
    names = [name for name, _ in model.named_parameters() if model.part_of(name, 1) == "position"]
    biases = [f"transformer.blocks.{block}.attn.relative_bias" for block in range(2)]
    assert names == ["tokens.cls_token", *biases]


def test_a_parameter_of_no_part_is_an_error() -> None:
    model = LatentCNN(3, embed_dim=8, depth=1)
    model.heads = nn.Linear(8, 3)
    with pytest.raises(ValueError, match=r"heads\.weight.*LatentCNN\.parts"):
        model.part_of("heads.weight")


def test_position_holds_class_token_registers_and_positions() -> None:
    model = create_model("hybrid", pretrained="none", model_name="vit_small_patch14_reg4_dinov2")
    names = [name for name, _ in model.named_parameters() if model.part_of(name) == "position"]
    assert names == ["tokens.cls_token", "tokens.pos_embed", "tokens.extra_tokens"]


@pytest.mark.parametrize("approach", ["image", "hybrid"])
def test_lower_blocks_include_the_patch_embedding(approach: str) -> None:
    model = create_model(approach, pretrained="none")
    lower = {n for n, _ in model.named_parameters() if model.part_of(n, 3) == "lower_blocks"}
    assert {name for name in lower if "patch_embed" in name} == {
        name for name, _ in model.named_parameters() if "patch_embed" in name
    }
    assert len({name.split("blocks.")[1].split(".")[0] for name in lower if "blocks" in name}) == 3
