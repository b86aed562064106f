"""The student during training: a tap for features, and a projector that is not exported."""

import re
from collections.abc import Sequence

import torch
from fastai.callback.hook import hook_outputs
from torch import Tensor, nn

from fervit_lib.distillation.features import OnnxFeatures
from fervit_lib.distillation.losses import FeatureTerm, feature_loss
from fervit_lib.system.names import check_choice

ENCODER_TRAINING = ("full", "progressive", "frozen")


class Projector(nn.Module):
    """1×1 convolutions from the student's channels to the detector's, for each tapped map.

    Maps [(B, C_i, h_i, w_i)] of T stages → (B, T, C, h, w), or (B, 1, C, h, w) for a mixture.

    Args:
        in_channels: C_i of each stage.
        size: C, h and w of the detector.

    Attributes:
        mixture: logits of the stages' weights; None: no mixture.
    """

    def __init__(self, in_channels: Sequence[int], size: Sequence[int], term: FeatureTerm) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size[1:]),
                nn.Conv2d(channels, term.width, 1, bias=False),
                nn.BatchNorm2d(term.width),
                nn.ReLU(inplace=True),
                nn.Conv2d(term.width, size[0], 1),
            )
            for channels in in_channels
        )
        self.mixture = nn.Parameter(torch.zeros(len(in_channels))) if term.mixture else None

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.projectors, maps, strict=True)
        projected = torch.stack([project(values) for project, values in pairs], 1)
        if self.mixture is None:
            return projected
        return torch.einsum("t,btchw->bchw", self.mixture.softmax(0), projected)[:, None]


