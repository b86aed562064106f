"""What a reader of 02_train sees: a batch before the fit, and every step after it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders

from fervit_lib.latents import LatentStore
from fervit_lib.models import LatentViT
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import (
    AugmentCodes,
    OptimConfig,
    Steps,
    build_learner,
    face_dls,
    fit,
    get_strategy,
    preview_batch,
)

CPU = torch.device("cpu")


@pytest.fixture
def store(make_store: Callable[..., Path], tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def load(store: Path, **options: int) -> tuple[LatentViT, DataLoaders]:
    seed_everything(0)
    model = LatentViT(3, embed_dim=32, depth=1, num_heads=2)
    return model, face_dls(model, store, batch_size=16, device=CPU, **options)


def test_the_batch_holds_the_codes_and_labels_of_its_faces(store: Path) -> None:
    _, dls = load(store, shots=4, epoch_faces=60)
    batch = preview_batch(dls, [])
    train = LatentStore.open(store, "train")
    assert torch.equal(batch.inputs, train.take(batch.faces).float())
    assert torch.equal(batch.targets, train.labels[batch.faces])
    assert set(batch.faces) <= set(dls.chosen) and len(dls.chosen) == 12


def test_the_batch_is_augmented_and_the_fit_draws_the_same_numbers(store: Path) -> None:
    class Zero(Callback):
        order = -4

        def before_batch(self) -> None:
            self.learn.xb = (torch.where(self.x.abs() < 0.5, 0.0, self.x),)

    _, dls = load(store)
    before = torch.get_rng_state()
    batch = preview_batch(dls, [Zero(), AugmentCodes(noise=0.1)])
    assert torch.equal(torch.get_rng_state(), before)
    assert (batch.inputs == 0).any() and (batch.inputs.abs() >= 0.5).any()
    assert not ((batch.inputs != 0) & (batch.inputs.abs() < 0.5)).any()
    changed = batch.inputs[batch.inputs != 0]
    plain = LatentStore.open(store, "train").take(batch.faces).float()[batch.inputs != 0]
    assert 0 < (changed - plain).abs().mean() < 1


def test_steps_are_recorded_before_clipping(store: Path, tmp_path: Path) -> None:
    class Reference(Callback):
        order = 10  # before clipping, as Steps
        lengths: list[float] = []

        def before_step(self) -> None:
            grads = [p.grad.norm().item() for p in self.model.parameters() if p.grad is not None]
            self.lengths.append(float(np.linalg.norm(grads)))

    model, dls = load(store, epoch_faces=16 * 52)
    steps = Steps()
    plan = get_strategy("full")
    optim = OptimConfig(grad_clip=1e-3, precision="float32")
    cbs = [steps, Reference()]
    learn = build_learner(model, dls, plan, optim=optim, folder=tmp_path, cbs=cbs)
    fit(learn, plan, epochs=1, lr=1e-3)
    table = pd.DataFrame(steps.rows)
    # A row is one step, or at 1.5 the mean of steps 1 and 2.
    ends = np.array([np.floor(table["step"]), np.ceil(table["step"])]).astype(int) - 1
    expected = np.array(Reference.lengths)[ends].mean(0)
    assert table["gradient_norm"].tolist() == pytest.approx(expected, rel=1e-3)
    assert len(table) == 50 and sorted({*ends.flatten()}) == list(range(52))
    assert table["gradient_norm"].max() > 1
    # One cycle, at one rate: the model starts from random weights.
    assert table["learning_rate"].max() == pytest.approx(1e-3, rel=0.01)
