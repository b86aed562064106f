"""A CNN teaches a ViT on toy faces, with the smallest models."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders

from fervit_lib import distillation
from fervit_lib.datasets import draw_toy_faces, load_faces
from fervit_lib.distillation import ExpressionLoss, TokenViT
from fervit_lib.distillation.expression import mirrored_teacher_logits, teacher_logits
from fervit_lib.latents import complete_store, shard_path, write_shard
from fervit_lib.models import ImageModel

VIT = "deit_tiny_distilled_patch16_224"


def build_cnn(num_classes: int = 7) -> ImageModel:
    return ImageModel(num_classes, model_name="resnet10t", pretrained="none", image_size=32).eval()


@pytest.fixture(scope="module")
def dls(tmp_path_factory: pytest.TempPathFactory) -> DataLoaders:
    folder = tmp_path_factory.mktemp("faces")
    faces = draw_toy_faces(folder / "faces", 70, 32)
    store = folder / "codes"
    sizes = {}
    for split in ("train", "val", "test"):
        part = load_faces(faces, split)
        sizes[split] = len(part)
        codes = torch.zeros(len(part), 18, 512)
        labels = np.array(part.labels)
        write_shard(shard_path(store, split, 0), codes, labels, list(part.paths), "hash")
    settings = {"classes": part.classes, "encoder": "autoencoder", "faces": faces}
    complete_store(store, sizes, synthetic=True, **settings)
    return distillation.expression_dls(store, 32, 7, torch.device("cpu"))


@pytest.mark.parametrize(("kind", "ask_once"), [("soft", False), ("soft", True), ("token", False)])
def test_a_vit_learns_from_a_cnn_that_stays_identical(
    dls: DataLoaders, tmp_path: Path, kind: str, ask_once: bool
) -> None:
    teacher = build_cnn()
    before = copy.deepcopy(teacher.state_dict())
    vit = {"model_name": VIT, "image_size": 32, "num_blocks": 2, "stem": "conv"}
    options = {"loss": {"alpha": 0.5}, "ask_once": ask_once, "epochs": 1, "lr": 1e-3}
    student = distillation.fit_expression(kind, 0, dls, teacher, tmp_path, student=vit, **options)
    assert isinstance(student, TokenViT) == (kind == "token")
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    correct = distillation.correct_predictions(student, dls)
    assert correct.shape == (2, len(dls.test_labels))
    table = distillation.accuracy_table({kind: np.stack([correct, correct])})
    assert table["low"][0] <= table["accuracy"][0] <= table["high"][0]
    assert table["mirrored"][0] == correct[1].mean()
    assert (tmp_path / "metrics.csv").is_file()


def test_cls_and_token_have_their_own_heads_and_are_averaged_in_eval_mode() -> None:
    student = TokenViT(7, model_name=VIT, pretrained="none", image_size=32)
    images = torch.rand(2, 3, 32, 32)
    cls, token = student.train()(images)
    assert cls.shape == token.shape == (2, 7)
    assert not torch.equal(cls, token)
    assert student.eval()(images).shape == (2, 7)
    with pytest.raises(ValueError, match="model_name: expected a distilled ViT"):
        TokenViT(7, model_name="vit_tiny_patch16_224", pretrained="none")


def test_a_student_without_the_token_or_a_teacher_of_other_classes_is_an_error(
    dls: DataLoaders, tmp_path: Path
) -> None:
    cnn = build_cnn()
    build = {"folder": tmp_path, "cbs": []}
    with pytest.raises(ValueError, match="student: expected a TokenViT"):
        distillation.build_expression_learner(cnn, cnn, dls, ExpressionLoss("token"), **build)
    other = build_cnn(num_classes=5)
    with pytest.raises(ValueError, match="teacher: expected the 7 classes"):
        distillation.build_expression_learner(cnn, other, dls, ExpressionLoss("soft"), **build)


def test_cached_teacher_logits_are_the_mean_over_face_and_mirror_image(dls: DataLoaders) -> None:
    teacher = build_cnn()
    images = dls.train.views[0][:9]
    logits = mirrored_teacher_logits(teacher, images, bf16=False)
    plain = teacher_logits(teacher, images, bf16=False)
    mirrored = teacher_logits(teacher, images.flip(-1), bf16=False)
    assert torch.equal(logits, (plain + mirrored) / 2)
    flipped = mirrored_teacher_logits(teacher, images.flip(-1), bf16=False)
    torch.testing.assert_close(logits, flipped)


def test_extra_values_are_batched_with_the_targets(dls: DataLoaders) -> None:
    dls.train.extra = torch.arange(len(dls.train.targets))
    batches = [(labels, numbers) for _, labels, numbers in dls.train]
    dls.train.extra = None
    assert all(torch.equal(labels, dls.train.targets[numbers]) for labels, numbers in batches)
