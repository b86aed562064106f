"""Training of the student on a few toy people, with the smallest models."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from timm.layers import DropPath

from fervit_lib import distillation, training
from fervit_lib.datasets import draw_toy_people
from fervit_lib.distillation import (
    Augment,
    BoundedCache,
    FeatureTerm,
    LossWeights,
    TappedStudent,
    Targets,
)
from fervit_lib.distillation.compare import FEATURE_ARMS
from fervit_lib.distillation.losses import TERMS, feature_loss
from fervit_lib.distillation.metrics import SCORES
from fervit_lib.distillation.student import (
    Projector,
    check_encoder,
    copy_encoder,
    encoder_stages,
    frozen_groups,
    parameter_groups,
)
from fervit_lib.models import segmentation
from fervit_lib.models.segmentation import build_segmenter
from fervit_lib.system.checkpoints import load_checkpoint
from fervit_lib.system.runtime import seed_everything

CPU = torch.device("cpu")
ENCODER = "timm-efficientnet-b0"
STUDENT = {"encoder": "mobilenet_v2", "decoder": "slim", "weights": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy_people(tmp_path_factory.mktemp("people"), num_scenes=10, size=32)


@pytest.fixture(scope="module")
def detector(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dls = make_dls(folder)
    return distillation.train_toy_detector(
        dls, tmp_path_factory.mktemp("detector"), epochs=1, seed=0, settings={}
    )


def build_arms(weights: LossWeights) -> list[distillation.compare.Ablation]:
    arms = ("outputs_features", "shuffled_features")
    return distillation.build_ablations(weights, FeatureTerm(), arms)


def make_dls(folder: Path, views: int = 2) -> DataLoaders:
    return distillation.people_dls(
        folder, size=32, batch_size=3, device=CPU, augment=Augment(views=views)
    )


def make_targets(detector: Path, cache: BoundedCache | None = None) -> Targets:
    torch.manual_seed(1)
    source = distillation.OnnxFeatures(detector, distillation.TOY_TENSOR, CPU)
    return Targets(build_segmenter("resnet18", "slim"), source, cache=cache)


def fit(
    folder: Path,
    run: Path,
    targets: Targets,
    *,
    term: FeatureTerm = FeatureTerm(),  # noqa: B008  (frozen)
    epochs: int = 1,
    encoder: str = "mobilenet_v2",
    grad_clip: float = 1.0,
    state: Path | None = None,
    cbs: tuple[Callback, ...] = (),
    dls: DataLoaders | None = None,
    **options: Any,
) -> Any:
    seed_everything(0)
    student = build_segmenter(encoder, "slim")
    model = distillation.build_tapped_student(student, targets.source, term, 32)
    learn = distillation.build_distiller(
        model,
        dls or make_dls(folder),
        targets,
        LossWeights(),
        folder=run,
        optim=training.OptimConfig(grad_clip=grad_clip, precision="float32"),
        cbs=cbs,
        **options,
    )
    full = training.STRATEGIES["full"]
    training.fit(learn, full, epochs=epochs, lr=1e-3, schedule="cosine", state=state)
    return learn


class Interrupt(Callback):
    order = 95

    def after_epoch(self) -> None:
        raise KeyboardInterrupt


def test_the_feature_term_changes_the_student_unless_its_encoder_is_frozen(
    detector: Path,
) -> None:
    source = distillation.OnnxFeatures(detector, distillation.TOY_TENSOR, CPU)
    for tap, changes in (("decoder", True), ("encoder", True), ("encoder_frozen", False)):
        term = FeatureTerm(tap, width=24)
        model = distillation.build_tapped_student(build_segmenter(ENCODER), source, term, 32)
        [projector] = model.projector.projectors
        assert projector[1].in_channels == (128 if tap == "decoder" else 40)
        assert projector[1].out_channels == 24
        assert projector[4].out_channels == 64
        norm = distillation.feature_gradient_norm(model, source, torch.randn(2, 3, 32, 32))
        assert (norm > 0) == changes, tap


def test_a_frozen_encoder_and_the_teacher_are_bit_identical_after_an_epoch(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    seed_everything(0)
    before = copy.deepcopy(build_segmenter(ENCODER, "slim").state_dict())
    targets = make_targets(detector)
    teacher = copy.deepcopy(targets.teacher.state_dict())
    learn = fit(folder, tmp_path, targets, term=FeatureTerm("encoder_frozen"), encoder=ENCODER)
    after = learn.model.student.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith("encoder.")]
    assert [name for name in changed if name.startswith("decoder.")]
    teacher_after = targets.teacher.state_dict()
    assert all(torch.equal(value, teacher_after[name]) for name, value in teacher.items())
    in_optimiser = {id(p) for group in learn.opt.param_lists for p in group}
    assert not in_optimiser & {id(p) for p in targets.teacher.parameters()}


def test_each_epoch_logs_its_scores_and_clips_gradients(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    temperatures: list[float] = []
    norms: list[float] = []
    num_rows: list[int] = []

    class Watch(Callback):
        order = 80

        def before_train(self) -> None:
            temperatures.append(self.learn.loss_func.temperature)

        def after_epoch(self) -> None:
            num_rows.append(len(pd.read_csv(tmp_path / "metrics.csv")))

        def before_step(self) -> None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norms.append(torch.stack([g.norm() for g in gradients]).norm().item())

    fit(folder, tmp_path, make_targets(detector), epochs=3, grad_clip=0.1, cbs=(Watch(),))
    assert temperatures == pytest.approx([3, 2, 1])
    assert num_rows == [1, 2, 3]  # during the training, not at its end
    assert max(norms) <= 0.1 + 1e-5
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert list(rows["epoch"]) == [0, 1, 2]
    terms = [f"{name}_term" for name in TERMS]
    columns = [*SCORES, *terms, "train_loss", "valid_loss", "seconds"]
    assert rows[columns].notna().all(axis=None)
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize(("tap", "expected"), [("encoder_frozen", False), ("encoder", True)])
def test_drop_path_is_off_in_a_frozen_encoder(
    folder: Path, detector: Path, tmp_path: Path, tap: str, expected: bool
) -> None:
    active: set[bool] = set()

    class Watch(Callback):
        order = 80

        def before_batch(self) -> None:
            if self.training:
                modules = self.model.student.encoder.modules()
                active.update(m.training for m in modules if isinstance(m, DropPath))

    targets = make_targets(detector)
    fit(folder, tmp_path, targets, term=FeatureTerm(tap), encoder=ENCODER, cbs=(Watch(),))
    assert active == {expected}


def test_the_cache_changes_no_curve(folder: Path, detector: Path, tmp_path: Path) -> None:
    cache = BoundedCache(1e8)
    curves = []
    for name, used in (("off", None), ("on", cache)):
        dls = make_dls(folder, views=1)
        fit(folder, tmp_path / name, make_targets(detector, used), epochs=3, dls=dls)
        metrics = pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="seconds")
        curves.append(torch.tensor(metrics.to_numpy()))
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-5)
    assert 0 < cache.bytes <= 1e8


def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 2, "encoder_training": "progressive"}
    whole = fit(folder, tmp_path / "whole", make_targets(detector), **options)
    options["state"] = tmp_path / "last.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path / "parts", make_targets(detector), cbs=(Interrupt(),), **options)
    parts = fit(folder, tmp_path / "parts", make_targets(detector), **options)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_progressive_training_unfreezes_towards_the_image_and_keeps_the_optimisers_state(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    frozen = [frozen_groups("progressive", "decoder", 6, epoch / 12) for epoch in range(7)]
    assert frozen == [5, 4, 3, 2, 1, 0, 0]
    num_trained: list[int] = []
    steps: list[int] = []

    class Watch(Callback):
        order = 62

        def before_epoch(self) -> None:
            *encoder, rest = self.opt.param_lists
            assert all(p.requires_grad for p in rest)
            num_trained.append(sum(p.requires_grad for group in encoder for p in group))
            state = self.opt.opt.state[rest[0]]
            steps.append(int(state["step"]) if state else 0)

    options = {"encoder": ENCODER, "encoder_training": "progressive"}
    learn = fit(folder, tmp_path, make_targets(detector), epochs=4, cbs=(Watch(),), **options)
    assert num_trained[0] == 0 < num_trained[1] < num_trained[2] == num_trained[3]
    assert steps == [0, 2, 4, 6]
    last = {id(p) for p in parameter_groups(learn.model)[-1]}
    assert {id(p) for p in learn.model.student.segmentation_head.parameters()} <= last
    assert {id(p) for p in learn.model.projector.parameters()} <= last


@pytest.mark.parametrize("tap", ["decoder", "encoder"])
@pytest.mark.parametrize("arm", FEATURE_ARMS)
def test_every_way_to_compare_features_trains_its_projectors(
    detector: Path, arm: str, tap: str
) -> None:
    source = distillation.OnnxFeatures(detector, distillation.TOY_TENSOR, CPU)
    term = replace(FeatureTerm(tap), **FEATURE_ARMS[arm])
    student = build_segmenter(ENCODER)
    model = distillation.build_tapped_student(student, source, term, 32)
    images = torch.randn(2, 3, 32, 32)
    logits, projected = model(images)
    assert logits.shape == (2, 1, 32, 32)
    num_maps = 1 if term.mixture else len(term.stages)
    # The batch is first: ranks gather predictions along it.
    assert projected.shape == (2, num_maps, *source(images).shape[1:])
    feature_loss(projected, source(images), term).backward()
    assert len(model.projector.projectors) == len(term.stages)
    trained = list(model.projector.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    grouped = {id(p) for group in parameter_groups(model) for p in group}
    assert grouped == {id(p) for p in model.parameters()}
    assert not [name for name in student.state_dict() if "project" in name]


def test_a_mixture_is_the_mean_of_its_stages_at_first_and_learns_which_one_fits() -> None:
    torch.manual_seed(0)
    term = FeatureTerm(stages=(4, 3, 2), mixture=True, width=16)
    mixed = Projector([4, 4, 4], (5, 4, 4), term).eval()
    each = Projector([4, 4, 4], (5, 4, 4), replace(term, mixture=False)).eval()
    each.load_state_dict({k: v for k, v in mixed.state_dict().items() if k != "mixture"})
    maps = [torch.randn(2, 4, side, side) for side in (2, 4, 8)]
    projected = each(maps)
    assert projected.shape == (2, 3, 5, 4, 4)
    torch.testing.assert_close(mixed(maps)[:, 0], projected.mean(1))
    optimiser = torch.optim.Adam([mixed.mixture], 0.1)
    for _ in range(50):  # towards the last stage alone
        optimiser.zero_grad()
        feature_loss(mixed(maps), projected[:, 2].detach(), term).backward()
        optimiser.step()
        assert mixed.mixture.softmax(0).sum().item() == pytest.approx(1)
    assert mixed.mixture.argmax() == 2


def test_arms_are_named_once_and_change_the_term_alone() -> None:
    arms = ("outputs_features", "mixture", "mixture")
    ablations = distillation.build_ablations(LossWeights(), FeatureTerm("encoder"), arms)
    assert [a.name for a in ablations] == ["none", "outputs", "outputs_features", "mixture"]
    assert {a.term.tap for a in ablations} == {"encoder"}
    assert [a.term.mixture for a in ablations] == [False, False, False, True]
    with pytest.raises(ValueError, match="^feature_arms: expected one of .*'mixed'"):
        distillation.build_ablations(LossWeights(), FeatureTerm(), ["mixed"])


def test_every_parameter_is_in_one_group_and_the_first_stage_is_next_to_the_image() -> None:
    model = TappedStudent(build_segmenter(ENCODER), FeatureTerm("encoder"))
    groups = parameter_groups(model)
    assert len(groups) == 6
    grouped = sorted(id(p) for group in groups for p in group)
    assert grouped == sorted(id(p) for p in model.parameters())
    assert encoder_stages(model.student)[0][0] is model.student.encoder.conv_stem.weight


def test_a_nan_loss_names_the_batch_and_its_images_and_keeps_the_last_checkpoint(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    state = tmp_path / "last.safetensors"

    class Spoil(Callback):
        def before_batch(self) -> None:
            if self.training and self.epoch == 1:
                self.learn.xb = (self.x * torch.nan,)

    with pytest.raises(ValueError, match=r"inf in epoch 1, batch 0.*images: 0\d+\.png"):
        fit(folder, tmp_path, make_targets(detector), epochs=2, state=state, cbs=(Spoil(),))
    tensors, metadata = load_checkpoint(state)
    assert metadata["epoch"] == 0
    assert all(value.isfinite().all() for value in tensors.values())


def test_a_comparison_fits_evaluates_and_keeps_the_student_alone(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    targets = make_targets(detector, BoundedCache(1e8))
    dls = make_dls(folder)
    rows = [
        distillation.fit_student(
            ablation,
            0,
            dls,
            targets,
            tmp_path / f"{ablation.name}-seed0",
            student=STUDENT,
            epochs=1,
            lr=1e-3,
            settings={},
        )
        for ablation in build_arms(LossWeights())[2:]
    ]
    shipped = segmentation.load_student(tmp_path / rows[0]["checkpoint"])
    assert not [name for name in shipped.state_dict() if "projector" in name]
    assert (tmp_path / "outputs_features-seed0" / "pictures" / "epoch-001.png").is_file()
    counts = distillation.evaluate_students(rows, tmp_path, dls.test, targets)
    table, pairs = distillation.interval_table(counts)
    assert list(table["arm"]) == ["outputs_features", "shuffled_features"]
    assert list(pairs["what"]) == ["outputs_features - shuffled_features"]
    assert set(distillation.load_curves(rows, tmp_path)["arm"]) == set(table["arm"])


def test_a_student_starts_from_the_encoder_of_a_teacher_with_the_same_one(
    folder: Path, tmp_path: Path
) -> None:
    teacher = build_segmenter("mobilenet_v2").eval()
    student = build_segmenter("mobilenet_v2", "slim").eval()
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(student.encoder(images)[-1], teacher.encoder(images)[-1])
    copy_encoder(student, teacher)
    with pytest.raises(ValueError, match="student_weights"):
        copy_encoder(student, None)
    assert torch.equal(student.encoder(images)[-1], teacher.encoder(images)[-1])
    fitting = {"epochs": 1, "lr": 1e-3, "settings": {}}
    other = STUDENT | {"encoder": "resnet18", "weights": "teacher"}
    [ablation] = build_arms(LossWeights(kl=0, mse=0, feature=0))
    with pytest.raises(ValueError, match="student_weights"):
        distillation.fit_student(
            ablation, 0, make_dls(folder), Targets(teacher), tmp_path, student=other, **fitting
        )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (LossWeights(), ["none", "outputs", "outputs_features", "shuffled_features"]),
        (LossWeights(feature=0), ["none", "outputs"]),
        (LossWeights(kl=0, mse=0), ["none", "outputs_features", "shuffled_features"]),
        (LossWeights(kl=0, mse=0, feature=0), ["none"]),
    ],
)
def test_terms_without_a_weight_are_not_compared(weights: LossWeights, expected: list[str]) -> None:
    assert [ablation.name for ablation in build_arms(weights)] == expected


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"temperature": (3.0, 1.0, "stairs")}, "temperature_schedule"),
    ],
)
def test_a_bad_setting_is_an_error_before_the_training(
    folder: Path, detector: Path, tmp_path: Path, bad: dict, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected one of"):
        fit(folder, tmp_path / "run", make_targets(detector), **bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("training", "tap"), [("frozen", "decoder"), ("full", "encoder_frozen")])
def test_an_encoder_of_random_weights_is_frozen_only_for_a_baseline(
    training: str, tap: str
) -> None:
    for allowed in ("random", "teacher", "imagenet", "pretrained_models/w.pt"):
        check_encoder(training, tap, allowed)
    for trained in ("full", "progressive"):
        check_encoder(trained, "encoder", "none")
    with pytest.raises(ValueError, match="^student_weights: .*'random'"):
        check_encoder(training, tap, "none")
    with pytest.raises(ValueError, match="encoder_training: expected one of"):
        check_encoder("half", "decoder", "none")


@pytest.mark.parametrize(
    ("weights", "name"),
    [(LossWeights(feature=0), "kl_weight"), (LossWeights(kl=0, mse=0), "feature_weight")],
)
def test_a_weight_needs_a_teacher_or_a_detector(
    folder: Path, tmp_path: Path, weights: LossWeights, name: str
) -> None:
    model = TappedStudent(build_segmenter("mobilenet_v2", "slim"))
    with pytest.raises(ValueError, match=name):
        distillation.build_distiller(
            model, make_dls(folder), Targets(None), weights, folder=tmp_path
        )


def test_features_cannot_be_shuffled_within_one_image(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    dls = distillation.people_dls(folder, size=32, batch_size=1, device=CPU)
    shuffled = build_arms(LossWeights())[-1]
    fitting = {"student": STUDENT, "epochs": 1, "lr": 1e-3, "settings": {}}
    with pytest.raises(ValueError, match="batch_size: expected at least 2"):
        distillation.fit_student(shuffled, 0, dls, make_targets(detector), tmp_path, **fitting)


def test_a_feature_map_of_another_size_is_an_error(detector: Path) -> None:
    source = distillation.OnnxFeatures(detector, "/0/bn/act/Relu_output_0", CPU)
    student = build_segmenter("mobilenet_v2", "slim")
    with pytest.raises(ValueError, match=r"tensor: expected .*\(4, 4\).*\(1, 16, 16, 16\)"):
        distillation.build_tapped_student(student, source, FeatureTerm(), 32)


def test_a_toy_teacher_is_trained_once_for_each_of_its_settings(
    folder: Path, tmp_path: Path
) -> None:
    def train(decoder: str = "slim", seed: int = 0) -> Path:
        unet = {"encoder": "mobilenet_v2", "decoder": decoder}
        images = {"folder": folder.name, "seed": 0}  # a seed of the images is not the teacher's
        return distillation.train_toy_teacher(
            make_dls(folder), tmp_path, unet, epochs=1, seed=seed, settings=images
        )

    first = train()
    written = first.stat().st_mtime_ns
    assert train() == first
    assert first.stat().st_mtime_ns == written
    assert len({first, train(seed=1), train("full")}) == 3
    segmentation.load_teacher(first, "mobilenet_v2", "slim")
