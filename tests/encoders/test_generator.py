"""StyleGAN2's generator against the paper's formulas, with narrow layers."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fervit_lib.encoders import load_generator
from fervit_lib.encoders.generator import Blur, Generator, ModulatedConv
from fervit_lib.encoders.style_encoder import num_styles

DIM = 16


def make_weights(output_size: int, dim: int = DIM) -> dict[str, Tensor]:
    """The names and shapes of a published checkpoint, without its `decoder.`."""
    generator = torch.Generator().manual_seed(output_size)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = kernel[:, None] * kernel[None] / 64 * 4
    weights = {"input.input": draw(1, dim, 4, 4)}
    for i in range(1, 9):
        weights |= {f"style.{i}.weight": 100 * draw(dim, dim), f"style.{i}.bias": draw(dim)}

    def modulated(name: str, before: int, after: int, size: int) -> None:
        weights[f"{name}.conv.weight"] = draw(1, after, before, size, size)
        weights[f"{name}.conv.modulation.weight"] = draw(before, dim)
        weights[f"{name}.conv.modulation.bias"] = draw(before)

    def styled(name: str, before: int, after: int) -> None:
        modulated(name, before, after, 3)
        weights[f"{name}.noise.weight"] = draw(1)
        weights[f"{name}.activate.bias"] = draw(after)

    def to_rgb(name: str, channels: int) -> None:
        modulated(name, channels, 3, 1)
        weights[f"{name}.bias"] = draw(1, 3, 1, 1)

    styled("conv1", dim, dim)
    to_rgb("to_rgb1", dim)
    weights["noises.noise_0"] = draw(1, 1, 4, 4)
    size, before = 8, dim
    for i in range(output_size.bit_length() - 3):
        after = min(dim, 64 * dim // size)
        styled(f"convs.{2 * i}", before, after)
        weights[f"convs.{2 * i}.conv.blur.kernel"] = kernel
        styled(f"convs.{2 * i + 1}", after, after)
        to_rgb(f"to_rgbs.{i}", after)
        weights[f"to_rgbs.{i}.upsample.kernel"] = kernel
        for number in (2 * i + 1, 2 * i + 2):
            weights[f"noises.noise_{number}"] = draw(1, 1, size, size)
        size, before = 2 * size, after
    return weights


def write_checkpoint(path: Path, output_size: int = 1024, **changes: Any) -> dict[str, Tensor]:
    weights = make_weights(output_size)
    state = {f"decoder.{name}": tensor for name, tensor in weights.items()}
    content = {
        "state_dict": state,
        "latent_avg": torch.ones(num_styles(output_size), DIM),
        "opts": Namespace(output_size=output_size),
    }
    torch.save(content | changes, path)
    return weights


def filter_twice(x: Tensor, kernel: Tensor, pad: tuple[int, int]) -> Tensor:
    """A zero after each value in both directions, then the filter: its 4x4 sums, one by one."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    return correlate(spread, kernel, pad)


def correlate(x: Tensor, kernel: Tensor, pad: tuple[int, int]) -> Tensor:
    x = F.pad(x, (*pad, *pad))
    height, width = x.shape[2] - 3, x.shape[3] - 3
    kernel = kernel.flip(0, 1)
    return sum(
        kernel[i, j] * x[:, :, i : i + height, j : j + width] for i in range(4) for j in range(4)
    )


