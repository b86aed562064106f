"""A fit that is killed at random moments, and resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fervit_lib.system.atomic import json_default
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.training.resume import get_random_state, read_state, set_random_state

FIT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from fervit_lib import models, training
from fervit_lib.system.runtime import seed_everything
store, folder, strategy, schedule = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
seed_everything(0)
options = {"embed_dim": 48, "depth": 2, "num_heads": 2}
model = models.create_model("scratch", 3, **options)
dls = training.face_dls(model, store, batch_size=8, device=torch.device("cpu"))
plan = training.get_strategy(strategy)
best = training.SaveBest(lambda: models.save_model(
    folder / "best.safetensors", model, classes=dls.classes))
loss, optim = training.LossConfig(mixup=0.4), training.OptimConfig(ema=0.9, grad_clip=1.0)
learn = training.build_learner(model, dls, plan, loss, optim, folder=folder,
    cbs=[best, training.AugmentCodes(0.1, 0.1, 0.1)])
with learn.no_bar(), learn.no_logging():
    training.fit(learn, plan, epochs=6, schedule=schedule, patience=50,
        lr=None if strategy == "gradual" else 1e-3, lr_find=strategy == "gradual",
        state=folder / "last.safetensors")
models.save_model(folder / "final.safetensors", model, classes=dls.classes)
"""


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", FIT, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def finish(process: subprocess.Popen) -> None:
    process.communicate()
    assert process.returncode == 0


@pytest.mark.launched
@pytest.mark.parametrize(
    ("strategy", "schedule"),
    [("full", "one_cycle"), pytest.param("gradual", "plateau", marks=pytest.mark.slow)],
)
def test_a_killed_fit_ends_with_identical_weights(
    strategy: str, schedule: str, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store", {"train": 240, "val": 30, "test": 30}, noise=4.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(store, whole, strategy, schedule))

    state, draw = killed / "last.safetensors", random.Random(0)
    for over in (0, 2):  # epochs
        process = start(store, killed, strategy, schedule)
        while not state.is_file() or load_checkpoint(state)[1]["epoch"] < over:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert load_checkpoint(state)[1]["epoch"] < 5, "it was killed too late"
    finish(start(store, killed, strategy, schedule))

    for name in ("final.safetensors", "best.safetensors"):
        one, two = load_file(whole / name), load_file(killed / name)
        assert all(torch.equal(one[key], two[key]) for key in one), name
    one, two = (
        pd.read_csv(folder / "metrics.csv").drop(columns="seconds") for folder in (whole, killed)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert len(one) == 6
    events = EventAccumulator(str(killed / "tensorboard")).Reload()
    scalars = events.Scalars("Loss/Train")
    assert [scalar.step for scalar in scalars] == list(range(6))  # no epoch twice
    assert [scalar.value for scalar in scalars] == pytest.approx(list(two["train_loss"]))


def test_a_state_of_other_settings_or_a_truncated_one_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    assert read_state(path, {"epochs": 3}) is None
    save_checkpoint(path, {"model.w": torch.ones(3)}, {"fit": {"epochs": 3}, "epoch": 0})
    assert read_state(path, {"epochs": 3}) is not None
    assert read_state(path, {"epochs": 4}) is None
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"last\.safetensors: damaged"):
        read_state(path, {"epochs": 3})


def test_all_random_states_are_restored() -> None:
    state = get_random_state()
    drawn = [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(2).tolist(),
    ]
    random.gauss(0, 1), np.random.randn()
    set_random_state(state[0], json.loads(json.dumps(state[1], default=json_default)))
    again = [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(2).tolist(),
    ]
    assert again == drawn
