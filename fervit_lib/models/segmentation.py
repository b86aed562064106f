"""Person segmentation: U-Nets of segmentation_models.pytorch, teacher and student."""

import re
import warnings
from pathlib import Path

import timm
import torch
from timm.layers.activations import Swish
from torch import Tensor, nn

from fervit_lib.models.pretrained import create_timm, find_weights, read_weights
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint, save_pickled
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import display_path, resolve

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which the encoders were trained with
STD = (0.229, 0.224, 0.225)
DECODERS = {"full": (256, 128, 64, 32, 16), "slim": (128, 64, 32, 16, 8)}
TEACHER_ENCODER = "timm-efficientnet-b3"
STUDENT_ENCODER = "timm-efficientnet-b0"
PUBLISHED_TEACHER = "pretrained_models/2020-09-23a.pth"
# No weights are loaded for these: `random` allows to freeze the encoder, for a baseline, and
# `distillation.fit_student` copies those of the teacher's encoder.
RANDOM_STARTS = ("none", "random", "teacher")
STRIDE = 32  # height and width of inputs have to be multiples of it


class SubPixelBlock(nn.Module):
    """The last block of the slim decoder: (B, in, S/2, S/2) → (B, out, S, S).

    Its first convolution computes four pixels per position of the small map (Shi et al. 2016,
    sub-pixel convolution), where the U-Net's block convolves an enlarged map. The operations are as
    many, but on a CPU eight channels per pixel take as long as sixteen (the width of its
    registers); here they are 32 at a quarter of the positions.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        from segmentation_models_pytorch.base.initialization import initialize_decoder
        from segmentation_models_pytorch.base.modules import Conv2dReLU

        super().__init__()
        self.conv1 = Conv2dReLU(in_channels, 4 * out_channels, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.conv2 = Conv2dReLU(out_channels, out_channels, 3, padding=1)
        initialize_decoder(self)
        # The four pixels start equal, or a grid would show (Aitken et al. 2017).
        kernel = self.conv1[0].weight.data
        kernel.copy_(kernel[::4].repeat_interleave(4, 0))

    def forward(
        self, maps: Tensor, height: int, width: int, skip_connection: None = None
    ) -> Tensor:
        """Signature of the library's decoder blocks; the last one has no skip connection."""
        return self.conv2(self.shuffle(self.conv1(maps)))


def build_segmenter(
    encoder: str = STUDENT_ENCODER, decoder: str = "full", weights: str = "none"
) -> nn.Module:
    """A U-Net: images (B, 3, S, S), ImageNet-normalised, S a multiple of 32 → logits (B, 1, S, S).

    Its weights are channels-last, which makes convolutions up to 1.4 times as fast.

    Args:
        encoder: any encoder of segmentation_models.pytorch. For EfficientNets use the `timm-`
            names: `tu-` encoders have other shapes, and the published teacher does not load into
            them.
        decoder: one of `DECODERS`.
        weights: of the encoder: one of `RANDOM_STARTS`; `imagenet`, from
            `pretrained_models/<encoder>.safetensors` (without `tu-`) if that exists, else
            downloaded by the library; or the path of such a file, see `_load_encoder`.

    Raises:
        ValueError: an unknown encoder, decoder or kind of weights, or the weights cannot be loaded.
    """
    import segmentation_models_pytorch as smp

    check_choice("decoder", decoder, DECODERS)
    # The library would fetch an encoder like `tu-hf-hub:a/b`, which a checkpoint from elsewhere may
    # name.
    if encoder not in smp.encoders.encoders and not timm.is_model(encoder.removeprefix("tu-")):
        raise ValueError(
            f"encoder: segmentation_models.pytorch has no {encoder!r}; choose {STUDENT_ENCODER}, "
            f"{TEACHER_ENCODER} or another of smp.encoders.get_encoder_names()"
        )
    file = None
    if weights not in RANDOM_STARTS:
        name = encoder.removeprefix("tu-")
        file = find_weights("student_weights", name, weights, RANDOM_STARTS)
    problem = f"cannot build {encoder} with weights={weights!r}"
    with (
        # A hub that cannot be reached raises many types.
        explain_read_error("student_weights", problem, "connect to the network, or give a file"),
        # The library calls `timm-` encoders deprecated, but the published teacher needs them.
        warnings.catch_warnings(action="ignore"),
    ):
        model = smp.Unet(
            encoder,
            encoder_weights=None if file or weights in RANDOM_STARTS else weights,
            decoder_channels=DECODERS[decoder],
            classes=1,
        )
    if file:
        with explain_read_error(
            file, f"not the weights of {encoder}", "give those of this encoder"
        ):
            _load_encoder(model.encoder, file)
    if decoder == "slim":
        model.decoder.blocks[-1] = SubPixelBlock(*DECODERS[decoder][-2:])
    _replace_swish(model)
    return model.to(memory_format=torch.channels_last)