def draw_by_formulas(weights: dict[str, Tensor], codes: Tensor) -> list[Tensor]:
    """One face, with modulated weights, in double precision; the picture of each resolution."""
    weights = {name: tensor.double() for name, tensor in weights.items()}
    codes = codes.double()

    def convolve(x: Tensor, name: str, code: Tensor, demodulate: bool) -> Tensor:
        weight = weights[f"{name}.conv.weight"][0]
        style = weights[f"{name}.conv.modulation.weight"] / codes.shape[-1] ** 0.5 @ code
        style = style + weights[f"{name}.conv.modulation.bias"]
        weight = weight / (weight.shape[1] * weight.shape[2] ** 2) ** 0.5
        weight = weight * style[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        kernel = weights.get(f"{name}.conv.blur.kernel")
        if kernel is None:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return correlate(x, kernel, (1, 1))

    def styled(x: Tensor, name: str, code: Tensor, noise: int) -> Tensor:
        x = convolve(x, name, code, demodulate=True)
        x = x + weights[f"{name}.noise.weight"] * weights[f"noises.noise_{noise}"]
        x = x + weights[f"{name}.activate.bias"][None, :, None, None]
        return torch.where(x > 0, x, 0.2 * x) * 2**0.5

    x = styled(weights["input.input"], "conv1", codes[0], 0)
    picture = convolve(x, "to_rgb1", codes[1], demodulate=False) + weights["to_rgb1.bias"]
    pictures = [picture]
    for i in range((len(codes) - 2) // 2):
        x = styled(x, f"convs.{2 * i}", codes[2 * i + 1], 2 * i + 1)
        x = styled(x, f"convs.{2 * i + 1}", codes[2 * i + 2], 2 * i + 2)
        added = convolve(x, f"to_rgbs.{i}", codes[2 * i + 3], demodulate=False)
        kernel = weights[f"to_rgbs.{i}.upsample.kernel"]
        picture = filter_twice(picture, kernel, (2, 1)) + added + weights[f"to_rgbs.{i}.bias"]
        pictures.append(picture)
    return pictures


@torch.inference_mode()
@pytest.mark.parametrize(("output_size", "styles"), [(256, 14), (512, 16), (1024, 18)])
def test_pictures_equal_the_formulas(tmp_path: Path, output_size: int, styles: int) -> None:
    weights = write_checkpoint(tmp_path / "psp.pt", output_size)
    generator = load_generator(tmp_path / "psp.pt")
    codes = torch.randn(2, styles, DIM)
    pictures = generator(codes)
    assert pictures.shape == (2, 3, output_size, output_size)
    for face in range(2):
        expected = draw_by_formulas(weights, codes[face])
        error = (pictures[face] - expected[-1][0]).norm() / expected[-1].norm()
        assert error < 1e-5
        for size in (4, 64, 256):
            small = generator(codes, size)[face]
            picture = next(p for p in expected if p.shape[-1] == size)[0]
            assert (small - picture).norm() < 1e-5 * picture.norm()
    changed = codes.clone()
    changed[:, -1] += 1  # the last layer of all is seen
    assert not torch.equal(generator.decode(changed), generator.decode(codes))
    assert generator.decode(codes).shape == (2, 3, 256, 256)
    assert torch.equal(generator.mean_code, torch.ones(styles, DIM))


def test_published_names_and_shapes() -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Generator(1024).state_dict().items()}
    assert shapes["convs.15.conv.weight"] == (1, 32, 32, 3, 3)  # 1024 pixels
    assert shapes["convs.8.conv.weight"] == (1, 256, 512, 3, 3)  # from 64 to 128 pixels
    assert shapes["to_rgbs.7.conv.weight"] == (1, 3, 32, 1, 1)
    small = {name: tensor.shape for name, tensor in make_weights(1024).items()}
    with torch.device("meta"):
        narrow = Generator(1024, DIM).state_dict()
    assert {name: tensor.shape for name, tensor in narrow.items()} == small
    assert shapes.keys() == small.keys()


@torch.inference_mode()
def test_demodulation_cancels_the_scale_of_a_style() -> None:
    conv = ModulatedConv(8, 4, 3, DIM)
    conv.modulation.bias.zero_()
    x, style = torch.randn(2, 8, 6, 6), torch.randn(2, DIM)
    torch.testing.assert_close(conv(x, 7 * style), conv(x, style), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(conv(x, 7 * style, demodulate=False), conv(x, style))


def test_a_filtered_constant_picture_stays_constant() -> None:
    doubled = Blur().double(torch.full((1, 3, 6, 6), 2.5))
    torch.testing.assert_close(doubled[..., 1:-1, 1:-1], torch.full((1, 3, 10, 10), 2.5))


def test_what_is_no_generator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "psp.pt"
    with pytest.raises(FileNotFoundError, match="psp.pt: no such checkpoint"):
        load_generator(path)
    write_checkpoint(path, state_dict={})
    with pytest.raises(ValueError, match="psp.pt: not a checkpoint with the generator"):
        load_generator(path)
    state = {f"decoder.{name}": tensor for name, tensor in make_weights(256).items()}
    options = Namespace(output_size=256)
    for change in ("drop", "add", "reshape", "size"):
        changed = dict(state)
        if change == "drop":
            del changed["decoder.convs.3.noise.weight"]
        elif change == "add":
            changed["decoder.convs.30.noise.weight"] = torch.zeros(1)
        elif change == "reshape":
            changed["decoder.to_rgb1.bias"] = torch.zeros(1, 4, 1, 1)
        size = Namespace(output_size=512) if change == "size" else options
        write_checkpoint(path, state_dict=changed, opts=size, latent_avg=torch.ones(14, DIM))
        with pytest.raises(ValueError, match="psp.pt: not a checkpoint with the generator"):
            load_generator(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="psp.pt"):
        load_generator(path)


def test_codes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="w_plus"):
        Generator(256, DIM)(torch.zeros(1, 18, DIM))
