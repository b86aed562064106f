"""A CNN teaches a ViT on toy faces, with models as small as they come."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from torch import nn

from fervit_lib import distillation
from fervit_lib.datasets import draw_toy_faces, load_faces
from fervit_lib.distillation import ExpressionLoss, TokenViT
from fervit_lib.distillation.expression import ask_of_all, teacher_logits
from fervit_lib.latents import complete_store, shard_path, write_shard
from fervit_lib.models import ImageModel

VIT = "deit_tiny_distilled_patch16_224"


@pytest.fixture(scope="module")
def dls(tmp_path_factory: pytest.TempPathFactory) -> DataLoaders:
    folder = tmp_path_factory.mktemp("faces")
    faces = draw_toy_faces(folder / "faces", 70, 32)
    sizes = {}
    for split in ("train", "val", "test"):
        part = load_faces(faces, split)
        sizes[split] = len(part)
        codes = torch.zeros(len(part), 18, 512)
        write_shard(
            shard_path(folder / "codes", split, 0),
            codes,
            np.array(part.labels),
            list(part.paths),
            "made",
        )
    made = {"classes": part.classes, "encoder": "autoencoder", "faces": faces, "synthetic": True}
    complete_store(folder / "codes", sizes, **made)
    return distillation.expression_dls(folder / "codes", 32, 7, torch.device("cpu"))


@pytest.mark.parametrize(("kind", "ask_once"), [("soft", False), ("soft", True), ("token", False)])
def test_a_vit_learns_from_a_cnn_that_stays_as_it_was(
    dls: DataLoaders, tmp_path: Path, kind: str, ask_once: bool
) -> None:
    teacher = ImageModel(7, model_name="resnet10t", pretrained="none", image_size=32)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    vit = {"model_name": VIT, "image_size": 32, "num_blocks": 2, "stem": "conv"}
    told = {"loss": {"alpha": 0.5}, "ask_once": ask_once, "epochs": 1, "lr": 1e-3}
    student = distillation.fit_expression(kind, 0, dls, teacher, tmp_path, student=vit, **told)
    assert isinstance(student, TokenViT) == (kind == "token")
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    right = distillation.correct_predictions(student, dls)
    assert right.shape == (2, len(dls.test_labels))
    table = distillation.accuracy_table({kind: np.stack([right, right])})
    assert table["low"][0] <= table["accuracy"][0] <= table["high"][0]
    assert (tmp_path / "metrics.csv").is_file()


def test_the_token_has_a_head_of_its_own_and_both_count_when_it_reads() -> None:
    student = TokenViT(7, model_name=VIT, pretrained="none", image_size=32)
    images = torch.rand(2, 3, 32, 32)
    ours, token = student.train()(images)
    assert ours.shape == token.shape == (2, 7)
    assert not torch.equal(ours, token)
    assert student.eval()(images).shape == (2, 7)
    with pytest.raises(ValueError, match="expected a distilled ViT"):
        TokenViT(7, model_name="vit_tiny_patch16_224", pretrained="none")


def test_what_does_not_fit_is_an_error(dls: DataLoaders, tmp_path: Path) -> None:
    plain = ImageModel(7, model_name="resnet10t", pretrained="none", image_size=32)
    build = {"folder": tmp_path, "cbs": []}
    with pytest.raises(ValueError, match="expected a TokenViT for kind token"):
        distillation.build_expression_learner(plain, plain, dls, ExpressionLoss("token"), **build)
    other: nn.Module = ImageModel(5, model_name="resnet10t", pretrained="none", image_size=32)
    with pytest.raises(ValueError, match="teacher: expected 7 classes as the faces have, got 5"):
        distillation.build_expression_learner(plain, other, dls, ExpressionLoss("soft"), **build)


def test_a_teacher_asked_once_says_of_each_face_what_it_says_of_the_face_and_its_mirror_image(
    dls: DataLoaders,
) -> None:
    teacher = ImageModel(7, model_name="resnet10t", pretrained="none", image_size=32).eval()
    images = dls.train.views[0][:9]
    said = ask_of_all(teacher, images, bf16=False)
    plain, mirrored = (
        teacher_logits(teacher, shown, bf16=False) for shown in (images, images.flip(-1))
    )
    assert torch.equal(said, (plain + mirrored) / 2)
    torch.testing.assert_close(said, ask_of_all(teacher, images.flip(-1), bf16=False))
    dls.train.beside = torch.arange(len(dls.train.targets))
    seen = [(labels, numbers) for _, labels, numbers in dls.train]
    dls.train.beside = None
    assert all(torch.equal(labels, dls.train.targets[numbers]) for labels, numbers in seen)
