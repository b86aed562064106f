"""A trained model teaches another one, on toy faces, with the smallest models."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import Tensor

from fervit_lib.datasets import draw_toy_faces, load_faces
from fervit_lib.evaluation.export import onnx_difference
from fervit_lib.explain import attention_maps
from fervit_lib.latents import (
    LatentStore,
    complete_store,
    shard_path,
    store_identity,
    write_shard,
)
from fervit_lib.models import ExpressionModel, create_model, load_model, save_model, write_onnx
from fervit_lib.system.checkpoints import load_checkpoint
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import (
    STRATEGIES,
    AugmentImages,
    LossConfig,
    OptimConfig,
    TeacherConfig,
    TeacherLoss,
    build_learner,
    face_dls,
    fit,
    head_penalties,
    load_teacher,
    parameter_groups,
    teacher_accuracy,
)

CNN = {"model_name": "resnet10t", "pretrained": "none", "image_size": 32}
CODES = {"embed_dim": 8, "depth": 2, "num_heads": 2}
TOKEN_VIT = CNN | {
    "model_name": "deit_tiny_distilled_patch16_224",
    "patch_size": 16,
    "num_blocks": 1,
    "token_head": True,
}
CPU = torch.device("cpu")
FLOAT32 = OptimConfig(precision="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    faces = draw_toy_faces(folder / "faces", 70, 32)
    sizes = {}
    for split in ("train", "val", "test"):
        part = load_faces(faces, split)
        sizes[split] = len(part)
        labels = np.array(part.labels)
        codes = torch.randn(7, 18, 512)[labels] + torch.randn(len(labels), 18, 512)
        file = shard_path(folder / "codes", split, 0)
        write_shard(file, codes, labels, list(part.paths), "hash")
    settings = {"classes": part.classes, "encoder": "autoencoder", "faces": faces}
    complete_store(folder / "codes", sizes, synthetic=True, **settings)
    return folder / "codes"


def build(approach: str) -> ExpressionModel:
    """A model with random weights; as a teacher in eval mode and frozen."""
    return create_model(approach, 7, **(CNN if approach == "image" else CODES))


def build_teacher(approach: str) -> ExpressionModel:
    return build(approach).eval().requires_grad_(False)


def dls_of(model: ExpressionModel, store: Path, **subset: object) -> DataLoaders:
    return face_dls(model, store, batch_size=7, device=CPU, **subset)


class Watch(Callback):
    """Notes inputs, targets and losses of the first training batch."""

    order = 30  # after `TeacherLoss`
    run_valid = False

    def before_batch(self) -> None:
        if not hasattr(self, "inputs"):
            self.inputs = self.x.clone()
            self.labels = self.y.clone()

    def after_loss(self) -> None:
        if not hasattr(self, "first"):
            self.predicted = self.pred.detach().clone()
            self.first = float(self.loss_grad.detach())


def train(
    model: ExpressionModel,
    dls: DataLoaders,
    folder: Path,
    callbacks: list[Callback],
    loss: LossConfig = LossConfig(),  # noqa: B008
    strategy: str = "full",
    epochs: int = 1,
) -> Watch:
    watch = Watch()
    groups = parameter_groups(model, STRATEGIES[strategy], freeze_stages=1)
    learn = build_learner(model, dls, groups, loss, FLOAT32, folder=folder, cbs=[*callbacks, watch])
    fit(learn, STRATEGIES[strategy], epochs=epochs, lr=1e-3)
    return watch


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    student, teacher = (logits.div(temperature).softmax(-1) for logits in (student, teacher))
    return temperature**2 * (teacher * (teacher / student).log()).sum(-1).mean()


@pytest.mark.parametrize("distil", ["soft", "hard"])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_the_loss_adds_what_the_teacher_says_of_the_batch_that_the_student_sees(
    store: Path, tmp_path: Path, distil: str, mixup: float
) -> None:
    teacher, student = build_teacher("image"), build("image")
    callbacks = [AugmentImages(), TeacherLoss(teacher, TeacherConfig(distil, 1.0, 2.0), "float32")]
    watch = train(student, dls_of(student, store), tmp_path, callbacks, LossConfig(mixup=mixup))
    expected = teacher(watch.inputs)
    if distil == "soft":
        loss = kl(watch.predicted, expected, 2.0)
    else:
        loss = F.cross_entropy(watch.predicted, expected.argmax(-1))
    assert watch.first == pytest.approx(float(loss), rel=1e-3)


def test_the_labels_keep_their_own_loss(store: Path, tmp_path: Path) -> None:
    """Of class weights, smoothing and mixup: with weight 0 the taught fit is the untaught one."""
    weights = []
    for weight in (None, 0.0):
        seed_everything(0)
        student = build("scratch")
        taught = TeacherLoss(build_teacher("scratch"), TeacherConfig(weight=weight or 0), "float32")
        seed_everything(1)
        loss = LossConfig(weighted=True, label_smoothing=0.1, mixup=0.4)
        callbacks = [] if weight is None else [taught]
        train(student, dls_of(student, store), tmp_path, callbacks, loss)
        weights.append(student.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("once", [True, False])
def test_a_teacher_does_not_change_and_is_no_part_of_the_student(
    store: Path, tmp_path: Path, once: bool
) -> None:
    teacher, student = build_teacher("image"), build("image")
    before = copy.deepcopy(teacher.state_dict())
    names = set(student.state_dict())
    callback = TeacherLoss(teacher, TeacherConfig(once=once))
    train(student, dls_of(student, store), tmp_path, [AugmentImages(), callback])
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    assert not any(module.training for module in teacher.modules())
    assert set(student.state_dict()) == names


def test_the_validation_loss_is_that_of_the_labels(store: Path, tmp_path: Path) -> None:
    student = build("scratch")
    dls = dls_of(student, store)
    train(student, dls, tmp_path, [TeacherLoss(build_teacher("scratch"), TeacherConfig())])
    logged = float((tmp_path / "metrics.csv").read_text().splitlines()[1].split(",")[2])
    with torch.no_grad():
        logits = student.eval()(dls.valid.views[0].float())
    loss = F.cross_entropy(logits, dls.valid.targets)
    assert logged == pytest.approx(float(loss), abs=1e-4)


@pytest.mark.parametrize(("by", "to"), [("image", "scratch"), ("scratch", "image")])
def test_a_teacher_of_pixels_teaches_a_student_of_codes_and_the_reverse(
    store: Path, tmp_path: Path, by: str, to: str
) -> None:
    teacher, student = build_teacher(by), build(to)
    # Each class is repeated: positions in the batches are no positions in the store.
    dls = dls_of(student, store, shots=2, epoch_faces=42)
    callback = TeacherLoss(teacher, TeacherConfig("soft", 1.0, 2.0), "float32")
    watch = train(student, dls, tmp_path, [callback])
    assert len(callback.logits_of_faces) == 14
    # The student's inputs name the faces: their labels are those of the teacher's logits.
    faces = [
        (dls.train.views[0].float() == face).flatten(1).all(1) for face in watch.inputs.float()
    ]
    positions = torch.stack(faces).float().argmax(1) % 14
    expected = callback.logits_of_faces[positions]
    assert watch.first == pytest.approx(float(kl(watch.predicted, expected, 2.0)), rel=1e-3)
    with pytest.raises(ValueError, match="mixup: .*teacher_once"):
        train(student, dls, tmp_path, [callback], LossConfig(mixup=0.4))


def test_logits_of_faces_are_the_mean_with_the_mirror_image(store: Path, tmp_path: Path) -> None:
    teacher, student = build_teacher("image"), build("image")
    callback = TeacherLoss(teacher, TeacherConfig(once=True), "float32")
    dls = dls_of(student, store)
    train(student, dls, tmp_path, [callback])
    images = dls.train.views[0]
    expected = (teacher(images) + teacher(images.flip(-1))) / 2
    torch.testing.assert_close(callback.logits_of_faces, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_and_a_penalty_on_heads_work_with_a_teacher(
    store: Path, tmp_path: Path, strategy: str
) -> None:
    width = 4 if STRATEGIES[strategy].adapters else 0
    student = create_model("scratch", 7, **CODES, adapter_dim=width)
    before = copy.deepcopy(student.state_dict())
    callbacks = [
        TeacherLoss(build_teacher("scratch"), TeacherConfig()),
        *head_penalties(disagreement="output"),
    ]
    train(student, dls_of(student, store), tmp_path, callbacks, strategy=strategy, epochs=2)
    assert not torch.equal(before["head.weight"], student.head.weight)


class TestTokenHead:
    def test_both_heads_learn_and_the_model_is_saved_exported_and_looked_into(
        self, store: Path, tmp_path: Path
    ) -> None:
        student = create_model("image", 7, **TOKEN_VIT)
        heads = [copy.deepcopy(head.weight) for head in (student.head, student.token_head)]
        callbacks = [TeacherLoss(build_teacher("image"), TeacherConfig("token"))]
        train(student, dls_of(student, store), tmp_path, callbacks)
        assert not torch.equal(heads[0], student.head.weight)
        assert not torch.equal(heads[1], student.token_head.weight)
        file = tmp_path / "best.safetensors"
        save_model(file, student, classes="abcdefg", codes={"face_size": 24})
        loaded, _ = load_model(file)
        assert loaded.face_size == 24
        images = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(loaded(images), student.eval()(images))
        assert [maps.shape for maps in attention_maps(loaded, images)] == [(2, 3, 6, 6)]
        onnx = write_onnx(loaded, images, "images", tmp_path / "model.onnx")
        assert onnx_difference(onnx, loaded, images) < 1e-4

    def test_training_returns_both_logits_and_eval_their_mean(self) -> None:
        model = create_model("image", 7, **TOKEN_VIT, drop_rate=0.0)
        images = torch.rand(2, 3, 32, 32)
        cls, token = model.train()(images)
        assert not torch.equal(cls, token)
        torch.testing.assert_close(model.eval()(images), (cls + token) / 2)

    def test_only_the_token_learns_from_the_teacher(self, store: Path, tmp_path: Path) -> None:
        student = create_model("image", 7, **TOKEN_VIT)
        before = copy.deepcopy(student.head.weight)
        config = TeacherConfig("token", weight=1.0)
        groups = parameter_groups(student, STRATEGIES["full"])
        optim = OptimConfig(weight_decay=0, precision="float32")
        callbacks = [TeacherLoss(build_teacher("image"), config)]
        dls = dls_of(student, store)
        learn = build_learner(student, dls, groups, optim=optim, folder=tmp_path, cbs=callbacks)
        fit(learn, STRATEGIES["full"], epochs=1, lr=1e-3)
        assert torch.equal(before, student.head.weight)

    @pytest.mark.parametrize(("distil", "student"), [("token", CNN), ("soft", TOKEN_VIT)])
    def test_token_without_the_head_and_the_head_without_token_are_errors(
        self, store: Path, tmp_path: Path, distil: str, student: dict
    ) -> None:
        model = create_model("image", 7, **student)
        callback = TeacherLoss(build_teacher("image"), TeacherConfig(distil))
        with pytest.raises(ValueError, match="distil: .*token_head"):
            train(model, dls_of(model, store), tmp_path, [callback])

    @pytest.mark.parametrize("wrong", [{"model_name": "resnet10t"}, {"concat_pool": True}])
    def test_a_model_without_the_token_is_an_error(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match="token_head: expected a ViT"):
            create_model("image", 7, **(TOKEN_VIT | {"patch_size": 0, "num_blocks": 0} | wrong))


class TestLoadTeacher:
    def save(
        self, folder: Path, approach: str, classes: tuple[str, ...], codes: dict | None = None
    ) -> Path:
        options = CNN if approach == "image" else CODES
        model = create_model(approach, len(classes), **options)
        file = folder / "checkpoints" / "best.safetensors"
        save_model(file, model, classes=classes, codes=codes)
        return file

    def test_a_run_is_loaded_without_drawing_random_numbers(
        self, store: Path, tmp_path: Path
    ) -> None:
        faces = LatentStore.open(store, "train")
        file = self.save(tmp_path, "image", faces.classes)
        state = torch.get_rng_state()
        by_folder = load_teacher(str(tmp_path), faces)
        by_file = load_teacher(str(file), faces)
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(p.requires_grad for p in by_folder.parameters())
        assert not by_folder.training
        accuracies = {teacher_accuracy(t, dls_of(t, store)) for t in (by_folder, by_file)}
        val = LatentStore.open(store, "val")
        weights, _ = load_checkpoint(file)
        assert torch.equal(weights["head.weight"], by_file.head.weight)
        assert all(
            0 <= a <= 1 and a * len(val) == pytest.approx(round(a * len(val))) for a in accuracies
        )
        assert len(accuracies) == 1

    def test_a_teacher_of_other_classes_is_an_error(self, store: Path, tmp_path: Path) -> None:
        self.save(tmp_path, "image", ("a", "b"))
        with pytest.raises(ValueError, match="teacher: expected the classes"):
            load_teacher(str(tmp_path), LatentStore.open(store, "train"))

    def test_a_teacher_of_codes_of_another_encoding_is_an_error(
        self, store: Path, tmp_path: Path
    ) -> None:
        faces = LatentStore.open(store, "train")
        codes = store_identity(store)
        self.save(tmp_path / "same", "scratch", faces.classes, codes)
        assert load_teacher(str(tmp_path / "same"), faces).reads == "codes"
        self.save(tmp_path / "other", "scratch", faces.classes, codes | {"encoding": "another"})
        with pytest.raises(ValueError, match="teacher: .*of the encoding another"):
            load_teacher(str(tmp_path / "other"), faces)
        self.save(tmp_path / "unknown", "scratch", faces.classes)
        with pytest.raises(ValueError, match="best.safetensors: .*train again"):
            load_teacher(str(tmp_path / "unknown"), faces)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"distil": "warm"}, "distil"),
        ({"weight": 1.5}, "teacher_weight"),
        ({"temperature": 0}, "temp"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        TeacherConfig(**wrong)
