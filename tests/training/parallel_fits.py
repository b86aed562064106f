"""Fits of several processes, started by `test_data_parallel.py`; each rank writes what it got."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import nn

from fervit_lib import models, training
from fervit_lib.system import distributed
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training.data import TensorBatches

CPU = torch.device("cpu")
CODES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.0}
# strategy, model options, loss, optimiser, head penalties
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ("full", CODES, {}, {}, {}),
    "gradual": ("gradual", CODES, {}, {}, {}),
    "everything": (
        "full",
        CODES | {"drop_rate": 0.3},
        {"mixup": 0.4, "weighted": True, "label_smoothing": 0.1},
        {"ema": 0.9, "grad_clip": 1.0, "precision": "bf16"},
        {"disagreement": "position", "head_margin": 0.9},
    ),
}


class Die(Callback):
    """Kill this process when the state of epoch 0 is written; on all ranks an interrupt instead."""

    order = 95

    def __init__(self, rank: int | None = None) -> None:
        self.rank = rank

    def before_train(self) -> None:
        if self.epoch == 1 and self.rank is None:
            raise KeyboardInterrupt
        if self.epoch == 1 and self.rank == distributed.rank():
            os.kill(os.getpid(), signal.SIGKILL)


class RecordDraws(Callback):
    """What the ranks draw for their own batches, and from the state that they share."""

    def __init__(self) -> None:
        self.own: list[float] = []
        self.shared: list[float] = []

    def before_batch(self) -> None:
        if self.training:
            self.own.append(torch.rand(1).item())

    def after_batch(self) -> None:
        with torch.random.fork_rng([]):
            self.shared.append(torch.rand(1).item())


def fit_case(name: str, store: Path, folder: Path, *cbs: Callback) -> nn.Module:
    strategy, options, loss, optim, heads = CASES[name]
    seed_everything(0)
    model = models.create_model("scratch", 3, **options)
    dls = training.face_dls(model, store, batch_size=16, device=CPU)
    plan = training.get_strategy(strategy)
    best = training.SaveBest(
        lambda: models.save_model(folder / "best.safetensors", model, classes=dls.classes)
    )
    penalties = training.head_penalties(**heads)
    learn = training.build_learner(
        model,
        dls,
        plan,
        training.LossConfig(**loss),
        training.OptimConfig(**{"precision": "float32"} | optim),
        folder=folder,
        cbs=[best, *penalties, *cbs],
    )
    rate = {"lr_find": True} if strategy == "gradual" else {"lr": 1e-3}
    training.fit(learn, plan, epochs=4, state=folder / "last.safetensors", **rate)
    return model


def fit_cnn(folder: Path) -> nn.Module:
    """On a CPU its batch norm normalises each shard for itself."""
    seed_everything(0)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(32) % 3
    model = models.create_model(
        "image", 3, model_name="resnet10t", pretrained="none", image_size=32
    )
    dls = DataLoaders(
        TensorBatches([images], labels, bs=8, shuffle=True),
        TensorBatches([images[:9]], labels[:9], bs=9),
        device=CPU,
    )
    dls.classes = ("a", "b", "c")
    plan = training.get_strategy("full")
    learn = training.build_learner(model, dls, plan, folder=folder)
    training.fit(learn, plan, epochs=1, lr=1e-3)
    return model


def fit_masked(store: Path, folder: Path) -> nn.Module:
    seed_everything(0)
    model = models.create_model("scratch", 3, **CODES)
    dls = training.face_dls(model, store, batch_size=16, device=CPU)
    training.fit_masked(model, dls, folder, folder, epochs=1)
    return model


def digest(model: nn.Module) -> str:
    parts = hashlib.sha256()
    for tensor in model.state_dict().values():
        parts.update(tensor.detach().contiguous().numpy().tobytes())
    return parts.hexdigest()


def error_of(action: Any, *arguments: Any) -> str:
    try:
        action(*arguments)
    except ValueError as error:
        return str(error)
    return ""


@distributed.rank_zero_only
def fail() -> None:
    raise ValueError("disk full")


def fit_odd_batch(store: Path, folder: Path) -> None:
    model = models.create_model("scratch", 3, **CODES)
    dls = training.face_dls(model, store, batch_size=15, device=CPU)
    plan = training.get_strategy("full")
    training.fit(training.build_learner(model, dls, plan, folder=folder), plan, epochs=1)


def main(what: str, store: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    if what == "killed":
        fit_case("plain", store, folder / "killed", Die(rank=1))
    draws = RecordDraws()
    weights = {name: digest(fit_case(name, store, folder / name)) for name in CASES}
    # Both folders hold the state of an interrupted fit, of two processes and of one.
    for name in ("killed", "one"):
        weights[name] = digest(fit_case("plain", store, folder / name))
    weights["cnn"] = digest(fit_cnn(folder / "cnn"))
    weights["masked"] = digest(fit_masked(store, folder / "masked"))
    fit_case("plain", store, folder / "draws", draws)
    result = {
        "weights": weights,
        "own": draws.own,
        "shared": draws.shared,
        "error": error_of(fail),
        "odd_batch": error_of(fit_odd_batch, store, folder / "odd"),
    }
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