def _load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load weights as published by torchvision, timm or the library, whatever their classifier.

    Only what comes after the encoder may be missing, or be there as well.
    """
    if hasattr(encoder, "model"):  # one of timm's, which names `stages.0` as `model.stages_0`
        published = create_timm(encoder.name, str(file)).state_dict()
        by_name = {name.replace(".", "_"): value for name, value in published.items()}
        weights = {
            name: by_name[re.sub(r"^(model\.)+", "", name).replace(".", "_")]
            for name in encoder.state_dict()
        }
    else:
        weights = read_weights(file, encoder.state_dict())
    encoder.load_state_dict(weights)


def _replace_swish(model: nn.Module) -> None:
    """Use torch's SiLU: the same function as timm's Swish, in fewer passes over memory."""
    for name, child in model.named_children():
        if isinstance(child, Swish):
            setattr(model, name, nn.SiLU(inplace=True))
        else:
            _replace_swish(child)


def load_teacher(
    path: str | Path = PUBLISHED_TEACHER, encoder: str = TEACHER_ENCODER, decoder: str = "full"
) -> nn.Module:
    """Load the published teacher, frozen and in eval mode.

    The file is a dict with `state_dict`, whose keys start with `model.`; without it, or whatever
    else `read_weights` takes off, they have to match exactly.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else, or holds the weights of another model.
    """
    path = resolve(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{display_path(path)}: no weights of the teacher; put the published U-Net with "
            f"{encoder} (a .pth with `state_dict`) there, or give another file as `teacher`"
        )
    model = build_segmenter(encoder, decoder)
    problem = f"expected a dict whose `state_dict` has the weights of a U-Net with {encoder}"
    with explain_read_error(path, problem, "download it again, or give its encoder"):
        model.load_state_dict(read_weights(path, model.state_dict()))
    return freeze(model)


def save_teacher(path: Path, model: nn.Module) -> None:
    """Write `model` in the format of the published teacher, which a wrapping module saved."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_pickled(path, {"state_dict": state})


def freeze(model: nn.Module) -> nn.Module:
    """`model` in eval mode, without trainable parameters."""
    return model.eval().requires_grad_(False)


def save_student(path: Path, student: nn.Module, options: dict) -> None:
    """Write the student as safetensors; `options` are the keywords of `build_segmenter`."""
    metadata = {"kind": "segmenter", "options": dict(options)}
    save_checkpoint(path, student.state_dict(), metadata)


def load_student(path: Path) -> nn.Module:
    """Load the student of a checkpoint, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of checkpoint, or it does not match the model.
    """
    tensors, metadata = load_checkpoint(path)
    if metadata.get("kind") != "segmenter":
        raise ValueError(
            f"{path}: expected a person segmenter, got a checkpoint of kind "
            f"{metadata.get('kind')!r}; give one that 03_distill wrote"
        )
    with explain_read_error(path, "not the weights of this segmenter", "run 03_distill again"):
        options = metadata["options"] | {"weights": "none"}  # all of them are in the checkpoint
        student = build_segmenter(**options)
        student.load_state_dict(tensors)
    return student.eval()


def normalise(images: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 → float32, normalised by ImageNet's mean and standard deviation."""
    return (images.float() / 255 - _per_channel(MEAN, images)) / _per_channel(STD, images)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, float32 in [0, 1]."""
    return (images.float() * _per_channel(STD, images) + _per_channel(MEAN, images)).clamp(0, 1)


def _per_channel(values: tuple[float, ...], images: Tensor) -> Tensor:
    return torch.tensor(values).to(images.device, non_blocking=True).view(1, 3, 1, 1)
