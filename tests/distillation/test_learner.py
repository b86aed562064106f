"""The student's fit on a few toy people, with models as small as they come."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from timm.layers import DropPath

from fervit_lib import distillation
from fervit_lib.datasets import draw_toy_people
from fervit_lib.distillation import Augment, BoundedCache, LossWeights, TappedStudent, Targets
from fervit_lib.distillation.student import encoder_stages, frozen_groups, parameter_groups
from fervit_lib.models import segmentation
from fervit_lib.models.segmentation import build_segmenter
from fervit_lib.system.checkpoints import load_checkpoint
from fervit_lib.system.runtime import seed_everything

CPU = torch.device("cpu")
ENCODER = "timm-efficientnet-b0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy_people(tmp_path_factory.mktemp("people"), num_scenes=10, size=32)


@pytest.fixture(scope="module")
def detector(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dls = make_dls(folder)
    return distillation.make_toy_detector(
        dls, tmp_path_factory.mktemp("detector"), epochs=1, seed=0, settings={}
    )


def make_dls(folder: Path, views: int = 2) -> DataLoaders:
    return distillation.people_dls(
        folder, size=32, batch_size=3, device=CPU, augment=Augment(views=views)
    )


def make_targets(detector: Path, cache: BoundedCache | None = None) -> Targets:
    torch.manual_seed(1)
    source = distillation.OnnxFeatures(detector, distillation.TOY_TENSOR, CPU)
    return Targets(build_segmenter("resnet18", "slim"), source, cache=cache)


def fit(
    folder: Path, run: Path, targets: Targets, *, tap: str = "decoder", epochs: int = 1, encoder: str = "mobilenet_v2",
    state: Path | None = None, cbs: tuple[Callback, ...] = (), dls: DataLoaders | None = None, **options: Any,
) -> Any:  # fmt: skip
    seed_everything(0)
    student = build_segmenter(encoder, "slim")
    model = distillation.with_projector(student, targets.source, tap, 32)
    learn = distillation.build_distiller(
        model,
        dls or make_dls(folder),
        targets,
        LossWeights(),
        folder=run,
        precision="float32",
        cbs=cbs,
        **options,
    )
    distillation.fit_distiller(learn, epochs=epochs, lr=1e-3, state=state)
    return learn


class Die(Callback):
    order = 95

    def after_epoch(self) -> None:
        raise KeyboardInterrupt


def test_the_feature_loss_alone_moves_what_ships_unless_the_encoder_it_reads_is_frozen(
    detector: Path,
) -> None:
    source = distillation.OnnxFeatures(detector, distillation.TOY_TENSOR, CPU)
    for tap, moves in (("decoder", True), ("encoder", True), ("encoder_frozen", False)):
        model = distillation.with_projector(build_segmenter(ENCODER), source, tap, 32)
        assert model.projector[0].in_channels == (128 if tap == "decoder" else 40)
        assert model.projector[3].out_channels == 64
        frozen = frozen_groups("frozen", tap, model.num_groups, 0.0)
        norm = distillation.feature_gradient(model, source, torch.randn(2, 3, 32, 32), frozen)
        assert (norm > 0) == moves, tap


def test_a_frozen_encoder_is_bit_identical_after_an_epoch_and_the_rest_is_not(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    seed_everything(0)
    before = {
        name: value.clone() for name, value in build_segmenter(ENCODER, "slim").state_dict().items()
    }
    targets = make_targets(detector)
    teacher = {name: value.clone() for name, value in targets.teacher.state_dict().items()}
    learn = fit(folder, tmp_path, targets, tap="encoder_frozen", encoder=ENCODER)
    after = learn.model.student.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith("encoder.")]
    assert [name for name in changed if name.startswith("decoder.")]
    assert all(
        torch.equal(value, targets.teacher.state_dict()[name]) for name, value in teacher.items()
    )
    in_optimiser = {id(p) for group in learn.opt.param_lists for p in group}
    assert not in_optimiser & {id(p) for p in targets.teacher.parameters()}


def test_every_epoch_has_its_temperature_its_scores_and_gradients_within_the_bound(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    temperatures, norms, written = [], [], []

    class Watch(Callback):
        order = 80

        def before_train(self) -> None:
            temperatures.append(self.learn.loss_func.temperature)

        def after_epoch(self) -> None:
            written.append(len(pd.read_csv(tmp_path / "metrics.csv")))

        def before_step(self) -> None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norms.append(torch.stack([g.norm() for g in gradients]).norm().item())

    fit(folder, tmp_path, make_targets(detector), epochs=3, grad_clip=0.1, cbs=(Watch(),))
    assert temperatures == pytest.approx([3, 2, 1])
    assert written == [1, 2, 3]  # while it trains, not at the end
    assert max(norms) <= 0.1 + 1e-5
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert list(rows["epoch"]) == [0, 1, 2]
    scores = {"miou", "fg_iou", "fg_iou_per_image", "boundary_iou", "teacher_agreement"}
    terms = {f"{name}_term" for name in ("kl", "mse", "bce", "dice", "feature")}
    assert (
        rows[sorted(scores | terms | {"train_loss", "valid_loss", "seconds"})]
        .notna()
        .all(axis=None)
    )
    assert list((tmp_path / "tensorboard").iterdir())


def test_nothing_is_drawn_in_a_frozen_encoder_and_something_in_one_that_trains(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    class Count(Callback):
        order = 80

        def before_batch(self) -> None:
            if self.training:
                dropping = [
                    m for m in self.model.student.encoder.modules() if isinstance(m, DropPath)
                ]
                drawn.add(any(m.training for m in dropping))
                assert dropping

    for tap, expected in (("encoder_frozen", {False}), ("encoder", {True})):
        drawn: set[bool] = set()
        fit(
            folder, tmp_path / tap, make_targets(detector), tap=tap, encoder=ENCODER, cbs=(Count(),)
        )
        assert drawn == expected, tap


def test_the_cache_changes_no_curve_and_saves_the_work(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    cache = BoundedCache(1e8)
    curves = []
    for name, kept in (("off", None), ("on", cache)):
        fit(
            folder,
            tmp_path / name,
            make_targets(detector, kept),
            epochs=3,
            dls=make_dls(folder, views=1),
        )
        lines = (tmp_path / name / "metrics.csv").read_text().splitlines()
        curves.append([[float(v) for v in line.split(",")[:-1]] for line in lines[1:]])
    torch.testing.assert_close(
        torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-4, atol=1e-5
    )
    assert cache.hits > cache.misses > 0
    assert cache.bytes <= 1e8


def test_a_fit_that_was_killed_ends_as_one_that_was_not(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    whole = fit(
        folder, tmp_path / "whole", make_targets(detector), epochs=2, encoder_training="progressive"
    )
    state, options = tmp_path / "last.safetensors", {"epochs": 2, "encoder_training": "progressive"}
    with pytest.raises(KeyboardInterrupt):
        fit(
            folder, tmp_path / "parts", make_targets(detector), state=state, cbs=(Die(),), **options
        )
    parts = fit(folder, tmp_path / "parts", make_targets(detector), state=state, **options)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_unfreezing_goes_up_to_the_image_and_keeps_the_optimisers_state(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    assert [frozen_groups("progressive", "decoder", 6, e / 12) for e in range(7)] == [
        5,
        4,
        3,
        2,
        1,
        0,
        0,
    ]
    seen: list[tuple[int, int]] = []

    class Watch(Callback):
        order = 62

        def before_epoch(self) -> None:
            head = self.opt.param_lists[-1][0]
            steps = self.opt.opt.state[head]["step"].item() if head in self.opt.opt.state else 0
            training = sum(p.requires_grad for group in self.opt.param_lists[:-1] for p in group)
            assert all(p.requires_grad for p in self.opt.param_lists[-1])
            seen.append((training, int(steps)))

    learn = fit(
        folder, tmp_path, make_targets(detector), epochs=4, encoder=ENCODER, encoder_training="progressive",
        cbs=(Watch(),),
    )  # fmt: skip
    trained, steps = zip(*seen, strict=True)
    assert trained[0] == 0 < trained[1] < trained[2] == trained[3]
    assert steps == (0, 2, 4, 6)
    last = {id(p) for p in parameter_groups(learn.model)[-1]}
    assert {id(p) for p in learn.model.student.segmentation_head.parameters()} <= last
    assert {id(p) for p in learn.model.projector.parameters()} <= last


def test_every_parameter_is_in_one_group_and_stages_go_up_from_the_image() -> None:
    model = TappedStudent(build_segmenter(ENCODER), "encoder")
    groups = parameter_groups(model)
    assert len(groups) == 6
    assert sorted(id(p) for group in groups for p in group) == sorted(
        id(p) for p in model.parameters()
    )
    assert encoder_stages(model.student)[0][0] is model.student.encoder.conv_stem.weight


def test_a_loss_that_is_no_number_names_batch_and_images_and_keeps_the_last_checkpoint(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    state = tmp_path / "last.safetensors"

    class Spoil(Callback):
        def before_batch(self) -> None:
            if self.training and self.epoch == 1:
                self.learn.xb = (self.x * torch.nan,)

    with pytest.raises(ValueError, match=r"loss is nan in epoch 1, batch 0.*the images: 0\d+\.png"):
        fit(folder, tmp_path, make_targets(detector), epochs=2, state=state, cbs=(Spoil(),))
    tensors, metadata = load_checkpoint(state)
    assert metadata["epoch"] == 0
    assert all(value.isfinite().all() for value in tensors.values())


def test_an_arm_keeps_a_student_that_ships_alone(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    targets, dls, rows = make_targets(detector, BoundedCache(1e8)), make_dls(folder), []
    student = {"encoder": "mobilenet_v2", "decoder": "slim", "weights": "none"}
    for arm in distillation.make_arms(LossWeights())[2:]:
        rows.append(
            distillation.fit_arm(
                arm, 0, dls, targets, tmp_path / f"{arm.name}-seed0", student=student, tap="decoder", epochs=1, lr=1e-3,
                settings={},
            )
        )  # fmt: skip
    shipped = segmentation.load_student(tmp_path / rows[0]["checkpoint"])
    assert not [name for name in shipped.state_dict() if "projector" in name]
    assert (tmp_path / "outputs_features-seed0" / "pictures" / "epoch-001.png").is_file()
    counts = distillation.count_runs(rows, tmp_path, dls.test, targets)
    table, pairs = distillation.interval_table(counts, resamples=20)
    assert list(table["arm"]) == ["outputs_features", "shuffled_features"]
    assert "outputs features - shuffled features" in distillation.summary(table, pairs, toy=True)
    assert set(distillation.read_curves(rows, tmp_path)["arm"]) == set(table["arm"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder_training": "half"},
            "encoder_training: expected one of full, progressive, frozen, got 'half'",
        ),
        (
            {"temperature": (3.0, 1.0, "stairs")},
            "temperature_schedule: expected one of linear, cosine, exponential",
        ),
        (
            {"tap": "neck"},
            "feature_tap: expected one of decoder, encoder, encoder_frozen, got 'neck'",
        ),
    ],
)
def test_a_bad_setting_is_said_before_anything_trains(
    folder: Path, detector: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(folder, tmp_path / "run", make_targets(detector), **changes)
    assert not (tmp_path / "run").exists()


def test_a_weight_without_what_it_weighs_and_maps_that_do_not_fit_are_errors(
    folder: Path, detector: Path, tmp_path: Path
) -> None:
    model = TappedStudent(build_segmenter("mobilenet_v2", "slim"))
    for weights, word in (
        (LossWeights(feature=0), "teacher"),
        (LossWeights(kl=0, mse=0), "detector"),
    ):
        with pytest.raises(ValueError, match=f"without a {word}"):
            distillation.build_distiller(
                model, make_dls(folder), Targets(None), weights, folder=tmp_path
            )
    arm = distillation.make_arms(LossWeights(kl=0, mse=0))[2]
    student = {"encoder": "mobilenet_v2", "decoder": "slim", "weights": "none"}
    with pytest.raises(ValueError, match="feature_weight: expected 0 without a detector"):
        distillation.fit_arm(
            arm, 0, make_dls(folder), Targets(None), tmp_path, student=student, tap="decoder", epochs=1, lr=1e-3,
            settings={},
        )  # fmt: skip
    source = distillation.OnnxFeatures(detector, "/body/body.0/act/Relu_output_0", CPU)
    with pytest.raises(ValueError, match="is 1x16x16x16, expected a map of 4x4"):
        distillation.with_projector(model.student, source, "decoder", 32)
