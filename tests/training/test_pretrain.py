from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from torch import Tensor

from fervit_lib.datasets import draw_toy_faces, load_faces
from fervit_lib.encoders import fit_autoencoder, images_to_tensor, load_encoder
from fervit_lib.models import ExpressionModel, create_model
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import fit_masked
from fervit_lib.training.data import TensorBatches

CPU = torch.device("cpu")
LEARNS = {"precision": "float32"}


def batches(train: Tensor, val: Tensor) -> DataLoaders:
    return DataLoaders(
        TensorBatches([train], torch.zeros(len(train)), bs=64, shuffle=True),
        TensorBatches([val], torch.zeros(len(val)), bs=64),
        device=CPU,
    )


def codes_of_few_factors(num_faces: int) -> Tensor:
    """Each layer shows the same six factors in its own basis, mean and spread, as codes do."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(6, 18 * 64, generator=generator)
    codes = (torch.randn(num_faces, 6, generator=generator) @ basis).view(-1, 18, 64)
    spread = torch.logspace(-1, 0, 18)[:, None]  # tenfold
    return spread * codes + torch.randn(18, 64, generator=generator)


def small_vit(latent_dim: int = 512, **options: Any) -> ExpressionModel:
    seed_everything(0)
    small = {"latent_dim": latent_dim, "embed_dim": 64, "depth": 1, "num_heads": 2}
    return create_model("scratch", **small | {"drop_rate": 0.0} | options)


class TestMaskedPretraining:
    def test_it_comes_near_ridge_regression_and_is_not_done_twice(self, tmp_path: Path) -> None:
        codes = codes_of_few_factors(700)
        dls = batches(codes[:600], codes[600:])
        model = small_vit(64)
        curves, r2 = fit_masked(model, dls, tmp_path, tmp_path, epochs=14, **LEARNS)
        assert len(r2) == 18
        assert r2["faces"].eq(100).all()
        assert r2["ridge"].min() > 0.9
        assert (r2["model"] >= 0.7 * r2["ridge"]).all()
        # The loss is the share of the variance that is not explained.
        assert curves["valid_loss"].iloc[-1] == pytest.approx(1 - r2["model"].mean(), abs=0.1)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        [shared] = tmp_path.glob("masked-*.safetensors")
        written = shared.stat().st_mtime_ns
        again = small_vit(64)
        other = tmp_path / "other"
        curves_again, r2_again = fit_masked(again, dls, other, tmp_path, epochs=14, **LEARNS)
        assert all(torch.equal(again.state_dict()[name], weights[name]) for name in weights)
        assert shared.stat().st_mtime_ns == written
        pd.testing.assert_frame_equal(curves_again, curves)
        pd.testing.assert_frame_equal(r2_again, r2)
        assert (other / "masked.safetensors").read_bytes() == shared.read_bytes()

    def test_adapters_take_no_part(self, tmp_path: Path) -> None:
        codes = torch.randn(160, 18, 64, generator=torch.Generator().manual_seed(0))
        dls = batches(codes[:96], codes[96:])
        plain, adapted = small_vit(64), small_vit(64, adapter_dim=4)
        for model in (plain, adapted):
            fit_masked(model, dls, tmp_path, tmp_path, epochs=1, **LEARNS)
        assert len(list(tmp_path.glob("masked-*.safetensors"))) == 1
        expected = plain.state_dict()
        for name, tensor in adapted.state_dict().items():
            if ".adapter." not in name:
                assert torch.equal(tensor, expected[name.replace(".block.", ".")])
        assert not adapted.transformer.blocks[0].adapter.up.weight.any()

    @pytest.mark.parametrize("change", ["weights", "inputs", "epochs", "seed", "heads", "dropout"])
    def test_another_pretraining_is_not_loaded(self, tmp_path: Path, change: str) -> None:
        codes = torch.randn(160, 18, 64, generator=torch.Generator().manual_seed(0))
        for changed in ("", change):
            options = {"heads": {"num_heads": 4}, "dropout": {"drop_rate": 0.5}}
            model = small_vit(64, **options.get(changed, {}))
            if changed == "weights":
                with torch.no_grad():
                    model.tokens.pos_embed[0, 3] += 0.1
            inputs = codes + 0.1 if changed == "inputs" else codes
            dls = batches(inputs[:96], inputs[96:])
            epochs = 2 if changed == "epochs" else 1
            seed = int(changed == "seed")
            fit_masked(model, dls, tmp_path, tmp_path, epochs=epochs, seed=seed, **LEARNS)
        assert len(list(tmp_path.glob("masked-*.safetensors"))) == 2

    def test_nothing_is_predicted_where_nothing_is_shared(self, tmp_path: Path) -> None:
        codes = torch.randn(300, 18, 64, generator=torch.Generator().manual_seed(0))
        dls = batches(codes[:200], codes[200:])
        _, r2 = fit_masked(small_vit(64), dls, tmp_path, tmp_path, epochs=2, **LEARNS)
        assert r2[["model", "ridge"]].max().max() < 0.05

    def test_it_needs_a_vit(self, tmp_path: Path) -> None:
        dls = batches(torch.randn(64, 18, 512), torch.randn(64, 18, 512))
        with pytest.raises(ValueError, match="pretrained: mae needs a ViT, got a LatentCNN"):
            fit_masked(create_model("latent_cnn"), dls, tmp_path, tmp_path, epochs=1)

    @pytest.mark.slow
    def test_it_learns_on_codes_of_toy_faces(self, tmp_path: Path) -> None:
        faces = draw_toy_faces(tmp_path / "toy", 1400, size=32)
        images = {
            split: images_to_tensor([face for face, _ in load_faces(faces, split)], 32)
            for split in ("train", "val")
        }
        fit_autoencoder(images["train"], tmp_path / "a.safetensors")
        encoder = load_encoder(tmp_path / "a.safetensors", "autoencoder")
        with torch.inference_mode():
            codes = {split: encoder(images[split]) for split in images}
        dls = batches(codes["train"], codes["val"])
        _, r2 = fit_masked(small_vit(), dls, tmp_path, tmp_path, epochs=35, **LEARNS)
        assert r2["model"].mean() >= 0.7 * r2["ridge"].mean()
        assert r2["model"].min() > 0
