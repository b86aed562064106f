import pytest
import torch
from torch import nn

from fervit_lib.explain import (
    cka_matrix,
    feature_layers,
    layer_features,
    linear_cka,
    pooled_features,
    token_similarity,
)
from fervit_lib.models import ImageModel, LatentViT
from fervit_lib.models.latent_cnn import LatentCNN


class SmallCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(1, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 3)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(codes[:, None]).mean((2, 3)))


def vit(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return LatentViT(3, embed_dim=32, depth=2, num_heads=2)


class TestCKA:
    def test_a_rotated_and_scaled_copy_scores_1(self) -> None:
        torch.manual_seed(0)
        features = torch.randn(50, 12)
        rotation, _ = torch.linalg.qr(torch.randn(12, 12))
        assert linear_cka(features, 3 * features @ rotation + 5) == pytest.approx(1, abs=1e-4)

    def test_independent_features_score_0_even_in_many_dimensions(self) -> None:
        torch.manual_seed(0)
        assert abs(linear_cka(torch.randn(60, 400), torch.randn(60, 300))) < 0.05

    def test_it_falls_with_noise_and_is_symmetric(self) -> None:
        torch.manual_seed(0)
        features, noise = torch.randn(80, 10), torch.randn(80, 10)
        scores = [linear_cka(features, features + amount * noise) for amount in (0.2, 1, 5)]
        assert scores == sorted(scores, reverse=True)
        assert linear_cka(features, noise) == pytest.approx(linear_cka(noise, features), abs=1e-9)

    def test_too_few_or_different_samples_are_refused(self) -> None:
        with pytest.raises(ValueError, match="a, b.*3 and 3"):
            linear_cka(torch.zeros(3, 2), torch.zeros(3, 2))
        with pytest.raises(ValueError, match="a, b.*8 and 9"):
            linear_cka(torch.zeros(8, 2), torch.zeros(9, 2))


def test_the_matrix_agrees_with_single_scores() -> None:
    codes = torch.randn(40, 18, 512, generator=torch.Generator().manual_seed(0))
    one, two = vit(0), vit(1)
    matrix, rows, columns = cka_matrix(one, two, codes, codes, batch_size=40)
    a, b = layer_features(one, codes)["block 2"], layer_features(two, codes)["block 1"]
    assert rows == columns == ["block 1", "block 2"]
    assert matrix[1, 0] == pytest.approx(linear_cka(a[:, 0], b[:, 0]), abs=1e-4)  # of CLS
    # Three batches, and one sample left out.
    own, *_ = cka_matrix(one, one, codes, codes, batch_size=13)
    torch.testing.assert_close(torch.from_numpy(own).diagonal(), torch.ones(2).double())


def test_batches_estimate_the_same_as_one_batch() -> None:
    codes = torch.randn(200, 18, 512, generator=torch.Generator().manual_seed(0))
    one_batch, *_ = cka_matrix(vit(0), vit(1), codes, codes, batch_size=200)
    batches, *_ = cka_matrix(vit(0), vit(1), codes, codes, batch_size=50)
    assert abs(one_batch - batches).max() < 0.05


def test_a_vit_and_a_cnn_can_be_compared() -> None:
    codes = torch.randn(20, 18, 512)
    matrix, rows, columns = cka_matrix(vit(0), SmallCNN(), codes, codes)
    assert (rows, columns) == (["block 1", "block 2"], ["stages 0", "stages 2"])
    assert matrix.shape == (2, 2)
    with pytest.raises(ValueError, match="inputs.*3"):
        cka_matrix(vit(0), vit(1), codes[:3], codes[:3])
    with pytest.raises(ValueError, match="model"):
        feature_layers(nn.ReLU())


def test_models_with_different_inputs_can_be_compared() -> None:
    codes, images = (
        torch.randn(20, 18, 512),
        torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8),
    )
    for name, expected in (("vit_tiny_patch16_224", "block 1"), ("resnet18", "conv1")):
        options = {"image_size": 32, "patch_size": 8} if "vit" in name else {"image_size": 32}
        other = ImageModel(3, model_name=name, pretrained="none", **options)
        matrix, rows, columns = cka_matrix(vit(0), other, codes, images)
        assert columns[0] == expected and matrix.shape == (len(rows), len(columns))


def test_the_cnn_over_codes_is_pooled_over_layers() -> None:
    model, codes = LatentCNN(3, embed_dim=8, depth=2).eval(), torch.randn(5, 18, 512)
    pooled = pooled_features(model, codes)
    assert pooled["block 2"].shape == (5, 8)
    expected = layer_features(model, codes)["block 2"].mean(-1)
    torch.testing.assert_close(torch.from_numpy(pooled["block 2"]), expected)


def test_hooks_are_removed_and_the_mode_is_restored() -> None:
    model, codes = vit(0).train(), torch.randn(2, 18, 512)
    features = layer_features(model, codes)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    final = model.eval().transformer.norm(features["block 2"])
    torch.testing.assert_close(final, model.forward_features(codes))


def test_cosine_similarity_of_tokens() -> None:
    tokens = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [-1, 0]]])
    similar = token_similarity(tokens)[0]
    assert similar[0].tolist() == [1, 1, 0, -1]
    assert torch.equal(similar, similar.T) and similar.diagonal().tolist() == [1] * 4
