"""Building, loading and input of the U-Nets."""

import warnings
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from fervit_lib.evaluation.efficiency import count_macs
from fervit_lib.models import segmentation
from fervit_lib.models.segmentation import build_segmenter, denormalise, normalise

ENCODER = segmentation.STUDENT_ENCODER


def test_segmenter_equals_the_librarys_unet() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        reference = smp.Unet(ENCODER, encoder_weights=None, classes=1)
    ours = build_segmenter(ENCODER)
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), reference.eval()(images), rtol=1e-4, atol=1e-5)
    gradients = []
    for model in (ours, reference):
        model(images).square().mean().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    assert sum(isinstance(module, nn.SiLU) for module in ours.modules()) == 49


def test_sub_pixel_block_can_equal_the_librarys_block() -> None:
    torch.manual_seed(0)
    reference = smp.Unet(
        "resnet18", encoder_weights=None, decoder_channels=segmentation.DECODERS["slim"]
    )
    reference = reference.decoder.blocks[-1].eval()
    ours = build_segmenter("resnet18", "slim").decoder.blocks[-1].eval()
    maps = torch.randn(2, 16, 12, 12)
    # The four pixels start equal.
    fresh = ours.shuffle(ours.conv1(maps))
    assert torch.equal(
        fresh[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2), fresh
    )
    # After nearest upsampling, rows 2i and 2i + 1 read the small map at i - 1, i, i and at i, i,
    # i + 1.
    places = torch.zeros(2, 3, 3)  # which of the two, where it reads, by which row of the kernel
    for parity, reads in enumerate([(0, 1, 1), (1, 1, 2)]):
        places[parity, reads, range(3)] = 1
    kernel = torch.einsum("aur,bvs,oirs->oabiuv", places, places, reference.conv1[0].weight)
    ours.conv1[0].weight.data = kernel.reshape(ours.conv1[0].weight.shape)
    ours.conv2.load_state_dict(reference.conv2.state_dict())
    torch.testing.assert_close(ours(maps, 24, 24), reference(maps, 24, 24))


def test_denormalise_is_the_inverse() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    images = normalise(pixels)
    torch.testing.assert_close(255 * denormalise(images), pixels.float(), rtol=0, atol=1e-3)
    assert images.min() < -1 < 1 < images.max()


def test_teacher_loads_strictly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = build_segmenter("resnet18", "slim")
    segmentation.save_teacher(tmp_path / "t.pth", teacher)
    saved = torch.load(tmp_path / "t.pth", weights_only=True)["state_dict"]
    assert all(name.startswith("model.") for name in saved)
    loaded = segmentation.load_teacher(tmp_path / "t.pth", "resnet18", "slim")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(images), teacher.eval()(images))

    saved.pop("model.segmentation_head.0.bias")
    torch.save({"state_dict": saved}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"less.pth: .*resnet18.*segmentation_head"):
        segmentation.load_teacher(tmp_path / "less.pth", "resnet18", "slim")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="bad.pth: .*`state_dict`"):
        segmentation.load_teacher(tmp_path / "bad.pth")
    with pytest.raises(FileNotFoundError, match="none.pth: "):
        segmentation.load_teacher(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet19"}, "encoder: "),
        ({"decoder": "wide"}, "decoder: "),
        ({"weights": "yours"}, "weights: "),
    ],
)
def test_unknown_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_segmenter(**options)


def test_macs_of_teacher_and_student() -> None:
    published = {
        (segmentation.TEACHER_ENCODER, "full"): 23.8,
        (ENCODER, "full"): 18.5,
        (ENCODER, "slim"): 7.7,
    }
    for (encoder, decoder), expected in published.items():
        images = torch.zeros(1, 3, 128, 128)
        macs = count_macs(build_segmenter(encoder, decoder).eval(), images) / 1e9 * (640 / 128) ** 2
        assert macs == pytest.approx(expected, rel=0.05)
