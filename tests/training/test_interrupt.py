"""A fit that is interrupted and started again by the same Learner, as a notebook cell run twice."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback as FastaiCallback
from fastai.learner import Learner
from torch import Tensor, nn

from fervit_lib import models, training
from fervit_lib.system.runtime import seed_everything

CPU = torch.device("cpu")


class Interrupt(FastaiCallback):
    """Interrupt the fit once, at an event."""

    def __init__(self, event: str, epoch: int) -> None:
        self.event, self.at = event, epoch
        setattr(self, event, self.interrupt)

    def interrupt(self) -> None:
        late = not self.training or self.iter == 3
        if self.event and self.epoch == self.at and late:
            self.event = ""
            raise KeyboardInterrupt


def make_learner(store: Path, folder: Path, *interrupts: FastaiCallback) -> Learner:
    seed_everything(0)
    model = models.create_model("scratch", 3, embed_dim=32, depth=2, num_heads=2)
    dls = training.face_dls(model, store, batch_size=8, device=CPU)
    heads = training.head_penalties(disagreement="output")
    return training.build_learner(
        model,
        dls,
        training.get_strategy("full"),
        training.LossConfig(mixup=0.4),
        training.OptimConfig(ema=0.9, grad_clip=1.0, precision="bf16"),
        folder=folder,
        cbs=[training.SaveBest(lambda: None), *heads, *interrupts],
    )


def fit(learn: Learner, state: Path | None) -> dict[str, Tensor]:
    training.fit(learn, training.get_strategy("full"), epochs=3, lr=1e-3, state=state)
    return {name: value.clone() for name, value in learn.model.state_dict().items()}


def assert_plain(model: nn.Module) -> None:
    """Nothing of bf16 and head penalties, which surround the forward pass, is left in the model."""
    assert not torch.is_autocast_enabled("cpu")
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("event", ["after_pred", "after_step", "before_validate", "after_validate"])
def test_an_interrupted_fit_started_again_ends_with_identical_weights(
    event: str, epoch: int, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store", {"train": 64, "val": 16, "test": 16})
    whole = fit(make_learner(store, tmp_path / "whole"), tmp_path / "whole.safetensors")
    learn = make_learner(store, tmp_path / "again", Interrupt(event, epoch))
    loss, state = learn.loss_func, tmp_path / "again.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(learn, state)
    assert learn.loss_func is loss  # mixup replaces it during a fit
    assert_plain(learn.model)
    again = fit(learn, state)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    one, two = (
        pd.read_csv(tmp_path / n / "metrics.csv").drop(columns="seconds")
        for n in ("whole", "again")
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_without_a_state_the_learner_trains_on(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store", {"train": 64, "val": 16, "test": 16})
    learn = make_learner(store, tmp_path / "run", Interrupt("after_pred", 1))
    with pytest.raises(KeyboardInterrupt):
        fit(learn, None)
    assert all(value.isfinite().all() for value in fit(learn, None).values())
    assert len(learn.recorder.values) == 3


@pytest.mark.parametrize("event", ["after_step", "before_validate"])
def test_an_error_restores_the_learner_as_well(
    event: str, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    class Break(Interrupt):
        def interrupt(self) -> None:
            try:
                super().interrupt()
            except KeyboardInterrupt:
                raise ValueError("no reason") from None

    learn = make_learner(make_store(tmp_path / "store"), tmp_path / "run", Break(event, 0))
    loss = learn.loss_func
    with pytest.raises(ValueError, match="no reason"):
        fit(learn, None)
    assert learn.loss_func is loss
    assert_plain(learn.model)
