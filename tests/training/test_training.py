import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from fervit_lib.datasets import draw_toy_faces, load_faces
from fervit_lib.inputs import inputs_for
from fervit_lib.latents import LatentStore, complete_store, shard_path, write_shard
from fervit_lib.models import ExpressionModel, create_model, load_model, save_model
from fervit_lib.system.atomic import read_json, write_json
from fervit_lib.system.checkpoints import load_checkpoint
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import (
    STRATEGIES,
    AugmentCodes,
    AugmentImages,
    LossConfig,
    OptimConfig,
    SaveBest,
    build_learner,
    face_dls,
    fit,
    get_strategy,
    model_table,
    parameter_groups,
    trackers,
)
from fervit_lib.training.data import TensorBatches, training_subset
from fervit_lib.training.learner import class_weights
from fervit_lib.training.schedule import Plateau, Schedule, lr_shape
from tests.datasets.conftest import fer_plus_votes

CPU = torch.device("cpu")
PROJECT = b"fervit-lab"
OPTIONS = {
    "scratch": {"embed_dim": 32, "depth": 4, "num_heads": 2, "adapter_dim": 4},
    "hybrid": {"pretrained": "none", "adapter_dim": 4},
    "image": {"pretrained": "none", "image_size": 32, "patch_size": 8, "adapter_dim": 4},
    "latent_cnn": {"embed_dim": 16, "depth": 3},
}
LAYERWISE = {"transformer": 1, "position": 5, "input_proj": 10, "head": 10}
PAIRS = [(a, s) for a in OPTIONS for s in STRATEGIES if (a, s) != ("latent_cnn", "adapter")]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of codes whose faces are there, too."""
    folder = tmp_path_factory.mktemp("faces")
    draw_toy_faces(folder / "toy", 140, size=32)
    sizes = {}
    for split in ("train", "val", "test"):
        found = load_faces(folder / "toy", split)
        sizes[split] = len(found)
        codes = torch.randn(
            len(found), 18, 512, generator=torch.Generator().manual_seed(len(found))
        )
        write_shard(
            shard_path(folder / "codes", split, 0), codes, found.labels, found.paths, "made"
        )
    made_from = {
        "classes": found.classes,
        "encoder": "a",
        "faces": folder / "toy",
        "synthetic": True,
    }
    complete_store(folder / "codes", sizes, **made_from)
    return folder / "codes"


def learner(
    store: Path,
    folder: Path,
    approach: str,
    strategy: str,
    options: dict | None = None,
    loss: dict | None = None,
    optim: dict | None = None,
    cbs: Sequence[Callback] = (),
) -> Learner:
    seed_everything(0)
    model = create_model(
        approach, 7 if store.name == "codes" else 3, **OPTIONS[approach] | (options or {})
    )
    dls = face_dls(model, store, batch_size=16, device=CPU)
    plan = get_strategy(strategy)
    groups = parameter_groups(model, plan, freeze_stages=2)
    optim = OptimConfig(**{"precision": "float32"} | (optim or {}))
    return build_learner(
        model, dls, groups, LossConfig(**loss or {}), optim, folder=folder, cbs=cbs
    )


def train(
    learn: Learner, strategy: str, epochs: int = 1, lr: float | None = 1e-3, **more: object
) -> float:
    with learn.no_bar(), learn.no_logging():
        return fit(learn, get_strategy(strategy), epochs=epochs, lr=lr, **more)


class TestStrategies:
    @pytest.mark.parametrize(("approach", "strategy"), PAIRS)
    def test_groups_hold_every_parameter_once_frozen_first(
        self, approach: str, strategy: str
    ) -> None:
        model = create_model(approach, 7, **OPTIONS[approach])
        groups = parameter_groups(model, STRATEGIES[strategy], freeze_stages=2)
        held = [id(p) for group in groups for p in group.parameters]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
        assert [group.trains for group in groups] == sorted(group.trains for group in groups)
        table = model_table(model, groups, torch.zeros(2, *model.input_shape))
        assert table.loc["total", "parameters"] == sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for g in groups if g.trains for p in g.parameters)
        assert table["trainable"].iloc[:-1].sum() == table.loc["total", "trainable"] == trained
        assert table.loc["head", "output shape"] == table.loc["total", "output shape"] == "(2, 7)"

    def test_the_design(self) -> None:
        full = parameter_groups(create_model("hybrid", pretrained="none"), STRATEGIES["full"])
        assert {group.part: group.lr_factor for group in full} == LAYERWISE
        assert {group.part for group in full if not group.weight_decay} == {"position"}
        trained = {
            (approach, strategy): {
                g.part
                for g in parameter_groups(
                    create_model(approach, **OPTIONS[approach]),
                    STRATEGIES[strategy],
                    freeze_stages=2,
                )
                if g.trains
            }
            for approach, strategy in PAIRS
        }
        assert trained["scratch", "linear_probe"] == trained["image", "linear_probe"] == {"head"}
        assert trained["hybrid", "linear_probe"] == {"head", "input_proj"}
        assert trained["hybrid", "adapter"] == {"adapter", "input_proj", "head"}
        assert trained["scratch", "partial"] == {"transformer", "head"}
        assert trained["hybrid", "gradual"] >= {"lower_blocks", "transformer", "input_proj", "head"}

    @pytest.mark.parametrize("layerwise_lr", [None, True, False])
    def test_the_recipe_of_a_vit_from_random_weights_has_one_rate(
        self, layerwise_lr: bool | None
    ) -> None:
        small = create_model("scratch", embed_dim=32, depth=2, num_heads=2)
        options = {"layerwise_lr": layerwise_lr}
        full = parameter_groups(small, STRATEGIES["full"], **options)
        one_rate = dict.fromkeys(LAYERWISE, 1)
        expected = LAYERWISE if layerwise_lr else one_rate
        assert {group.part: group.lr_factor for group in full} == expected
        gradual = parameter_groups(small, STRATEGIES["gradual"], **options)
        assert len({group.lr_factor for group in gradual}) == (1 if layerwise_lr is False else 3)

    def test_adapters_train_about_five_percent_of_a_small_vit(self) -> None:
        model = create_model(
            "hybrid", pretrained="none", model_name="vit_small_patch16_224", adapter_dim=64
        )
        groups = parameter_groups(model, STRATEGIES["adapter"])
        total = model_table(model, groups, torch.zeros(2, 18, 512)).loc["total"]
        assert 0.03 < total["trainable"] / total["parameters"] < 0.06

    @pytest.mark.parametrize(("approach", "strategy"), PAIRS)
    def test_frozen_is_frozen_and_the_rest_moves(
        self, approach: str, strategy: str, faces: Path, tmp_path: Path
    ) -> None:
        learn = learner(faces, tmp_path, approach, strategy)
        before = {name: value.clone() for name, value in learn.model.state_dict().items()}
        train(learn, strategy, epochs=4 if strategy == "gradual" else 1)
        trained = {p for g in learn.groups if g.trains for p in g.parameters}
        for name, parameter in learn.model.named_parameters():
            assert torch.equal(parameter, before[name]) != (parameter in trained), name

    def test_gradual_trains_the_head_first_and_then_all_at_falling_rates(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        snapshots, rates = [], []

        class Watch(SaveBest):
            def after_epoch(self) -> None:
                snapshots.append(
                    {name: p.detach().clone() for name, p in self.model.named_parameters()}
                )
                rates.append([h["lr"] for h in self.opt.hypers])

        learn = learner(
            make_store(tmp_path / "s"), tmp_path, "hybrid", "gradual", cbs=[Watch(print)]
        )
        start = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
        train(learn, "gradual", epochs=4, schedule="none")
        moved = [
            {n for n in start if not torch.equal(start[n], snapshot[n])} for snapshot in snapshots
        ]
        assert {learn.model.part_of(name) for name in moved[0]} <= {"head", "input_proj", "adapter"}
        assert moved[1] == set(start)
        by_part = dict(zip([g.part for g in learn.groups], rates[-1], strict=True))
        assert by_part["lower_blocks"] < by_part["transformer"] < by_part["head"]

    def test_frozen_dropout_and_norm_statistics_are_still(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        class Probe(ExpressionModel):
            reads = "codes"
            parts = {"blocks": "blocks", "head": "head"}
            input_shape = (18, 512)

            def __init__(self) -> None:
                super().__init__()
                self.blocks = nn.Sequential(nn.Flatten(), nn.Linear(18 * 512, 8), nn.BatchNorm1d(8))
                self.head = nn.Linear(8, 3)

            def forward(self, codes: torch.Tensor) -> torch.Tensor:
                return self.head(self.blocks(codes.float()))

        model = Probe()
        before = {name: value.clone() for name, value in model.blocks.state_dict().items()}
        dls = face_dls(model, make_store(tmp_path / "store"), batch_size=16, device=CPU)
        train(
            build_learner(model, dls, STRATEGIES["linear_probe"], folder=tmp_path), "linear_probe"
        )
        for name, value in model.blocks.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_a_random_transformer_is_frozen_only_by_name(self) -> None:
        for strategy in ("adapter", "linear_probe", "partial"):
            with pytest.raises(ValueError, match=f"pretrained: .* {strategy}"):
                get_strategy(strategy, "none")
            get_strategy(strategy, "random")
            get_strategy(strategy, "mae")
        get_strategy("full", "none")
        get_strategy("gradual", "none")

    def test_mistakes_are_named(self) -> None:
        scratch = create_model("scratch", 3, embed_dim=32, depth=4, num_heads=2)
        with pytest.raises(
            ValueError, match="strategy: expected one of full, adapter, .*, got 'ful'"
        ):
            get_strategy("ful")
        with pytest.raises(
            ValueError, match="freeze_stages: expected 1 to 3 for this model of 4 blocks, got 6"
        ):
            parameter_groups(scratch, STRATEGIES["partial"], freeze_stages=6)
        with pytest.raises(ValueError, match="strategy: partial .* got 0"):
            parameter_groups(
                create_model("image", pretrained="none", model_name="resnet18"),
                STRATEGIES["partial"],
            )
        with pytest.raises(ValueError, match="adapter_dim: .* got none"):
            parameter_groups(scratch, STRATEGIES["adapter"])


class TestSchedules:
    @pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "plateau", "none"])
    def test_shapes(self, schedule: str) -> None:
        shape = lr_shape(schedule, 0.1)
        values = [shape(progress) for progress in np.linspace(0, 1, 101)]
        assert max(values) == pytest.approx(1, abs=0.01)
        assert values[0] <= 0.05
        assert (values[-1] < 0.01) == (schedule in ("one_cycle", "cosine"))
        with pytest.raises(
            ValueError, match="schedule: expected one of one_cycle, .* got 'linear'"
        ):
            lr_shape("linear", 0)
        with pytest.raises(ValueError, match="warmup: .*got 1"):
            lr_shape(schedule, 1.0)

    def test_gradual_is_fine_tune_of_fastai(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        """The rates and momentum of each step, as recorded in a fit by fastai itself."""

        class Record(Callback):
            order = 70

            def before_fit(self) -> None:
                self.steps = getattr(self, "steps", [])

            def before_step(self) -> None:
                hypers = [(h["lr"], h["mom"]) for h in self.opt.hypers]
                self.steps.append((self.opt.frozen_idx, hypers))

        record, expected = Record(), Record()
        learn = learner(make_store(tmp_path / "s"), tmp_path, "scratch", "gradual", cbs=[record])
        train(learn, "gradual", epochs=4, lr=None)
        of = {group.part: number for number, group in enumerate(learn.groups)}
        parts = ("lower_blocks", "transformer", "head")
        ours = [
            (frozen > of["transformer"], [h[of[p]] for p in parts]) for frozen, h in record.steps
        ]

        theirs = Learner(
            learn.dls,
            nn.Sequential(nn.Flatten(), nn.Linear(18 * 512, 4), nn.Linear(4, 4), nn.Linear(4, 3)),
            loss_func=nn.CrossEntropyLoss(),
            splitter=lambda model: [list(layer.parameters()) for layer in model[1:]],
            cbs=[expected],
        )
        with theirs.no_bar(), theirs.no_logging():
            theirs.fine_tune(3)  # epochs after the one in which only the head trains
        assert len(ours) == len(expected.steps) == 4 * len(learn.dls.train)
        for (is_first, rates), (frozen, values) in zip(ours, expected.steps, strict=True):
            assert is_first == (frozen == 2)
            trained = slice(frozen, None)
            # fastai computes the progress in float32.
            np.testing.assert_allclose(rates[trained], values[trained], rtol=1e-4)

    def test_plateau_counts_as_torch_and_goes_on_after_a_resume(self) -> None:
        scores = np.random.default_rng(0).normal(0.5, 1e-2, 200).cumsum() % 1
        scores[40:60] = scores[39] * (1 + 0.9e-4 * np.arange(20) / 19)  # gains of less than 1e-4
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        expected = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, "max", factor=0.5, patience=5
        )
        levels, plan = [], Schedule([], "plateau")
        plateau = Plateau(plan)
        for score in scores:
            expected.step(score)
            plateau.learn = SimpleNamespace(
                recorder=SimpleNamespace(
                    metric_names=["epoch", "macro_f1", "time"], values=[[score]]
                )
            )
            plateau.after_epoch()
            levels.append(plan.level)
            assert plan.level == optimiser.param_groups[0]["lr"]
            state = json.loads(json.dumps(plateau.state))
            plateau = Plateau(plan)  # of a new process
            plateau.state = state
        assert min(np.diff(levels)) < 0

    def test_plateau_halves_the_rate_after_six_bad_epochs_and_patience_stops(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        learn = learner(make_store(tmp_path / "s"), tmp_path, "scratch", "full")
        train(learn, "full", epochs=20, lr=1e-12, schedule="plateau", patience=8)
        assert len(learn.recorder.values) == 9  # the first is the best; eight wait
        assert learn.opt.hypers[0]["lr"] == pytest.approx(1e-12 / 2)


class TestFit:
    def test_learns_and_logs_and_keeps_the_best(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        store = make_store(tmp_path / "store", {"train": 256, "val": 60, "test": 60})
        checkpoint = tmp_path / "best.safetensors"
        folder = tmp_path / "checkpoints"
        best = SaveBest(
            lambda: save_model(checkpoint, learn.model, classes="abc"),
            save_epoch=lambda number: save_model(
                folder / f"epoch_{number}.safetensors", learn.model, classes="abc"
            ),
        )
        steps_seen = []

        class Watch(Callback):
            order = 80

            def after_epoch(self) -> None:
                events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
                steps_seen.append([e.step for e in events.Scalars("Validation/f1_macro")])

        learn = learner(store, tmp_path, "scratch", "full", cbs=[best, Watch()])
        train(learn, "full", epochs=4)
        assert steps_seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]  # during the fit
        metrics = pd.read_csv(tmp_path / "metrics.csv")
        scores = ["accuracy", "macro_f1", "recall", "precision", "roc_auc"]
        columns = ["epoch", "train_loss", "valid_loss", *scores, "learning_rate", "seconds"]
        assert list(metrics.columns) == columns
        assert metrics["macro_f1"].max() > 0.9
        assert best.best_epoch == metrics["macro_f1"].idxmax()
        assert best.best_values["macro_f1"] == pytest.approx(metrics["macro_f1"].max())
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        tags = {
            "Loss/Train": "train_loss",
            "Loss/Validation": "valid_loss",
            "Learning_Rate": "learning_rate",
            "Validation/f1_macro": "macro_f1",
        }
        tags |= {f"Validation/{name}": name for name in scores if name != "macro_f1"}
        assert set(events.Tags()["scalars"]) == set(tags)
        for tag, name in tags.items():
            values = [event.value for event in events.Scalars(tag)]
            assert values == pytest.approx(list(metrics[name]), rel=1e-5), tag
        ended = [event.wall_time for event in events.Scalars("Loss/Train")]
        assert ended == sorted(ended)
        names = [f"epoch_{number}.safetensors" for number in (1, 2, 3, 4)]
        assert sorted(path.name for path in folder.iterdir()) == names
        model, _ = load_model(checkpoint)
        same = load_model(folder / names[best.best_epoch])[0].state_dict()
        assert all(torch.equal(same[name], value) for name, value in model.state_dict().items())
        predicted = model(learn.dls.valid.views[0].float()).argmax(-1)
        found = (predicted == learn.dls.valid.targets).float().mean().item()
        assert found == pytest.approx(best.best_values["accuracy"], abs=0.04)

    def test_the_same_seed_gives_the_same_weights(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        store, states = make_store(tmp_path / "store"), []
        for name in ("one", "two"):
            learn = learner(
                store,
                tmp_path / name,
                "scratch",
                "full",
                loss={"mixup": 0.4},
                optim={"ema": 0.9},
                cbs=[AugmentCodes(0.1, 0.1, 0.1)],
            )
            train(learn, "full", epochs=2)
            states.append(learn.model.state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    @pytest.mark.slow
    def test_lr_find_leaves_no_trace_and_its_rate_is_kept(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        learn = learner(make_store(tmp_path / "store"), tmp_path, "hybrid", "gradual")
        before = {name: value.clone() for name, value in learn.model.state_dict().items()}
        peak = train(
            learn,
            "gradual",
            epochs=4,
            lr=None,
            lr_find=True,
            schedule="none",
            state=tmp_path / "last.safetensors",
        )
        assert 1e-6 < peak < 1
        assert len(learn.rates_tried) > 20
        assert len(pd.read_csv(tmp_path / "metrics.csv")) == 4
        again = learner(tmp_path / "store", tmp_path, "hybrid", "gradual")
        assert all(torch.equal(again.model.state_dict()[name], before[name]) for name in before)
        found = train(
            again,
            "gradual",
            epochs=4,
            lr=None,
            lr_find=True,
            schedule="none",
            state=tmp_path / "last.safetensors",
        )
        assert found == peak
        assert not hasattr(again, "rates_tried")

    def test_the_average_is_what_is_validated_and_kept(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        kept = []
        best = SaveBest(lambda: kept.append([p.detach().clone() for p in learn.model.parameters()]))
        learn = learner(
            make_store(tmp_path / "store"),
            tmp_path,
            "scratch",
            "full",
            optim={"ema": 0.99},
            cbs=[best],
        )
        train(learn, "full", epochs=1)
        last = list(learn.model.parameters())
        assert kept
        assert not torch.equal(kept[0][0], last[0])
        for mine, average in zip(kept[0], learn.ema.average, strict=True):
            torch.testing.assert_close(mine, average)

    def test_no_number_stops_the_fit_and_keeps_the_last_checkpoint(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        class Poison(SaveBest):
            def before_batch(self) -> None:
                if self.training and self.epoch == 1 and self.iter == 2:
                    self.learn.xb = (self.x * float("nan"),)

        learn = learner(
            make_store(tmp_path / "store"), tmp_path, "scratch", "full", cbs=[Poison(lambda: None)]
        )
        with pytest.raises(ValueError, match="loss is NaN or inf in epoch 1, batch 2: .*lower lr"):
            train(learn, "full", epochs=3, state=tmp_path / "last.safetensors")
        whole = learner(tmp_path / "store", tmp_path, "scratch", "full")
        train(whole, "full", epochs=3, state=tmp_path / "last.safetensors")
        assert whole.first_epoch == 0
        assert len(pd.read_csv(tmp_path / "metrics.csv")) == 3

    def test_a_nan_seen_late_changes_no_weight(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        """On a GPU the host may run ahead: nothing is updated until it sees the loss."""
        before: list[Tensor] = []

        class Poison(Callback):
            def before_train(self) -> None:
                self.learn.stop_on_nan.seen = False

            def before_batch(self) -> None:
                if self.training and self.iter == 2:
                    before.extend(p.detach().clone() for p in self.model.parameters())
                    self.learn.xb = (self.x * float("nan"),)

        learn = learner(make_store(tmp_path / "store"), tmp_path, "scratch", "full", cbs=[Poison()])
        with pytest.raises(ValueError, match="epoch 0, batch 2: .*lower lr"):
            train(learn, "full", state=tmp_path / "last.safetensors")
        assert learn.iter == learn.n_iter - 1 > 2
        assert all(map(torch.equal, before, learn.model.parameters()))
        assert load_checkpoint(tmp_path / "last.safetensors")[1]["epoch"] == -1
        learn.remove_cb(Poison)
        train(learn, "full")  # the skipping ended with the fit
        assert not all(map(torch.equal, before, learn.model.parameters()))

    def test_weights_that_a_finite_loss_made_nan_are_not_saved(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        class Poison(Callback):
            def before_step(self) -> None:
                if self.epoch == 1 and self.iter == self.n_iter - 1:
                    next(self.model.parameters()).grad.fill_(float("nan"))

        learn = learner(make_store(tmp_path / "store"), tmp_path, "scratch", "full", cbs=[Poison()])
        with pytest.raises(ValueError, match="epoch 1, batch 6: .*lower lr"):
            train(learn, "full", epochs=2, state=tmp_path / "last.safetensors")
        assert load_checkpoint(tmp_path / "last.safetensors")[1]["epoch"] == 0

    def test_a_fit_that_breaks_off_leaves_autocast_off(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        class Interrupted(SaveBest):
            def after_pred(self) -> None:
                raise KeyboardInterrupt

        store = make_store(tmp_path / "store")
        learn = learner(
            store,
            tmp_path,
            "scratch",
            "full",
            cbs=[Interrupted(lambda: None)],
            optim={"precision": "bf16"},
        )
        with pytest.raises(KeyboardInterrupt):
            train(learn, "full", epochs=1)
        assert not torch.is_autocast_enabled("cpu")

    @pytest.mark.parametrize(
        "more",
        [{}, {"mixup": 0.4, "label_smoothing": 0.1, "weighted": True}],
        ids=["plain", "mixed"],
    )
    def test_soft_labels_are_the_shares_of_the_votes(
        self, make_store: Callable[..., Path], tmp_path: Path, more: dict
    ) -> None:
        store, faces = make_store(tmp_path / "store"), tmp_path / "faces"
        write_json(store / "store.json", read_json(store / "store.json") | {"faces": str(faces)})
        seed_everything(2)
        model = create_model("scratch", 3, **OPTIONS["scratch"])
        soft = {"batch_size": 16, "device": CPU, "labels": "soft"}
        with pytest.raises(FileNotFoundError, match="fer2013new.csv: no FER"):
            face_dls(model, store, **soft)
        faces.mkdir()
        names = ["anger", "happiness", "sadness"]
        votes = [{names[i % 3]: 6, names[(i + 1) % 3]: 4} for i in range(96)]
        votes[5] = {"unknown": 8}
        votes.insert(2, {"NF": 10})  # a row without a face, and so without a name
        fer_plus_votes(votes).to_csv(faces / "fer2013new.csv", index=False)
        dls = face_dls(model, store, **soft)
        assert dls.num_faces == 95
        torch.testing.assert_close(dls.train.targets[0], torch.tensor([0.6, 0.4, 0.0]))
        assert dls.valid.targets.ndim == 1
        learn = build_learner(
            model,
            dls,
            get_strategy("full"),
            LossConfig(**more),
            OptimConfig(precision="float32"),
            folder=tmp_path,
        )
        train(learn, "full", epochs=20)
        assert pd.read_csv(tmp_path / "metrics.csv")["macro_f1"].max() > 0.9
        with torch.no_grad():
            probs = learn.model.eval()(dls.train.views[0][:60].float()).softmax(1)
        if not more:  # the second choice of the voters comes second
            assert (
                probs.argsort(1)[:, 1] == dls.train.targets[:60].argsort(1)[:, 1]
            ).float().mean() > 0.9

    def test_gradients_are_clipped(self, make_store: Callable[..., Path], tmp_path: Path) -> None:
        norms = []

        class Watch(SaveBest):
            def after_step(self) -> None:
                norms.append(
                    torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()]).item()
                )

        learn = learner(
            make_store(tmp_path / "store"),
            tmp_path,
            "scratch",
            "full",
            optim={"grad_clip": 0.05},
            cbs=[Watch(lambda: None)],
        )
        train(learn, "full")
        assert max(norms) == pytest.approx(0.05, rel=1e-3)

    def test_weights_and_biases_offline(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        logged = trackers("offline", tmp_path, "tiny-run", {"lr": 1e-3})
        train(
            learner(make_store(tmp_path / "store"), tmp_path, "scratch", "full", cbs=logged),
            "full",
            epochs=2,
        )
        [folder] = (tmp_path / "wandb").glob("offline-run-*-tiny-run")
        [file] = folder.glob("run-*.wandb")
        content = file.read_bytes()
        assert [
            name
            for name in (b"macro_f1", b"valid_loss", b"learning_rate", b"peak_memory_gb", PROJECT)
            if name not in content
        ] == []
        command = [Path(sys.executable).with_name("wandb"), "sync", "--dry-run", folder]
        assert "Would sync 1 run" in subprocess.run(command, capture_output=True, text=True).stderr
        assert trackers("off", tmp_path, "x", {}) == []
        with pytest.raises(
            ValueError, match="wandb: expected one of off, offline, online, got 'on'"
        ):
            trackers("on", tmp_path, "x", {})

    def test_mistakes_are_named(self, make_store: Callable[..., Path], tmp_path: Path) -> None:
        store = make_store(tmp_path / "store")
        for config, wrong in (
            (OptimConfig, {"precision": "fp8"}),
            (OptimConfig, {"ema": 2.0}),
            (OptimConfig, {"grad_clip": -1.0}),
            (OptimConfig, {"weight_decay": float("nan")}),
            (LossConfig, {"label_smoothing": 1.0}),
            (LossConfig, {"mixup": -0.2}),
        ):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
                config(**wrong)
        with pytest.raises(ValueError, match="precision: fp16 needs a GPU"):
            learner(store, tmp_path, "scratch", "full", optim={"precision": "fp16"})
        with pytest.raises(ValueError, match="epochs: .*got 0"):
            train(learner(store, tmp_path, "scratch", "full"), "full", epochs=0)
        with pytest.raises(ValueError, match=r"epochs: expected a number in \[2, .*got 1"):
            train(learner(store, tmp_path, "scratch", "gradual"), "gradual", epochs=1)
        with pytest.raises(ValueError, match="lr: expected 0 with lr_find.*got 0.001"):
            train(learner(store, tmp_path, "scratch", "full"), "full", lr_find=True)


class TestData:
    def test_batches_hold_every_sample_once_an_epoch(self) -> None:
        loader = TensorBatches([torch.arange(10)], torch.arange(10), bs=4)
        assert torch.cat([x for x, _ in loader]).tolist() == list(range(10))
        assert len(loader) == 3
        shuffled = TensorBatches([torch.arange(12)], torch.arange(12), bs=4, shuffle=True)
        seed_everything(0)
        drawn = torch.cat([x for x, _ in shuffled]).tolist()
        assert sorted(drawn) == list(range(12))
        assert drawn != list(range(12))

    def test_a_batch_draws_among_the_views_and_keeps_the_target(self) -> None:
        views = [torch.arange(1000) + 10_000 * view for view in range(3)]
        seed_everything(0)
        x, y = next(iter(TensorBatches(views, torch.arange(1000), bs=1000, shuffle=True)))
        assert torch.equal(x % 10_000, y)
        assert torch.bincount(x // 10_000).min() > 250

    def test_images_are_the_faces_of_the_codes(self, faces: Path) -> None:
        model = create_model("image", 7, **OPTIONS["image"])
        codes = create_model("scratch", 7, **OPTIONS["scratch"])
        images = face_dls(model, faces, batch_size=16, device=CPU, fraction=0.5, seed=3)
        latents = face_dls(codes, faces, batch_size=16, device=CPU, fraction=0.5, seed=3)
        assert torch.equal(images.train.targets, latents.train.targets)
        assert images.train.views[0].shape == (len(latents.train.targets), 3, 32, 32)
        found = load_faces(faces.parent / "toy", "val")
        first = torch.from_numpy(np.array(found[0][0].convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(images.valid.views[0][0], first)

    def test_parts_are_nested_and_drawn_by_their_own_seed(
        self, make_store: Callable[..., Path], tmp_path: Path
    ) -> None:
        store = LatentStore.open(make_store(tmp_path / "s"), "train")
        tenth, half = training_subset(store, fraction=0.1), training_subset(store, fraction=0.5)
        assert tenth.sum() == 9
        assert (half[tenth]).all()
        few = training_subset(store, shots=5)
        assert np.bincount(store.labels.numpy()[few]).tolist() == [5, 5, 5]
        assert (training_subset(store, shots=10)[few]).all()
        assert not np.array_equal(training_subset(store, shots=5, seed=1), few)
        with pytest.raises(ValueError, match="shots: expected 1 to 32"):
            training_subset(store, shots=33)
        with pytest.raises(ValueError, match=r"data_fraction: expected a share in \(0, 1\], got 0"):
            training_subset(store, fraction=0)

    def test_class_weights_make_every_class_count_the_same(self) -> None:
        labels = torch.tensor([0] * 6 + [1] * 3 + [2])
        weights = class_weights(labels, 3)
        torch.testing.assert_close(
            weights * torch.tensor([6.0, 3.0, 1.0]), torch.full((3,), 10 / 3)
        )

    def test_mistakes_are_named(self, make_store: Callable[..., Path], tmp_path: Path) -> None:
        store = make_store(tmp_path / "store")
        model = create_model("scratch", 3, **OPTIONS["scratch"])
        with pytest.raises(
            ValueError, match="batch_size: expected 1 to 96, the number of samples, got 97"
        ):
            face_dls(model, store, batch_size=97, device=CPU)
        narrow = create_model("scratch", 3, latent_dim=256, **OPTIONS["scratch"])
        with pytest.raises(ValueError, match=r"store: .* \(18, 256\), got \(18, 512\)"):
            face_dls(narrow, store, batch_size=16, device=CPU)
        made_from = {"encoder": "a", "synthetic": True, "faces": tmp_path}
        complete_store(store, {"train": 96, "val": 30}, classes="abcd", **made_from)
        with pytest.raises(ValueError, match="no training code of d"):
            face_dls(model, store, batch_size=16, device=CPU)
        complete_store(store, {"train": 96, "val": 30}, classes="ab", **made_from)
        with pytest.raises(ValueError, match="expected labels 0 to 1, one per class, got 2"):
            face_dls(model, store, batch_size=16, device=CPU)

    def test_a_face_that_is_gone_is_named(self, faces: Path, tmp_path: Path) -> None:
        model = create_model("image", 7, **OPTIONS["image"])
        gone = min((faces.parent / "toy" / "val" / "happy").iterdir())
        content = gone.read_bytes()
        gone.unlink()
        try:
            with pytest.raises(ValueError, match=f"val/happy/{gone.name} was removed"):
                inputs_for(model, LatentStore.open(faces, "val"))
        finally:
            gone.write_bytes(content)


class TestAugmentation:
    def test_codes(self) -> None:
        seed_everything(0)
        codes = torch.randn(400, 18, 512) * torch.linspace(0.1, 10, 18)[:, None]
        noisy = AugmentCodes(noise=0.2).augment(codes) - codes
        ratio = noisy.std((0, 2)) / codes.std((0, 2))
        torch.testing.assert_close(ratio, torch.full((18,), 0.2), atol=0.01, rtol=0)
        scaled = AugmentCodes(scale=0.3).augment(codes) / codes
        assert scaled.std((1, 2)).max() < 1e-3
        assert 0.7 <= scaled.min() < 0.75 < 1.25 < scaled.max() <= 1.3001
        hidden = (AugmentCodes(mask=0.25).augment(codes) == 0).all(-1)
        assert hidden.float().mean() == pytest.approx(0.25, abs=0.02)
        assert torch.equal(AugmentCodes().augment(codes), codes)
        with pytest.raises(ValueError, match=r"latent_mask: expected a number in \[0, 1\), got 1"):
            AugmentCodes(mask=1)

    def test_images_change_in_training_only(self, faces: Path, tmp_path: Path) -> None:
        seen = {True: [], False: []}

        class Watch(Callback):
            order = -4

            def before_batch(self) -> None:
                seen[self.training].append(self.x)

        learn = learner(faces, tmp_path, "image", "full", cbs=[Watch(), AugmentImages()])
        train(learn, "full")
        assert seen[False][0].dtype == torch.uint8
        first = seen[True][0]
        assert first.dtype == torch.float32
        assert 0 <= first.min() < first.max() <= 1
        originals = learn.dls.train.views[0].float() / 255
        nearest = torch.cdist(first.flatten(1), originals.flatten(1)).min(1).values
        mirrored = torch.cdist(first.flatten(1), originals.flip(-1).flatten(1)).min(1).values
        assert torch.minimum(nearest, mirrored).median() > 0.5  # moved and lit otherwise, too


def test_few_faces_are_repeated_until_an_epoch_is_long_enough(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    model, store = (
        create_model("latent_cnn", 3, embed_dim=16, depth=1),
        make_store(tmp_path / "store"),
    )
    few = face_dls(model, store, batch_size=16, device=CPU, shots=2, epoch_faces=50)
    assert (few.num_faces, len(few.train.targets)) == (6, 50)
    assert len(torch.unique(few.train.views[0].float(), dim=0)) == 6
    alone = face_dls(model, store, batch_size=6, device=CPU, shots=2)
    assert (alone.num_faces, len(alone.train.targets)) == (6, 6)
    enough = face_dls(model, store, batch_size=16, device=CPU, epoch_faces=50)
    assert (enough.num_faces, len(enough.train.targets)) == (96, 96)