class TappedStudent(nn.Module):
    """A student and a projector of its features.

    Images (B, 3, S, S) → logits (B, 1, S, S), and projected features, see `Projector`, or None.

    Args:
        student: a U-Net of segmentation_models.pytorch; only this part is exported.
        term: its `tap` says where features are read. `decoder`: the outputs of decoder blocks, of
            block 1 for stage 3. `encoder`: those of encoder stages. `encoder_frozen`: the same, in
            an encoder that is not trained: the published pipeline, whose feature term cannot change
            the student.
        projector: None: no features are read.
    """

    def __init__(
        self,
        student: nn.Module,
        term: FeatureTerm = FeatureTerm(),  # noqa: B008  (frozen)
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.term = term
        self.projector = projector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.projector is None:
            return self.student(images), None
        student = self.student
        at_decoder = self.term.tap == "decoder"
        blocks = [student.decoder.blocks[4 - stage] for stage in self.term.stages]
        with hook_outputs(blocks if at_decoder else [student.encoder], detach=False) as hooks:
            logits = student(images)
        # The encoder returns the list of all its stages' maps.
        maps = hooks.stored if at_decoder else [hooks.stored[0][s] for s in self.term.stages]
        return logits, self.projector(maps)


def build_tapped_student(
    student: nn.Module, source: OnnxFeatures, term: FeatureTerm, image_size: int
) -> TappedStudent:
    """Add a projector, built from the shapes that student and detector return for one image.

    Raises:
        ValueError: the detector's map has another height or width than the student's.
    """
    device = next(student.parameters()).device
    images = torch.zeros(1, 3, image_size, image_size, device=device)
    model = TappedStudent(student, term, nn.Identity()).eval()
    with torch.no_grad():
        maps = model(images)[1]
    features = source(images)
    size = maps[len(maps) // 2].shape[2:]
    if features.ndim != 4 or features.shape[2:] != size:
        raise ValueError(
            f"tensor: expected a map of the size {tuple(size)} of the student's at tap "
            f"{term.tap}, got {source.tensor} of shape {tuple(features.shape)}; name a tensor with "
            f"an eighth of the image's side"
        )
    channels = [values.shape[1] for values in maps]
    model.projector = Projector(channels, features.shape[1:], term).to(device)
    return model.train()


def copy_encoder(student: nn.Module, teacher: nn.Module | None) -> None:
    """Copy the weights of the teacher's encoder into the student's (Sanh et al. 2019, section 3).

    Raises:
        ValueError: they are different encoders, or there is no teacher.
    """
    if teacher is None:
        raise ValueError("student_weights: expected a teacher for 'teacher', got none; give one")
    try:
        student.encoder.load_state_dict(teacher.encoder.state_dict())
    except RuntimeError:
        raise ValueError(
            f"student_weights: teacher expected the same encoder in both, got {teacher.name} and "
            f"{student.name}; set student_encoder to the teacher's, or choose none"
        ) from None


def encoder_stages(student: nn.Module) -> list[list[nn.Parameter]]:
    """The encoder's parameters by stage, first those next to the image.

    Each stage halves the side of its input. An encoder whose parameter names show no stages is one
    stage. (smp's own `get_stages` only tells the last two.)
    """
    encoder = student.encoder
    stages: list[list[nn.Parameter]] = [[] for _ in encoder.out_channels[1:]]
    edges = getattr(encoder, "_stage_idxs", ())
    for name, parameter in encoder.named_parameters():
        stages[min(_stage_number(name, edges), len(stages) - 1)].append(parameter)
    return [stage for stage in stages if stage]


def _stage_number(name: str, edges: Sequence[int]) -> int:
    """The stage, from 0, of a parameter of an EfficientNet or a ResNet."""
    if block := re.match(r"blocks\.(\d+)", name):
        return 1 + sum(int(block[1]) >= edge for edge in edges)
    if layer := re.match(r"layer(\d+)", name):
        return int(layer[1])
    return len(edges) + 1 if name.startswith(("conv_head", "bn2")) else 0


def parameter_groups(model: TappedStudent) -> list[list[nn.Parameter]]:
    """The encoder's stages, and a last group that is always trained: decoder, head, projector."""
    modules = (model.student.decoder, model.student.segmentation_head, model.projector)
    trained = [p for module in modules if module is not None for p in module.parameters()]
    return [*encoder_stages(model.student), trained]


def frozen_groups(training: str, tap: str, num_groups: int, progress: float) -> int:
    """How many of the first parameter groups are frozen.

    Args:
        training: `full`: none. `frozen`: the whole encoder. `progressive`: first the whole
            encoder; its stages are unfrozen from the last to the first over the first half of the
            training.
        tap: `encoder` reads features of the encoder, which is then never `frozen`;
            `encoder_frozen` always freezes it.
        num_groups: as many as `parameter_groups` returns.
        progress: epoch / epochs, in [0, 1).
    """
    check_choice("encoder_training", training, ENCODER_TRAINING)
    if tap == "encoder_frozen" or (training == "frozen" and tap != "encoder"):
        return num_groups - 1
    if training == "progressive":
        return max(0, num_groups - 1 - int(2 * progress * num_groups))
    return 0


def check_encoder(training: str, tap: str, weights: str) -> None:
    """Check that an encoder that is never trained starts from weights.

    Args:
        weights: see `models.segmentation.build_segmenter`; random ones are frozen only for a
            baseline, `random`.

    Raises:
        ValueError: it does not; or no such `training`.
    """
    if frozen_groups(training, tap, 2, 0.9) and weights == "none":
        raise ValueError(
            f"student_weights: expected weights for encoder_training {training} with feature_tap "
            f"{tap}, which freezes the encoder, got 'none'; use imagenet, a file or teacher, or "
            f"student_weights='random' for a baseline with a random frozen encoder"
        )


def feature_gradient_norm(model: TappedStudent, source: OnnxFeatures, images: Tensor) -> float:
    """Norm of the feature term's gradient over the student's weights that its tap lets train.

    It is 0 where the feature term cannot change the student. `images` are (B, 3, S, S); the model
    is put into eval mode.
    """
    frozen = model.term.tap == "encoder_frozen"
    trained = [*(model.student.decoder if frozen else model.student).parameters()]
    loss = feature_loss(model.eval()(images)[1], source(images), model.term)
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return float(nn.utils.get_total_norm([g for g in gradients if g is not None]))
