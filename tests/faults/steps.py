"""What `make soak` kills: every step of an experiment, at its smallest."""

import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import TrialState

from fervit_lib.report.index import write_index
from fervit_lib.runs import Run
from fervit_lib.sweep import study
from fervit_lib.sweep.config import read_sweep
from fervit_lib.sweep.work import work
from tests.faults.notebooks import execute

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "batch_size": 16}
ENCODER = "codes/data/latents/toy/autoencoder"  # within the folder of all steps


@dataclass(frozen=True)
class Step:
    """What is killed: `processes` that run `work(folder)`; each is restarted until it ends.

    Attributes:
        ranks: the processes are those of one launch: if one is killed, all are.
        prepare: write what the step reads into a new folder.
    """

    name: str
    work: Callable[[Path], Any]
    processes: int = 1
    ranks: bool = False
    prepare: Callable[[Path], Any] = Path.mkdir
    check: Callable[[Path], None] = lambda folder: None


def encode(folder: Path) -> None:
    parameters = {
        "toy_faces": 140,
        "num_views": 2,
        "img_size": 32,
        "data_dir": str(folder / "data"),
        "reports": str(folder / "reports"),
        "device": "cpu",
    }
    execute("01_encode", parameters)


def train(folder: Path, **parameters: Any) -> None:
    given = {"latents": str(folder.parent / ENCODER), "epochs": 4, "pretrained": "random"}
    at = {"reports": str(folder / "reports"), "device": "cpu"}
    execute("02_train", SMALL | given | parameters | at)


# The strategy with two phases, and everything else that has a state to resume.
GRADUAL = {
    "strategy": "gradual",
    "lr_find": True,
    "schedule": "plateau",
    "mixup": 0.2,
    "ema": 0.9,
    "latent_noise": 0.1,
    "epochs": 6,
    "pretrained": "mae",
    "mae_epochs": 1,
    "patience": 50,
}
PIXELS = {"approach": "image", "model_name": "face_cnn", "image_size": 32, "pretrained": "none"}


def train_two(folder: Path) -> None:
    """The two runs that are evaluated, explained and listed: of codes and of pixels."""
    for parameters in ({}, PIXELS):
        own = {"experiment": "demo", "pretrained": "none", "epochs": 4, "lr": 1e-3}
        train(folder, **own | parameters)


def copy_two(folder: Path) -> None:
    shutil.copytree(folder.parent / "two" / "reports", folder / "reports")


def look_at(folder: Path, notebook: str, **parameters: Any) -> None:
    at = {"experiment": "demo", "reports": str(folder / "reports"), "device": "cpu"}
    execute(notebook, parameters | at)


def index(folder: Path) -> None:
    config = folder.parent / "demo.yaml"
    config.write_text("experiment: demo\n")
    write_index(folder / "reports" / "demo", config)


def distil(folder: Path) -> None:
    parameters = {
        "teacher_encoder": "mobilenet_v2",
        "student_encoder": "mobilenet_v2",
        "student_decoder": "slim",
        "teacher": "toy",
        "detector": "toy",
        "teacher_epochs": 2,
        "detector_epochs": 1,
        "toy_people": 20,
        "toy_size": 32,
        "image_size": 32,
        "batch_size": 4,
        "epochs": 2,
        "seeds": 1,
        "data_dir": str(folder / "data"),
        "reports": str(folder / "reports"),
        "device": "cpu",
    }
    execute("03_distill", parameters)


GRID = {"lr": {"values": [1e-3, 1e-2]}, "depth": {"values": [1, 2]}}


def search(folder: Path) -> None:
    """One worker of a sweep. It trains trials in its own process, so both are killed together."""
    fixed = SMALL | {"latents": str(folder.parent / ENCODER), "epochs": 3}
    parameters = {name: {"value": value} for name, value in fixed.items()} | GRID
    content = {
        "name": "s",
        "method": "grid",
        "metric": {"name": "macro_f1", "goal": "maximize"},
        "parameters": parameters,
    }
    file = folder.parent / f"sweep-{os.getpid()}.yaml"
    file.write_text(yaml.safe_dump(content))

    def train_trial(_: Any, run: Run, parameters: dict[str, Any]) -> float:
        of_run = {
            "experiment": run.experiment,
            "variant": run.variant,
            "overwrite": True,
            "reports": str(run.reports),
            "device": "cpu",
        }
        execute("02_train", parameters | of_run)
        return run.result["val_macro_f1"]

    # A trial that kills its workers is given up after some starts, but here the test kills them.
    study.MAX_STARTS = sys.maxsize
    work(read_sweep(file), folder / "reports", train=train_trial)


def check_trials(folder: Path) -> None:
    """Every point of the grid was trained once, by whichever worker."""
    trials = study.load_study(folder / "reports" / "s" / "sweep")[0].trials
    assert len(trials) == math.prod(len(axis["values"]) for axis in GRID.values())
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == len(trials)
    for trial in trials:
        reason = f"trial {trial.number}: {trial.state.name}, {trial.user_attrs}"
        assert trial.state == TrialState.COMPLETE, reason
        run = Run(folder / "reports", "s", "train", f"trial-{trial.number:03d}")
        assert trial.value == run.result["val_macro_f1"]


EVALUATE = {"notebook": "04_evaluate", "robust_faces": 7}
EXPLAIN = {
    "notebook": "05_attention_explorer",
    "num_faces": 20,
    "shots": 2,
    "repeats": 1,
    "interactive": False,
}
STEPS = [
    Step("encode", encode, processes=2),
    Step("full", partial(train, strategy="full", pretrained="none")),
    Step("adapter", partial(train, strategy="adapter")),
    Step("probe", partial(train, strategy="linear_probe")),
    Step("partial", partial(train, strategy="partial", depth=2, freeze_stages=1)),
    Step("gradual", partial(train, **GRADUAL)),
    Step("mae", partial(train, pretrained="mae", mae_epochs=6, epochs=1)),
    Step("image", partial(train, **PIXELS, epochs=2)),
    Step("tworanks", partial(train, epochs=6, pretrained="none"), processes=2, ranks=True),
    Step("distill", distil),
    Step("evaluate", partial(look_at, **EVALUATE), prepare=copy_two),
    Step("explain", partial(look_at, **EXPLAIN), prepare=copy_two),
    Step("sweep", search, processes=2, check=check_trials),
    Step("index", index, prepare=copy_two),
]
