import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fervit_lib.encoders import (
    Autoencoder,
    decode_bands,
    decode_images,
    decode_pixels,
    load_decoder,
    number_to_draw,
    reconstruction_errors,
)
from fervit_lib.encoders.decode import structural_similarity
from fervit_lib.encoders.generator import Generator


@pytest.fixture(params=["autoencoder", "stylegan"])
def decoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model = Autoencoder(64) if request.param == "autoencoder" else Generator(256, 16)
    model.mean_code.normal_(std=0.1)
    return model.eval()


def test_a_row_shows_the_layers_up_to_its_band(decoder: Any) -> None:
    codes = torch.randn(3, *decoder.mean_code.shape)
    rows = decode_bands(decoder, codes)
    assert list(rows) == ["coarse", "+ middle", "+ fine"]
    whole = decode_images(decoder, codes)
    for last, other in zip(rows["+ fine"], whole, strict=True):
        assert np.array_equal(last, other)
    for name, stop in (("coarse", 3), ("+ middle", 7)):
        changed = codes.clone()
        changed[:, stop:] += 1
        for same, picture in zip(decode_bands(decoder, changed)[name], rows[name], strict=True):
            assert np.array_equal(same, picture)
        changed[:, stop - 1] += 1
        assert not np.array_equal(decode_bands(decoder, changed)[name][0], rows[name][0])


def test_errors_of_a_perfect_and_of_no_reconstruction() -> None:
    class Same(torch.nn.Module):
        mean_code = torch.zeros(1, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes

    images = torch.rand(20, 3, 32, 32) * 2 - 1
    same = reconstruction_errors(Same(), Same(), images)
    assert len(same) == 20
    assert (same["mse"] == 0).all() and np.allclose(same["ssim"], 1)

    class Grey(Same):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(codes)

    none = reconstruction_errors(Same(), Grey(), images)
    assert np.allclose(none["mse"], images.square().mean((1, 2, 3)))
    assert (none["ssim"] < 0.05).all()


def test_similarity_by_the_paper() -> None:
    """Of two constant pictures only the luminance differs."""
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), -0.2)
    expected = (2 * 0.5 * -0.2 + 0.0004) / (0.25 + 0.04 + 0.0004)
    assert math.isclose(structural_similarity(a, b).item(), expected, rel_tol=1e-3)
    noise = torch.rand(4, 3, 16, 16)
    assert torch.allclose(structural_similarity(noise, noise), torch.ones(4))


def test_pixels_are_the_picture_at_another_size(decoder: Any) -> None:
    codes = torch.randn(2, *decoder.mean_code.shape)
    own = decode_images(decoder, codes)
    pixels = decode_pixels(decoder, codes, own[0].width)
    for picture, expected in zip(pixels, own, strict=True):
        assert np.abs(picture.permute(1, 2, 0).int().numpy() - np.asarray(expected, int)).max() <= 1
    assert decode_pixels(decoder, codes, 20).shape == (2, 3, 20, 20)


def test_a_generator_stops_at_the_size_and_draws_few(decoder: Any) -> None:
    codes = torch.randn(1, *decoder.mean_code.shape)
    [picture] = decode_images(decoder, codes, 32)
    if isinstance(decoder, Generator):
        assert picture.size == (32, 32)
        assert number_to_draw(decoder, 1000) == 32 and number_to_draw(decoder, 5) == 5
    else:
        assert picture.size == (64, 64)
        assert number_to_draw(decoder, 1000) == 1000


def test_an_unknown_kind_of_decoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoder: expected"):
        load_decoder(tmp_path / "psp.pt", "pSp")
