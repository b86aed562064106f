from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fervit_lib.latents import complete_store
from fervit_lib.models import create_model, load_model, save_model
from fervit_lib.runtime import seed_everything
from fervit_lib.training import (
    STRATEGIES,
    SaveBest,
    build_learner,
    fit_autoencoder,
    get_strategy,
    latent_dls,
    parameter_groups,
    parameter_table,
)
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.learner import class_weights
from fervit_lib.training.strategies import part_of

CPU = torch.device("cpu")
OPTIONS = {"scratch": {"embed_dim": 32, "depth": 2, "num_heads": 2}, "hybrid": {"pretrained": "none"}}


def fit(store: Path, folder: Path, approach: str, strategy: str, epochs: int = 1, **options: object) -> Learner:
    seed_everything(0)
    dls = latent_dls(store, batch_size=16, device=CPU)
    model = create_model(approach, len(dls.classes), **OPTIONS[approach])
    learn = build_learner(model, dls, get_strategy(strategy), folder=folder, precision="float32", **options)
    with learn.no_bar():
        learn.fit_one_cycle(epochs, learn.lr_max)
    return learn


@pytest.mark.parametrize("approach", OPTIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_groups_hold_every_parameter_once_frozen_first(approach: str, strategy: str) -> None:
    model = create_model(approach, 7, **OPTIONS[approach])
    groups = parameter_groups(model, STRATEGIES[strategy])
    held = [id(p) for group in groups for p in group.parameters]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert [group.trains for group in groups] == sorted(group.trains for group in groups)
    table = parameter_table(groups)
    assert table.loc["total", "parameters"] == sum(p.numel() for p in model.parameters())


def test_the_design_of_the_strategies() -> None:
    full = parameter_groups(create_model("scratch"), STRATEGIES["full"])
    assert {group.part: group.lr for group in full} == {
        "transformer": pytest.approx(1e-4),
        "position": pytest.approx(5e-4),
        "input_proj": pytest.approx(1e-3),
        "head": pytest.approx(1e-3),
    }
    assert {group.part for group in full if not group.weight_decay} == {"position"}
    trained = {
        approach: {
            g.part for g in parameter_groups(create_model(approach, **options), STRATEGIES["linear_probe"]) if g.trains
        }
        for approach, options in OPTIONS.items()
    }
    assert trained == {"scratch": {"head"}, "hybrid": {"head", "input_proj"}}


@pytest.mark.parametrize("approach", OPTIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_is_frozen_and_the_rest_moves(
    approach: str, strategy: str, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    seed_everything(0)
    before = create_model(approach, 3, **OPTIONS[approach]).state_dict()
    model = fit(store, tmp_path, approach, strategy).model
    trained = {p for g in parameter_groups(model, STRATEGIES[strategy]) if g.trains for p in g.parameters}
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (parameter in trained), name


def test_frozen_dropout_and_norm_statistics_are_still(make_store: Callable[..., Path], tmp_path: Path) -> None:
    class Probe(nn.Module):
        entry_parts = ()

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(nn.Flatten(), nn.Linear(18 * 512, 8), nn.BatchNorm1d(8))
            self.head = nn.Linear(8, 3)

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return self.head(self.blocks(codes.float()))

    model = Probe()
    before = {name: value.clone() for name, value in model.blocks.state_dict().items()}
    dls = latent_dls(make_store(tmp_path / "store"), batch_size=16, device=CPU)
    learn = build_learner(model, dls, STRATEGIES["linear_probe"], folder=tmp_path)
    with learn.no_bar():
        learn.fit_one_cycle(1, learn.lr_max)
    for name, value in model.blocks.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_learns_and_logs_and_keeps_the_best(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"train": 256, "val": 60, "test": 60})
    best = SaveBest(
        lambda: save_model(
            tmp_path / "best.safetensors", learn_model, approach="scratch", classes="abc", options=OPTIONS["scratch"]
        )
    )
    seed_everything(0)
    dls = latent_dls(store, batch_size=16, device=CPU)
    learn_model = create_model("scratch", 3, **OPTIONS["scratch"])
    learn = build_learner(learn_model, dls, STRATEGIES["full"], folder=tmp_path, lr=1e-3, cbs=[best])
    with learn.no_bar():
        learn.fit_one_cycle(4, learn.lr_max)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert list(metrics.columns) == ["epoch", "train_loss", "valid_loss", "accuracy", "macro_f1", "time"]
    assert metrics["macro_f1"].max() > 0.9
    assert best.best_epoch == metrics["macro_f1"].idxmax()
    assert best.best_values["macro_f1"] == pytest.approx(metrics["macro_f1"].max())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("macro_f1")] == pytest.approx(list(metrics["macro_f1"]), rel=1e-5)
    model, _ = load_model(tmp_path / "best.safetensors")
    predicted = model(dls.valid.views[0].float()).argmax(-1)
    assert (predicted == dls.valid.targets).float().mean().item() == pytest.approx(
        best.best_values["accuracy"], abs=0.04
    )


def test_the_same_seed_gives_the_same_weights(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    one, two = (fit(store, tmp_path / name, "scratch", "full").model.state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_batches_hold_every_sample_once_an_epoch() -> None:
    loader = TensorBatches([torch.arange(10)], torch.arange(10), bs=4)
    assert torch.cat([x for x, _ in loader]).tolist() == list(range(10))
    assert len(loader) == 3
    shuffled = TensorBatches([torch.arange(12)], torch.arange(12), bs=4, shuffle=True)
    seed_everything(0)
    drawn = torch.cat([x for x, _ in shuffled]).tolist()
    assert sorted(drawn) == list(range(12))
    assert drawn != list(range(12))


def test_a_batch_draws_among_the_views_and_keeps_the_target() -> None:
    views = [torch.arange(1000) + 10_000 * view for view in range(3)]
    seed_everything(0)
    x, y = next(iter(TensorBatches(views, torch.arange(1000), bs=1000, shuffle=True)))
    assert torch.equal(x % 10_000, y)
    assert torch.bincount(x // 10_000).min() > 250


def test_class_weights_make_every_class_count_the_same() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights(labels, 3)
    torch.testing.assert_close(weights * torch.tensor([6.0, 3.0, 1.0]), torch.full((3,), 10 / 3))


def test_errors(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with pytest.raises(ValueError, match="strategy: expected one of full, linear_probe, got 'ful'"):
        get_strategy("ful")
    with pytest.raises(ValueError, match="batch_size: expected 1 to 96, the number of samples, got 97"):
        latent_dls(store, batch_size=97, device=CPU)
    with pytest.raises(ValueError, match="parameter 'tail.weight' belongs to no part"):
        part_of("tail.weight")
    dls = latent_dls(store, batch_size=16, device=CPU)
    with pytest.raises(ValueError, match="precision: expected one of auto, float32, bf16, got 'fp8'"):
        build_learner(create_model("scratch", 3), dls, STRATEGIES["full"], folder=tmp_path, precision="fp8")
    complete_store(store, {"train": 96, "val": 30}, classes="abcd", encoder="a", faces=Path("faces"), synthetic=True)
    with pytest.raises(ValueError, match="no training code of d"):
        latent_dls(store, batch_size=16, device=CPU)


def test_the_autoencoder_learns_and_is_not_trained_twice(tmp_path: Path) -> None:
    seed_everything(0)
    rows = torch.linspace(-1, 1, 32).view(1, 1, 32, 1).expand(1, 3, 32, 32)
    images = rows * torch.rand(96, 1, 1, 1) * torch.where(torch.rand(96, 1, 1, 1) < 0.5, -1.0, 1.0)
    checkpoint = tmp_path / "checkpoints" / "best.safetensors"

    def fit_again(epochs: int) -> nn.Module:
        return fit_autoencoder(images[:80], images[80:], checkpoint, epochs=epochs, batch_size=16, device=CPU)

    model = fit_again(12)
    with torch.inference_mode():
        error = (model.decode(model(images[80:]))[-1] - images[80:]).square().mean()
    assert error < 0.5 * images[80:].square().mean()
    written = checkpoint.stat().st_mtime_ns
    assert torch.equal(fit_again(12)(images[:2]), model(images[:2]))
    assert checkpoint.stat().st_mtime_ns == written
    fit_again(1)
    assert checkpoint.stat().st_mtime_ns != written
