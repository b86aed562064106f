from pathlib import Path

import pytest
import torch

from fervit_lib.encoders.autoencoder import (
    Autoencoder,
    fit_autoencoder,
    load_autoencoder,
    save_autoencoder,
)
from fervit_lib.encoders.decode import reconstruction_errors
from fervit_lib.encoders.encode import prepare_encoder
from fervit_lib.encoders.load import load_encoder
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint


def test_codes_have_the_shape_of_w_plus_for_any_image_size() -> None:
    model = Autoencoder(64).eval()
    for size in (48, 64, 256):
        assert model(torch.rand(2, 3, size, size) * 2 - 1).shape == (2, 18, 512)


def draw_bars(number: int, size: int = 32) -> torch.Tensor:
    """Pictures (number, 3, size, size) of a bar at a random height under a random light."""
    generator = torch.Generator().manual_seed(number)
    heights = torch.randint(4, size - 4, (number, 1, 1, 1), generator=generator)
    rows = torch.arange(size).view(1, 1, size, 1)
    light = 0.5 * torch.rand(number, 3, 1, 1, generator=generator)
    bars = ((rows - heights).abs() < 3).float() * (0.5 + light) - 0.5
    return bars.expand(number, 3, size, size).contiguous()


@pytest.mark.parametrize("number", [10, 200])
def test_it_rebuilds_images_that_it_was_not_fitted_to(tmp_path: Path, number: int) -> None:
    path = tmp_path / "checkpoints" / "a.safetensors"
    fit_autoencoder(draw_bars(number), path)
    model = load_encoder(path, "autoencoder")
    new = draw_bars(150)
    error = reconstruction_errors(model, model, new)["mse"].mean()
    share = error / (new - new.mean(0)).square().mean().item()
    assert share < (0.05 if number == 200 else 0.9)
    codes = model(new)
    assert codes.abs().max() < 20
    if number == 200:
        assert codes.mean((0, 2)).abs().max() < 0.3
        assert (codes.std((0, 2)) > 0.7).all() and (codes.std((0, 2)) < 2).all()
        # What is rebuilt has the same code: nothing of the code's pixels is lost on the way.
        again = model(model.decode(codes))
        assert torch.nn.functional.cosine_similarity(again, codes, dim=-1).mean() > 0.8


def test_images_without_edges_have_finite_codes_and_equal_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    images = torch.linspace(-1, 1, 12).view(12, 1, 1, 1).expand(12, 3, 32, 32).contiguous()
    fit_autoencoder(images, path)
    model = load_encoder(path, "autoencoder")
    for pictures in (images, draw_bars(4)):
        assert model(pictures).abs().max() < 60_000  # a store holds float16
    torch.testing.assert_close(model.decode(model(images)), images, atol=1e-3, rtol=0)
    for equal in (torch.full((12, 3, 32, 32), -1.0), draw_bars(1).expand(12, -1, -1, -1)):
        with pytest.raises(ValueError, match="faces: "):
            fit_autoencoder(equal, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_the_encoder_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"old": torch.zeros(1)}, {"kind": "autoencoder", "fingerprint": "x"})
    fit_autoencoder(draw_bars(20), path)
    assert load_encoder(path, "autoencoder").img_size == 32


def test_bf16(tmp_path: Path) -> None:
    fit_autoencoder(draw_bars(100), tmp_path / "a.safetensors")
    images = draw_bars(8)
    exact, rounded = (
        prepare_encoder(
            load_encoder(tmp_path / "a.safetensors", "autoencoder"),
            torch.device("cpu"),
            dtype=dtype,
        )(images)
        for dtype in ("float32", "bfloat16")
    )
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=-1).mean() > 0.98


def test_it_is_computed_again_only_for_other_images(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    images = draw_bars(40)
    written = []
    for fitted, seed in ((images, 0), (images.clone(), 0), (images.flip(2), 0), (images, 1)):
        fit_autoencoder(fitted, path, seed=seed)
        written.append(path.stat().st_mtime_ns)
    assert written[0] == written[1] and len(set(written)) == 3
    fit_autoencoder(images, tmp_path / "b.safetensors", seed=1)
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_light_hardly_changes_what_the_codes_say_about_edges() -> None:
    images = draw_bars(8)
    lit = 0.6 * images + 0.1
    described = (Autoencoder(32)._describe(pictures) for pictures in (images, lit))
    for (pixels, edges), (lit_pixels, lit_edges) in zip(*described, strict=True):
        assert (edges - lit_edges).norm() < 0.15 * edges.norm()
        assert (pixels - lit_pixels).norm() > 0.3 * pixels.norm()


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model = Autoencoder(32).eval()
    save_autoencoder(tmp_path / "a.safetensors", model, "abc")
    loaded = load_autoencoder(tmp_path / "a.safetensors")
    images = torch.rand(2, 3, 32, 32)
    assert load_checkpoint(tmp_path / "a.safetensors")[1]["fingerprint"] == "abc"
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
