"""The what-if controls, moved as a browser would move them."""

import asyncio
import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib.encoders import Autoencoder, decode_images
from fervit_lib.encoders.generator import Generator
from fervit_lib.explain import ExaminedRun
from fervit_lib.latents import layer_bands
from fervit_lib.models import LatentViT
from fervit_lib.notebook import what_if
from fervit_lib.notebook.what_if import WhatIf


def make_run(num_layers: int = 18, dim: int = 512) -> ExaminedRun:
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model = LatentViT(3, latent_dim=dim, num_tokens=num_layers, **options).eval()
    codes = torch.randn(6, num_layers, dim)
    classes, labels = ("angry", "happy", "sad"), np.arange(6) % 3
    mean = torch.zeros(num_layers, dim)
    return ExaminedRun("a", model, classes, codes, labels, mean, None, np.arange(6), None)


@pytest.fixture
def controls() -> WhatIf:
    decoder = Autoencoder(32).eval()
    decoder.fit(torch.rand(60, 3, 32, 32) * 2 - 1)
    return WhatIf(make_run(), decoder, dict(enumerate(torch.randn(3, 18, 512))), [0, 4])


def pictures(controls: WhatIf) -> list[np.ndarray]:
    data = re.findall(r"base64,([^\"]+)", controls.picture.value)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(part)))) for part in data]


def test_at_the_start_nothing_is_moved(controls: WhatIf) -> None:
    before, after = pictures(controls)
    assert np.array_equal(before, after)
    expected = decode_images(controls.decoder, controls.run.codes[:1])[0]
    assert np.array_equal(before, expected)
    for trace in controls.probs.data:
        np.testing.assert_allclose(trace.x, controls.run.predict(controls.run.codes[:1])[0])


def test_sliders_move_the_code_along_directions_in_the_chosen_bands(controls: WhatIf) -> None:
    run = controls.run
    controls.face.value = 4
    controls.emotions[1].value, controls.emotions[2].value = 1.5, -0.5
    controls.bands["coarse"].value, controls.bands["fine"].value = 0, 0.5
    change = 1.5 * controls.directions[1] - 0.5 * controls.directions[2]
    change[:3] = 0
    change[7:] *= 0.5
    torch.testing.assert_close(controls.code, run.codes[[4]] + change)
    np.testing.assert_allclose(controls.probs.data[1].x, run.predict(controls.code)[0], atol=1e-6)
    before, after = pictures(controls)
    assert np.array_equal(before, decode_images(controls.decoder, run.codes[[4]])[0])
    assert np.array_equal(after, decode_images(controls.decoder, controls.code)[0])
    assert not np.array_equal(before, after)
    controls.reset.click()
    torch.testing.assert_close(controls.code, run.codes[[4]])


def test_the_smallest_change_is_another_prediction_until_a_slider_moves(controls: WhatIf) -> None:
    controls.bands["middle"].value = 0
    controls.emotions[2].value = 1.0
    controls.smallest.click()
    assert not any(slider.value for slider in controls.emotions.values())
    before, after = (trace.x for trace in controls.probs.data)
    assert np.argmax(before) != np.argmax(after)
    change = controls.code - controls.run.codes[:1]
    assert change.any() and not change[:, 3:7].any()
    assert "%" in controls.text.value
    controls.emotions[0].value = 0.5
    direction = controls.directions[0].clone()
    direction[3:7] = 0
    torch.testing.assert_close(controls.code, controls.run.codes[:1] + 0.5 * direction)
    for slider in controls.bands.values():
        slider.value = 0
    controls.smallest.click()
    assert "No change" in controls.text.value


def test_a_generator_draws_small_while_a_slider_moves_and_large_at_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(what_if, "SIZES", (8, 16, 64))
    monkeypatch.setattr(what_if, "REST_SECONDS", 0.01)
    monkeypatch.setattr(what_if, "PREVIEW_SECONDS", 0.0)  # no size is as fast
    decoder = Generator(64, 16).eval()
    run = make_run(len(decoder.mean_code), 16)
    assert set(layer_bands(10)) == {"coarse", "middle", "fine"}

    async def use() -> tuple[list[int], list[int]]:
        directions = {2: torch.randn(decoder.mean_code.shape)}
        controls = WhatIf(run, decoder, directions, [0])
        assert list(controls.emotions) == [2]
        controls.emotions[2].value = 1.0
        moving = [picture.shape[0] for picture in pictures(controls)]
        await asyncio.sleep(0.3)
        at_rest = [picture.shape[0] for picture in pictures(controls)]
        assert "8 px" in controls.text.value and "64 px" in controls.text.value
        controls.emotions[2].value = 0.5
        controls.smallest.click()  # before the larger picture is drawn
        length = controls.text.value
        await asyncio.sleep(0.3)
        assert controls.text.value == length and "%" in length
        return moving, at_rest

    assert asyncio.run(use()) == ([8, 8], [64, 64])
