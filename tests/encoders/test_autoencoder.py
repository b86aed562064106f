from pathlib import Path

import pytest
import torch

from fervit_lib.encoders.autoencoder import Autoencoder, load_autoencoder, save_autoencoder
from fervit_lib.encoders.load import load_encoder
from fervit_lib.latents import BANDS
from fervit_lib.system.checkpoints import save_checkpoint


def test_codes_have_the_shape_of_w_plus_for_any_image_size() -> None:
    model = Autoencoder(64).eval()
    for size in (48, 64, 256):
        assert model(torch.rand(2, 3, size, size) * 2 - 1).shape == (2, 18, 512)


def test_a_band_changes_only_its_own_image_and_later_ones() -> None:
    model = Autoencoder(64).eval()
    w_plus = torch.randn(1, 18, 512)
    before = model.decode(w_plus)
    for first, band in enumerate(BANDS.values()):
        changed = w_plus.clone()
        changed[:, band] += 1
        same = [torch.equal(a, b) for a, b in zip(before, model.decode(changed), strict=True)]
        assert same == [image < first for image in range(3)]


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model = Autoencoder(32).eval()
    save_autoencoder(tmp_path / "a.safetensors", model, "abc")
    loaded, trained_on = load_autoencoder(tmp_path / "a.safetensors")
    images = torch.rand(2, 3, 32, 32)
    assert trained_on == "abc"
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(
        load_encoder(tmp_path / "a.safetensors", "autoencoder")(images), model(images)
    )


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="img_size: "):
        Autoencoder(50)
    with pytest.raises(ValueError, match="encoder: .*'stylegan'"):
        load_encoder(tmp_path / "a", "stylegan")
    with pytest.raises(FileNotFoundError, match="a.safetensors"):
        load_encoder(tmp_path / "a.safetensors", "autoencoder")
    save_checkpoint(tmp_path / "b.safetensors", {}, {"approach": "scratch"})
    with pytest.raises(ValueError, match=r"b\.safetensors: "):
        load_encoder(tmp_path / "b.safetensors", "autoencoder")
