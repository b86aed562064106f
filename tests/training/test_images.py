"""Images: any timm model, how it pools, how faces are cut, noise, and what is measured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from PIL import Image
from sklearn.metrics import roc_auc_score

from fervit_lib.inputs import _RESIZE
from fervit_lib.models import create_model, set_fused_attention
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import GrowImages, build_learner, fit, get_strategy
from fervit_lib.training.augment import AugmentImages, add_noise
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.metrics import roc_auc

FAMILIES = (
    "resnet10t",
    "mobilenetv3_small_050",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "swin_s3_tiny_224",
)


@pytest.mark.parametrize("concat_pool", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_timm_model_reads_a_face(name: str, concat_pool: bool) -> None:
    size = 224 if name.startswith("swin") else 32
    options = {
        "model_name": name,
        "pretrained": "none",
        "image_size": size,
        "concat_pool": concat_pool,
    }
    model = create_model("image", 7, **options).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_concat_pool_is_mean_and_maximum_over_positions() -> None:
    model = create_model(
        "image", 7, model_name="test_vit", pretrained="none", image_size=32, concat_pool=True
    )
    features = torch.randn(2, 5, model.body.num_features)
    positions = features[:, model.body.num_prefix_tokens :]
    expected = torch.cat([positions.mean(1), positions.amax(1)], dim=1)
    assert torch.equal(model._pool(features), expected)


def test_resize_methods(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 255  # the middle square is white
    done = {
        name: np.asarray(resize(Image.fromarray(pixels), (10, 10)))
        for name, resize in _RESIZE.items()
    }
    assert done["crop"].min() > 200
    assert done["pad"][0].max() == 0 and done["pad"][5].max() > 200
    assert done["squish"][5, 0].max() < 60 and done["squish"][:, 5].min() > 200
    with pytest.raises(
        ValueError, match="resize_method: expected one of squish, crop, pad, got 'stretch'"
    ):
        create_model("image", 7, model_name="test_vit", pretrained="none", resize_method="stretch")


def test_noise_is_of_its_own_strength_and_stays_in_range() -> None:
    torch.manual_seed(0)
    images = torch.full((64, 3, 32, 32), 0.5)
    spread = (add_noise(images, 0.1) - images).flatten(1).std(1)
    assert spread.max() <= 0.11 and spread.min() < 0.02
    with pytest.raises(ValueError, match="image_noise: expected"):
        AugmentImages(noise=1.0)


def test_roc_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 4))
    logits[np.arange(200), labels] += 1
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert roc_auc(labels, logits) == pytest.approx(roc_auc_score(labels, probs, multi_class="ovr"))
    two = labels % 2
    assert roc_auc(two, logits[:, :2]) == pytest.approx(
        roc_auc_score(two, logits[:, 1] - logits[:, 0])
    )
    assert (
        0 <= roc_auc(labels[labels > 0], logits[labels > 0]) <= 1
    )  # a class without a face is left out
    assert np.isnan(roc_auc(np.zeros(5, int), logits[:5]))


def cnn(image_size: int = 48) -> torch.nn.Module:
    return create_model(
        "image", 3, model_name="resnet10t", pretrained="none", image_size=image_size
    )


def image_dls() -> DataLoaders:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(48) % 3
    train, val = (
        TensorBatches([images], labels, bs=8, shuffle=True),
        TensorBatches([images[:9]], labels[:9], bs=9),
    )
    dls = DataLoaders(train, val, device=torch.device("cpu"))
    dls.classes = ("a", "b", "c")
    return dls


class BreakOff(Callback):
    def before_epoch(self) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt


def test_a_cnn_goes_on_with_the_very_same_weights(tmp_path: Path) -> None:
    """Its weights lie channels last in memory, and a file keeps no such order."""

    def run(folder: Path, cbs: list[Callback]) -> dict[str, torch.Tensor]:
        seed_everything(0)
        model, plan = cnn(), get_strategy("full")
        learn = build_learner(
            model, image_dls(), plan, folder=folder, cbs=[GrowImages(model, 32), *cbs]
        )
        with learn.no_bar(), learn.no_logging():
            fit(learn, plan, epochs=4, lr=1e-3, state=folder / "last.safetensors")
        assert model.seen_size == 48
        return {name: value.clone() for name, value in model.state_dict().items()}

    whole = run(tmp_path / "whole", [])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", [BreakOff()])
    again = run(tmp_path / "broken", [])
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_images_grow_half_way(tmp_path: Path) -> None:
    class Sides(Callback):
        def after_pred(self) -> None:
            seen.append((self.epoch, self.model.prepare(self.x).shape[-1]))

    seen: list[tuple[int, int]] = []
    model, plan = cnn(), get_strategy("full")
    learn = build_learner(
        model, image_dls(), plan, folder=tmp_path, cbs=[GrowImages(model, 32), Sides()]
    )
    with learn.no_bar(), learn.no_logging():
        fit(learn, plan, epochs=3, lr=1e-3)
    assert set(seen) == {(0, 32), (1, 48), (2, 48)}


def test_only_a_cnn_grows_and_only_upwards() -> None:
    vit = create_model("image", 3, model_name="test_vit", pretrained="none", image_size=48)
    with pytest.raises(ValueError, match="grow_from: expected 0 for a model of one image size"):
        GrowImages(vit, 32)
    for side in (16, 48, 64):
        with pytest.raises(ValueError, match=r"grow_from: expected a number in \[32, 48\)"):
            GrowImages(cnn(), side)


def test_a_convolutional_stem_gives_the_tokens_of_a_patch_embedding() -> None:
    options = {
        "model_name": "vit_tiny_patch16_224",
        "pretrained": "none",
        "image_size": 64,
        "num_blocks": 2,
    }
    plain, conv = (create_model("image", 7, stem=stem, **options) for stem in ("patch", "conv"))
    images = torch.rand(2, 3, 48, 48)
    assert plain.embed(images)[1].shape == conv.embed(images)[1].shape == (2, 16, 192)
    assert conv(images).shape == (2, 7) and len(conv.body.blocks) == 2
    loss = conv(images).sum()
    loss.backward()
    assert all(p.grad is not None for p in conv.body.patch_embed.parameters())
    with pytest.raises(ValueError, match="patch_size: expected a power of 2"):
        create_model("image", 7, stem="conv", patch_size=6, **options | {"image_size": 48})
    with pytest.raises(ValueError, match="stem: conv has no pretrained weights"):
        create_model("image", 7, stem="conv", **options | {"pretrained": "mae"})
    for option in ({"stem": "conv"}, {"patch_size": 8}, {"num_blocks": 2}):
        with pytest.raises(ValueError, match="model_name: .*num_blocks.* 'resnet10t'"):
            create_model("image", 7, model_name="resnet10t", pretrained="none", **option)


@pytest.mark.parametrize(
    "model_name", ["swin_tiny_patch4_window7_224", "mixer_s32_224", "mobilevit_xxs", "levit_128s"]
)
def test_any_timm_model_takes_another_image_size(model_name: str) -> None:
    model = create_model("image", 7, model_name=model_name, pretrained="none", image_size=64).eval()
    assert model(torch.rand(2, 3, 48, 48)).shape == (2, 7)
    if not model.any_size:
        with pytest.raises(ValueError, match="grow_from: expected 0 for a model of one image size"):
            GrowImages(model, 32)


@pytest.mark.parametrize(
    ("approach", "options"),
    [("scratch", {"embed_dim": 64, "depth": 2}), ("image", {"model_name": "test_vit"})],
)
def test_attention_step_by_step_gives_what_fused_attention_gives(
    approach: str, options: dict
) -> None:
    options |= {"pretrained": "none"} if approach == "image" else {}
    model = create_model(approach, 7, **options).eval()
    inputs = torch.randn(3, *model.input_shape)
    found = []
    for fused in (True, False):
        set_fused_attention(model, fused)
        model.zero_grad()
        logits = model(inputs)
        logits.square().sum().backward()
        found.append([logits, *(p.grad.clone() for p in model.parameters())])
    for fused_value, step_value in zip(*found, strict=True):
        torch.testing.assert_close(fused_value, step_value, rtol=1e-4, atol=1e-5)
