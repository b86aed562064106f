"""Images with the shapes of one face and the texture of another."""

import numpy as np
import pytest
import torch

from fervit_lib.explain import shape_and_texture, swap_effect


def faces(n: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(60, 190, (n, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [16, 48, 67])
def test_mixtures_are_images_of_the_same_faces(size: int) -> None:
    first, second = faces(4, size, 0), faces(4, size, 1)
    mixed = shape_and_texture(first, second, seed=3)
    for name, images in mixed.items():
        assert images.dtype == torch.uint8 and images.shape[:2] == (4, 3), name
        assert torch.equal(images, shape_and_texture(first, second, seed=3)[name]), name
    assert mixed["edges"].shape == first.shape == mixed["texture of the other"].shape


def test_the_phases_are_those_of_the_first_and_the_amplitudes_those_of_the_second() -> None:
    first, second = faces(2, 32, 0), faces(2, 32, 1)
    same = shape_and_texture(first, first)["texture of the other"]
    assert (same.int() - first.int()).abs().max() <= 1
    # Twice the contrast is another amplitude, not another shape.
    stronger = (128 + 0.5 * (first.float() - 128)).byte()
    mixed = shape_and_texture(stronger, first)["texture of the other"]
    assert (mixed.int() - first.int()).abs().float().mean() < 4
    other = shape_and_texture(first, second)["texture of the other"].float()
    assert torch.allclose(other.mean((2, 3)), second.float().mean((2, 3)), atol=2)


def test_shuffled_patches_are_the_same_pixels_in_another_order() -> None:
    first = faces(2, 32, 0)
    shuffled = shape_and_texture(first, first)["patches shuffled"]
    assert not torch.equal(shuffled, first)
    assert torch.equal(shuffled.flatten(2).sort(-1).values, first.flatten(2).sort(-1).values)
    assert torch.equal(
        shape_and_texture(first, first, seed=0)["patches shuffled"],
        shape_and_texture(first, first, seed=0)["patches shuffled"],
    )


def test_edges_are_where_the_brightness_changes() -> None:
    step = torch.full((1, 3, 32, 32), 50, dtype=torch.uint8)
    step[..., 16:] = 120
    edges = shape_and_texture(step, step)["edges"][0, 0]
    assert (
        (edges[:, 15:17] > 90).all() and (edges[:, :14] == 0).all() and (edges[:, 18:] == 0).all()
    )


def test_a_model_that_looks_at_the_mean_colour_follows_the_texture() -> None:
    dark, bright = faces(12, 32, 0) // 2, faces(12, 32, 1)

    def predict(images: torch.Tensor) -> np.ndarray:
        is_bright = images.float().mean((1, 2, 3)).numpy() > 90
        return np.stack([~is_bright, is_bright], axis=1).astype(float)

    mixed = shape_and_texture(dark, bright)
    effect = swap_effect(predict, dark, bright, mixed).set_index("mixture")
    assert effect.loc["texture of the other", "taken"] == 1
    assert effect.loc["patches shuffled", "kept"] == 1
    assert (effect["num_pairs"] == 12).all()
