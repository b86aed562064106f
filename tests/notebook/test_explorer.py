"""The controls of the explorer, moved as a browser would move them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fervit_lib.explain import METHODS, ExaminedRun, attention_maps, swap_layers, token_map
from fervit_lib.models import LatentViT
from fervit_lib.models.hybrid_vit import HybridLatentViT
from fervit_lib.notebook.explorer import Explorer


@pytest.fixture(scope="module")
def runs() -> list[ExaminedRun]:
    torch.manual_seed(0)
    models = {
        "a": LatentViT(3, embed_dim=32, depth=2, num_heads=2),
        "b": HybridLatentViT(3, pretrained="none"),
    }
    codes = torch.randn(6, 18, 512)
    labels = np.arange(6) % 3
    mean_code = torch.zeros(18, 512)
    classes = ("angry", "happy", "sad")
    return [
        ExaminedRun(n, m.eval(), classes, codes, labels, mean_code, None, np.arange(6), None)
        for n, m in models.items()
    ]


@pytest.fixture
def explorer(runs: list[ExaminedRun]) -> Explorer:
    return Explorer(runs, [0, 4])


def test_it_starts_with_two_runs_side_by_side(explorer: Explorer) -> None:
    assert [panel.run.value for panel in explorer.panels] == ["a", "b"]
    first, second = explorer.panels
    assert (first.block.max, first.head.max, second.block.max, second.head.max) == (2, 2, 12, 3)
    maps = attention_maps(first.selected.model, first.selected.codes[:1])
    np.testing.assert_allclose(first.map.data[0].z, maps[0][0].mean(0), atol=1e-6)
    np.testing.assert_allclose(
        first.probs.data[0].x, first.selected.predict(first.selected.codes[:1])[0], atol=1e-6
    )


def test_sliders_and_the_face_change_the_figures(explorer: Explorer) -> None:
    panel = explorer.panels[0]
    panel.block.value, panel.head.value = 2, 1
    maps = attention_maps(panel.selected.model, panel.selected.codes[:1])
    np.testing.assert_allclose(panel.bars.data[0].y, maps[1][0, 0, 0], atol=1e-6)
    explorer.face.value = 4
    maps = attention_maps(panel.selected.model, panel.selected.codes[4:5])
    np.testing.assert_allclose(panel.map.data[0].z, maps[1][0, 0], atol=1e-6)
    panel.run.value = "b"
    assert panel.block.max == 12


def test_removed_layers_change_the_prediction(explorer: Explorer) -> None:
    panel = explorer.panels[0]
    before = np.array(panel.probs.data[0].x)
    explorer.layers[7].value = True
    explorer.bands["coarse"].click()
    assert explorer.removed == [0, 1, 2, 7]
    code = swap_layers(panel.selected.codes[:1], panel.selected.mean_code, [0, 1, 2, 7])
    np.testing.assert_allclose(panel.probs.data[0].x, panel.selected.predict(code)[0], atol=1e-6)
    assert not np.allclose(panel.probs.data[0].x, before)
    explorer.restore.click()
    assert explorer.removed == []
    np.testing.assert_allclose(panel.probs.data[0].x, before)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_tokens(explorer: Explorer, method: str) -> None:
    explorer.method.value = method
    panel = explorer.panels[0]
    assert panel.map.data[0].z.shape == ((19, 19) if METHODS[method] else (1, 19))
    assert panel.block.disabled is not METHODS[method]
    assert np.isfinite(panel.bars.data[0].y).all()


def test_runs_on_codes_of_smaller_stylegans_show_their_own_layers(runs: list[ExaminedRun]) -> None:
    small = LatentViT(3, num_tokens=14, embed_dim=32, depth=1, num_heads=2).eval()
    other = replace(
        runs[0], name="c", model=small, codes=torch.randn(6, 14, 512), mean_code=torch.ones(14, 512)
    )
    explorer = Explorer([runs[0], other], [2])
    explorer.bands["fine"].click()
    assert explorer.removed == list(range(7, 18))
    code = swap_layers(other.codes[2:3], other.mean_code, range(7, 14))
    panel = explorer.panels[1]
    np.testing.assert_allclose(panel.probs.data[0].x, other.predict(code)[0], atol=1e-6)
    assert panel.map.data[0].z.shape == (15, 15)
    assert list(panel.map.data[0].x) == ["CLS", *map(str, range(14))]
    assert explorer.panels[0].map.data[0].z.shape == (19, 19)
    alone = Explorer([other], [2])
    assert len(alone.layers) == 14 and alone.panels[0].bars.layout.shapes[2].x1 == 14.5


def test_wrong_arguments_are_named(explorer: Explorer) -> None:
    with pytest.raises(ValueError, match="method: expected"):
        token_map(explorer.panels[0].selected.model, torch.zeros(1, 18, 512), "guess")
