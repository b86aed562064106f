"""Images: any timm model, how it pools, how faces are cut, noise, and what is measured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.vision.core import TensorImage
from PIL import Image
from sklearn.metrics import roc_auc_score

from fervit_lib.models import create_model
from fervit_lib.training.augment import GaussianNoise
from fervit_lib.training.data import _RESIZE
from fervit_lib.training.metrics import roc_auc

FAMILIES = ("resnet10t", "mobilenetv3_small_050", "test_vit", "test_convnext", "test_efficientnet", "swin_s3_tiny_224")


@pytest.mark.parametrize("concat_pool", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_timm_model_reads_a_face(name: str, concat_pool: bool) -> None:
    size = 224 if name.startswith("swin") else 32
    options = {"model_name": name, "pretrained": "none", "image_size": size, "concat_pool": concat_pool}
    model = create_model("image", 7, **options).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_concat_pool_is_mean_and_maximum_over_places() -> None:
    model = create_model("image", 7, model_name="test_vit", pretrained="none", image_size=32, concat_pool=True)
    features = torch.randn(2, 5, model.body.num_features)
    places = features[:, model.body.num_prefix_tokens :]
    assert torch.equal(model._pool(features), torch.cat([places.mean(1), places.amax(1)], 1))


def test_resize_methods(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 255  # the middle square is white
    done = {name: np.asarray(resize(Image.fromarray(pixels), (10, 10))) for name, resize in _RESIZE.items()}
    assert done["crop"].min() > 200
    assert done["pad"][0].max() == 0 and done["pad"][5].max() > 200
    assert done["squish"][5, 0].max() < 60 and done["squish"][:, 5].min() > 200
    with pytest.raises(ValueError, match="resize_method: expected one of squish, crop, pad, got 'stretch'"):
        create_model("image", 7, model_name="test_vit", pretrained="none", resize_method="stretch")


def test_noise_is_of_its_own_strength_and_stays_in_range() -> None:
    torch.manual_seed(0)
    images = TensorImage(torch.full((64, 3, 32, 32), 0.5))
    noisy = GaussianNoise(0.1)(images, split_idx=0)
    spread = torch.Tensor(noisy - images).flatten(1).std(1)
    assert spread.max() <= 0.11 and spread.min() < 0.02 and noisy.min() >= 0 and noisy.max() <= 1
    assert torch.equal(GaussianNoise(0.1)(images, split_idx=1), images)  # not when validating
    with pytest.raises(ValueError, match="image_noise: expected"):
        GaussianNoise(1.0)


def test_roc_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 4))
    logits[np.arange(200), labels] += 1
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert roc_auc(labels, logits) == pytest.approx(roc_auc_score(labels, probs, multi_class="ovr"))
    two = labels % 2
    assert roc_auc(two, logits[:, :2]) == pytest.approx(roc_auc_score(two, logits[:, 1] - logits[:, 0]))
    assert 0 <= roc_auc(labels[labels > 0], logits[labels > 0]) <= 1  # a class without a face is left out
    assert np.isnan(roc_auc(np.zeros(5), logits[:5]))
