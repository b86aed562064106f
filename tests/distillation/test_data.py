from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.datasets import draw_toy_people
from fervit_lib.distillation import Augment, people_dls


def test_augmentation_is_the_same_for_image_and_mask_and_for_a_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = (
        torch.from_numpy((rng.random((8, 8)) > 0.5).astype(np.uint8))
        .repeat_interleave(4, 0)
        .repeat_interleave(4, 1)
    )
    image = (255 * mask)[None].repeat(3, 1, 1)
    augment = Augment(strength=0.0)
    for view in range(6):
        changed, found = augment.change(image, mask, 0, view)
        assert torch.equal(changed[0] == 255, found == 1)
    strong = Augment(strength=2.0)
    first, again, other = (strong.change(image, mask, 1, view) for view in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert set(first[1].unique().tolist()) <= {0, 1, 255}
    with pytest.raises(ValueError, match="augment: expected"):
        Augment(strength=9)
    folder = draw_toy_people(tmp_path / "toy", 10, 32)
    with pytest.raises(ValueError, match="image_size: expected a multiple of 32, got 40"):
        people_dls(folder, size=40, batch_size=2, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="batch_size: expected 1 to 6"):
        people_dls(folder, size=32, batch_size=7, device=torch.device("cpu"))
