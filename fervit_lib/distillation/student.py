"""The student while it learns: with a tap for features, and a projector that does not ship."""

import torch
from torch import Tensor, nn

from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.losses import feature_loss

TAPS = ("decoder", "encoder", "encoder_frozen")
ENCODER_TRAINING = ("full", "progressive", "frozen")
HIDDEN = 768
_ENCODER_INDEX, _DECODER_BLOCK = 3, 1  # both at an eighth of the image's side


class Projector(nn.Sequential):
    """The student's features to the detector's: (B, in, h, w) → (B, out, h, w), pixel by pixel."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int = HIDDEN) -> None:
        super().__init__(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 1),
        )


class TappedStudent(nn.Module):
    """Images (B, 3, S, S) → logits (B, 1, S, S) and projected features (B, C, h, w), or None without a projector.

    Args:
        student: a U-Net; it is what ships.
        tap: where features are read: `decoder`, behind its block 1; `encoder`, stage 3; `encoder_frozen`, the same
            place in an encoder that does not train: the published baseline, whose feature term cannot move the student.
    """

    def __init__(
        self, student: nn.Module, tap: str = "decoder", projector: nn.Module | None = None
    ) -> None:
        super().__init__()
        if tap not in TAPS:
            raise ValueError(f"feature_tap: expected one of {', '.join(TAPS)}, got {tap!r}")
        self.student, self.tap, self.projector = student, tap, projector

    @property
    def num_groups(self) -> int:
        return len(parameter_groups(self))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.projector is None:
            return self.student(images), None
        logits, tapped = self.forward_tapped(images)
        return logits, self.projector(tapped)

    def forward_tapped(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the features at the tap (B, C, h, w)."""
        found: list[Tensor] = []
        if self.tap == "decoder":
            place, pick = self.student.decoder.blocks[_DECODER_BLOCK], lambda output: output
        else:
            place, pick = self.student.encoder, lambda output: output[_ENCODER_INDEX]
        handle = place.register_forward_hook(
            lambda module, inputs, output: found.append(pick(output))
        )
        try:
            logits = self.student(images)
        finally:
            handle.remove()
        return logits, found[0]


def with_projector(
    student: nn.Module, source: OnnxFeatures, tap: str, image_size: int
) -> TappedStudent:
    """The student with a projector built from the real shapes on both sides.

    Raises:
        ValueError: the source's map has another height or width than the student's at the tap.
    """
    device = next(student.parameters()).device
    images = torch.zeros(1, 3, image_size, image_size, device=device)
    was_training, tapped_student = student.training, TappedStudent(student, tap)
    with torch.no_grad():
        ours = tapped_student.eval().forward_tapped(images)[1]
    student.train(was_training)
    theirs = source(images)
    if theirs.ndim != 4 or theirs.shape[2:] != ours.shape[2:]:
        raise ValueError(
            f"tensor: {source.tensor} is {_shape(theirs)}, expected a map of {ours.shape[2]}x{ours.shape[3]} as the "
            f"student's at tap {tap} ({_shape(ours)}); name a tensor at an eighth of the image's side"
        )
    tapped_student.projector = Projector(ours.shape[1], theirs.shape[1]).to(device)
    return tapped_student


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def encoder_stages(student: nn.Module) -> list[list[nn.Parameter]]:
    """The encoder's parameters in five stages from the image up; each halves the side of what it reads.

    A stage is what runs before its map is given out; encoders without such stages are one.
    """
    encoder = student.encoder
    order: dict[str, int] = {}
    depth = len(encoder.out_channels) - 1
    spans = getattr(encoder, "_stage_idxs", None) or getattr(encoder, "stage_idxs", None)
    for name, _ in encoder.named_parameters():
        head, *rest = name.split(".")
        if head == "blocks" and spans:
            number = int(rest[0])
            order[name] = 1 + sum(number >= edge for edge in spans)
        elif head.startswith("layer") and head[5:].isdigit():  # ResNets
            order[name] = int(head[5:])
        elif head in ("conv_head", "bn2"):
            order[name] = depth - 1
        else:
            order[name] = 0
    stages: list[list[nn.Parameter]] = [[] for _ in range(depth)]
    for name, parameter in encoder.named_parameters():
        stages[min(order[name], depth - 1)].append(parameter)
    return [stage for stage in stages if stage]


def parameter_groups(model: TappedStudent) -> list[list[nn.Parameter]]:
    """The encoder's stages from the image up, and last what always trains: decoder, head and projector."""
    student = model.student
    rest = [*student.decoder.parameters(), *student.segmentation_head.parameters()]
    return [
        *encoder_stages(student),
        rest + list(model.projector.parameters() if model.projector else []),
    ]


def frozen_groups(training: str, tap: str, num_groups: int, progress: float) -> int:
    """How many of the first parameter groups stand still at `progress` = epoch / epochs in [0, 1).

    Args:
        training: `full`: none; `frozen`: the whole encoder; `progressive`: the whole, then stage after stage from the
            decoder down over the first half of the fit.

    Tap `encoder` trains the stages it reads, and so the encoder; `encoder_frozen` holds the encoder still.
    """
    if training not in ENCODER_TRAINING:
        raise ValueError(
            f"encoder_training: expected one of {', '.join(ENCODER_TRAINING)}, got {training!r}"
        )
    if tap == "encoder_frozen" or (training == "frozen" and tap != "encoder"):
        return num_groups - 1
    if training == "progressive":
        return max(0, num_groups - 1 - int(2 * progress * num_groups))
    return 0


def feature_gradient(
    model: TappedStudent, source: OnnxFeatures, images: Tensor, frozen: int
) -> float:
    """Norm of the feature term's gradient over all weights that ship: 0 where that term cannot move the student.

    Args:
        images: (B, 3, S, S).
        frozen: how many of the first parameter groups stand still, see `frozen_groups`.
    """
    groups = parameter_groups(model)
    for number, group in enumerate(groups):
        for parameter in group:
            parameter.requires_grad_(number >= frozen)
    ours = [p for p in model.student.parameters() if p.requires_grad]
    was_training = model.training
    projected = model.eval()(images)[1]
    gradients = torch.autograd.grad(
        feature_loss(projected, source(images)), ours, allow_unused=True
    )
    model.train(was_training).requires_grad_(True)
    return float(sum(g.double().square().sum() for g in gradients if g is not None)) ** 0.5
