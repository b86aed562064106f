"""Fits that one process and several must do alike, and what each process says of itself. Run by `test_share.py`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor, nn

from fervit_lib import distillation, models, training
from fervit_lib.system import distributed
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training.callbacks import Bf16
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.share import Share

CPU = torch.device("cpu")
CODES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.0}
EVERYTHING = {
    "mixup": 0.4, "weighted": True, "label_smoothing": 0.1, "ema": 0.9, "grad_clip": 1.0,
    "disagreement": "position", "head_margin": 0.9,
}  # fmt: skip
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "everything": ("scratch", "full", CODES, EVERYTHING),
    "gradual": ("scratch", "gradual", CODES, {}),
    "dropout": ("scratch", "full", CODES | {"drop_rate": 0.5}, {}),
}


class Die(Callback):
    """End as a killed process does, when the state of an epoch is on the disk."""

    order = 95

    def __init__(self, epoch: int) -> None:
        self.last = epoch

    def after_epoch(self) -> None:
        if self.epoch == self.last:
            raise KeyboardInterrupt


def fit_case(
    name: str, store: Path, folder: Path, *cbs: Callback, state: Path | None = None
) -> nn.Module:
    approach, strategy, options, more = CASES[name]
    seed_everything(0)
    model = models.create_model(approach, 3, **options)
    dls = training.face_dls(model, store, batch_size=16, device=CPU)
    plan = training.get_strategy(strategy)
    options = {"approach": approach, "classes": dls.classes, "options": options}
    best = training.SaveBest(
        lambda: models.save_model(folder / "best.safetensors", model, **options)
    )
    augment = training.AugmentCodes(0.1, 0.1, 0.1)
    more = {"precision": "float32", "cbs": [best, augment, *cbs]} | more
    learn = training.build_learner(model, dls, plan, folder=folder, **more)
    with learn.no_bar(), learn.no_logging():
        rate = None if strategy == "gradual" else 1e-3
        training.fit(learn, plan, epochs=3, lr=rate, state=state or folder / "last.safetensors")
    return model


def fit_image(store: Path, folder: Path) -> nn.Module:
    """A CNN: its norms need the whole batch, and timm's do more than normalise."""
    seed_everything(0)
    options = {
        "model_name": "mobilenetv3_small_050",
        "pretrained": "none",
        "image_size": 32,
        "drop_rate": 0.0,
    }
    model = models.create_model("image", 7, **options)
    dls = training.face_dls(model, store, batch_size=16, device=CPU)
    cbs = [training.AugmentImages(1.0)]
    plan = training.get_strategy("full")
    learn = training.build_learner(model, dls, plan, folder=folder, precision="float32", cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        training.fit(learn, plan, epochs=2, lr=1e-3)
    return model


def fit_taught(store: Path, folder: Path) -> nn.Module:
    """A ViT with DeiT's token that a CNN teaches, in float32."""
    seed_everything(0)
    size = {"pretrained": "none", "image_size": 32, "drop_rate": 0.0}
    teacher = models.ImageModel(7, model_name="resnet10t", **size)
    student = distillation.TokenViT(7, **size)
    dls = training.face_dls(student, store, batch_size=16, device=CPU)
    loss, cbs = distillation.ExpressionLoss("token"), [training.AugmentImages(1.0)]
    learn = distillation.build_expression_learner(
        student, teacher, dls, loss, folder=folder, cbs=cbs
    )
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, Bf16)))
    with learn.no_bar(), learn.no_logging():
        training.fit(learn, training.get_strategy("full"), epochs=2, lr=1e-4)
    return student


def die_and_go_on(store: Path, folder: Path) -> nn.Module:
    """The fit `everything`, cut off after an epoch; what is left then stays in `cut.safetensors`."""
    state = folder / "last.safetensors"
    try:
        fit_case("everything", store, folder, Die(0))
    except KeyboardInterrupt:
        copy_once(state, folder / "cut.safetensors")
    return fit_case("everything", store, folder)


@distributed.rank_zero_only
def copy_once(path: Path, to: Path) -> None:
    to.write_bytes(path.read_bytes())


def fit_masked(store: Path, folder: Path) -> nn.Module:
    seed_everything(0)
    model = models.create_model("scratch", 3, **CODES)
    dls = training.face_dls(model, store, batch_size=16, device=CPU)
    return training.fit_masked(model, dls, folder, epochs=1)[0]


def digest(model: nn.Module) -> str:
    parts = hashlib.sha256()
    for tensor in model.state_dict().values():
        parts.update(tensor.detach().contiguous().numpy().tobytes())
    return parts.hexdigest()


def dropped_places() -> str:
    """Which places of a tensor dropout sets to zero in this process's pass."""
    found: list[Tensor] = []

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            found.append(self.drop(torch.ones(64)))
            return self.layer(x)

    seed_everything(0)
    inputs = torch.randn(8, 4)
    batches = TensorBatches([inputs], torch.arange(8) % 4, bs=4)
    dls = DataLoaders(batches, batches)
    learn = Learner(dls, Drops(), loss_func=nn.CrossEntropyLoss(), cbs=[Share()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.0)
    return str([(drawn == 0).int().tolist() for drawn in found[:2]])


def refused_batch(store: Path, folder: Path) -> str:
    model = models.create_model("scratch", 3, **CODES)
    dls = training.face_dls(model, store, batch_size=15, device=CPU)
    plan = training.get_strategy("full")
    try:
        training.fit(training.build_learner(model, dls, plan, folder=folder), plan, epochs=1)
    except ValueError as error:
        return str(error)
    return ""


@distributed.rank_zero_only
def fail() -> None:
    raise ValueError("disk full")


def error_of_first() -> str:
    try:
        fail()
    except ValueError as error:
        return str(error)
    return ""


def main(store: Path, faces: Path, folder: Path) -> None:
    """Every fit, and `<number>.json` with what this process found."""
    torch.set_num_threads(1)
    weights = {name: digest(fit_case(name, store, folder / name)) for name in CASES}
    weights["cut"] = digest(die_and_go_on(store, folder / "cut"))
    weights["image"] = digest(fit_image(faces, folder / "image"))
    weights["taught"] = digest(fit_taught(faces, folder / "taught"))
    weights["masked"] = digest(fit_masked(store, folder / "masked"))
    found = {"weights": weights, "dropped": dropped_places(), "error": error_of_first()}
    found["refused"] = refused_batch(store, folder / "refused")
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
