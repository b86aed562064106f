"""Person segmentation: U-Nets by segmentation_models.pytorch, teacher and student, and their files."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU
from timm.layers.activations import Swish
from torch import Tensor, nn

from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.runtime import display_path, resolve

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # ImageNet's, of which the models take their input
DECODERS = {"full": (256, 128, 64, 32, 16), "slim": (128, 64, 32, 16, 8)}
TEACHER_ENCODER, STUDENT_ENCODER = "timm-efficientnet-b3", "timm-efficientnet-b0"
PUBLISHED_TEACHER = "pretrained_models/2020-09-23a.pth"
_PREFIX = "model."  # of every key in the teacher's file: it was saved from a module that wrapped it
STRIDE = 32  # sides have to be a multiple of it


class SubPixelBlock(nn.Module):
    """The last block of the slim decoder: (B, in, S/2, S/2) → (B, out, S, S).

    Its first convolution gives four pixels at each place (Shi et al. 2016, sub-pixel convolution), where the U-Net's
    reads an enlarged map: as many operations, but eight channels at every pixel cost a CPU the time of sixteen, the
    width of its registers, and these are 32 at a quarter of the places.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2dReLU(in_channels, 4 * out_channels, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.conv2 = Conv2dReLU(out_channels, out_channels, 3, padding=1)
        initialize_decoder(self)
        kernel = self.conv1[
            0
        ].weight.data  # the four pixels alike at first, else a grid shows (Aitken et al. 2017)
        kernel.copy_(kernel[::4].repeat_interleave(4, 0))

    def forward(
        self, maps: Tensor, height: int, width: int, skip_connection: None = None
    ) -> Tensor:
        """As a block of the library's decoder, which tells the size and has no encoder's map for the last one."""
        return self.conv2(self.shuffle(self.conv1(maps)))


def build_segmenter(
    encoder: str = STUDENT_ENCODER, decoder: str = "full", weights: str = "none"
) -> smp.Unet:
    """A U-Net: images (B, 3, S, S), ImageNet-normalised, S a multiple of 32 → logits (B, 1, S, S).

    Its weights lie channels last, and so does what it computes: convolutions are up to 1.4 times as fast so.

    Args:
        encoder: any encoder of segmentation_models.pytorch. Of EfficientNets take the `timm-` names: those of `tu-`
            have other shapes, and the published teacher does not load into them.
        decoder: one of `DECODERS`.
        weights: of the encoder: `none`, or `imagenet`, which the library downloads.

    Raises:
        ValueError: an unknown encoder, decoder or kind of weights, or weights that cannot be had.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    if weights not in ("none", "imagenet"):
        raise ValueError(f"weights: expected none or imagenet, got {weights!r}")
    if encoder not in smp.encoders.encoders and not timm.is_model(encoder.removeprefix("tu-")):
        raise ValueError(
            f"encoder: segmentation_models.pytorch has no {encoder!r}; take {STUDENT_ENCODER}, {TEACHER_ENCODER} or "
            f"another of smp.encoders.get_encoder_names()"
        )
    given = None if weights == "none" else weights
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # `timm-` is deprecated, and the published teacher needs it
            model = smp.Unet(
                encoder, encoder_weights=given, decoder_channels=DECODERS[decoder], classes=1
            )
    except Exception as error:  # of a hub that cannot be reached there are many
        if given is None:
            raise
        raise ValueError(
            f"weights: no {weights} weights for {encoder} ({error}); connect to the network, or say none"
        ) from error
    if decoder == "slim":
        model.decoder.blocks[-1] = SubPixelBlock(*DECODERS[decoder][-2:])
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(
                child, Swish
            ):  # the same function, in more passes over memory than torch's
                setattr(parent, name, nn.SiLU(inplace=True))
    return model.to(memory_format=torch.channels_last)


def load_teacher(
    path: str | Path = PUBLISHED_TEACHER, encoder: str = TEACHER_ENCODER, decoder: str = "full"
) -> nn.Module:
    """The teacher from the file it is published as: frozen, in eval mode.

    The file is a dict with `state_dict`, whose keys begin with `model.`; the rest of a key, and every key, must fit.

    Raises:
        FileNotFoundError: no file there, with where to place it.
        ValueError: it is no such file, or its weights are of another model.
    """
    path = resolve(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{display_path(path)}: no weights of the teacher there; place the published U-Net with {encoder} "
            f"(a .pth with `state_dict`) there, or name another file as `teacher`"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix(_PREFIX): value for name, value in content["state_dict"].items()}
    except Exception as error:  # a broken pickle raises nearly anything
        raise ValueError(
            f"{display_path(path)}: expected a dict with `state_dict`, and cannot read one ({error}); download it again"
        ) from error
    model = build_segmenter(encoder, decoder)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        found = " ".join(str(error).split())[:400]
        raise ValueError(
            f"{display_path(path)}: not the weights of a U-Net with {encoder} ({found}); name the encoder that it was "
            f"trained with"
        ) from error
    return freeze(model)


def save_teacher(path: Path, model: nn.Module) -> None:
    """Write `model` in the form of the published teacher. Written beside and renamed by the caller's `atomic_write`."""
    buffer = io.BytesIO()  # torch has no words of its own for a full disk
    torch.save(
        {"state_dict": {f"{_PREFIX}{name}": value for name, value in model.state_dict().items()}},
        buffer,
    )
    path.write_bytes(buffer.getbuffer())


def freeze(model: nn.Module) -> nn.Module:
    """`model` in eval mode, without a trainable parameter."""
    return model.eval().requires_grad_(False)


def save_student(path: Path, student: nn.Module, options: Mapping[str, Any]) -> None:
    """The student alone as safetensors; `options` are the keywords of `build_segmenter`."""
    save_checkpoint(
        path,
        student.state_dict(),
        {"kind": "segmenter", "options": dict(options) | {"weights": "none"}},
    )


def load_student(path: Path) -> nn.Module:
    """The student of a checkpoint, in eval mode. Raises ValueError if it is another kind of checkpoint."""
    tensors, metadata = load_checkpoint(path)
    if metadata.get("kind") != "segmenter":
        raise ValueError(
            f"{path}: expected a person segmenter, got a checkpoint of kind {metadata.get('kind')!r}; name "
            f"one that 03_distill wrote"
        )
    with explain_read_error(path, "not the weights of this segmenter", "run 03_distill again"):
        student = build_segmenter(
            **metadata["options"] | {"weights": "none"}
        )  # all weights are in the checkpoint
        student.load_state_dict(tensors)
        return student.eval()


def normalise(images: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 → float32 as the models take it."""
    mean, std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD)
    )
    return (images.float() / 255 - mean) / std


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, as float32 in [0, 1]."""
    mean, std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD)
    )
    return (images.float() * std + mean).clamp(0, 1)
