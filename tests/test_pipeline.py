"""The configuration of an experiment: its variants and mistakes; every committed one is valid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fervit_lib.pipeline import (
    NAMED_BY,
    NOTEBOOKS,
    PROJECT_ROOT,
    find_teachers,
    near,
    read_config,
    read_parameters,
    variants,
)

CONFIGS = sorted(
    path for path in (PROJECT_ROOT / "configs").glob("*.yaml") if path.stem != "sweep"
)  # sweeps have a format of their own


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    plan = read_config(yaml.safe_load(path.read_text()))
    assert list(plan) == list(NOTEBOOKS)
    assert len(plan["encode"]) == 1 and plan["train"]


def test_the_default_is_one_variant_of_each_step_but_tour_and_distill() -> None:
    plan = read_config({"experiment": "x"})
    assert {step: list(found) for step, found in plan.items()} == {
        "tour": [],
        "encode": ["autoencoder"],
        "train": ["scratch-full-seed0"],
        "distill": [],
        "evaluate": ["all"],
        "explain": ["all"],
    }
    assert list(read_config({"experiment": "x", "distill": None})["distill"]) == ["all"]
    assert list(read_config({"experiment": "x", "tour": {}})["tour"]) == ["all"]
    assert read_config({"experiment": "x", "explain": []})["explain"] == {}


def test_lists_make_every_combination_and_what_varies_is_in_the_name() -> None:
    block = {"seed": [0, 1], "lr": [0.1, 0.2], "depth": 2, "position": ["sinusoidal"]}
    found = variants("train", block)
    assert found == {
        f"scratch-full-seed{seed}-lr={lr}-position=sinusoidal": {
            "depth": 2,
            "lr": lr,
            "position": "sinusoidal",
            "seed": seed,
        }
        for seed in (0, 1)
        for lr in (0.1, 0.2)
    }
    assert variants("train", [{"seed": 0}, {"seed": 1}]).keys() == {
        "scratch-full-seed0",
        "scratch-full-seed1",
    }


def test_a_training_waits_for_its_teacher_in_the_same_experiment(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    blocks = [{"teacher": str(folder / "cnn"), "seed": [0]}]
    blocks += [{"teacher": str(folder / "cnn" / "checkpoints" / "best.safetensors"), "seed": [1]}]
    blocks += [{"teacher": str(tmp_path / "other" / "cnn"), "seed": [2]}, {"seed": [3]}]
    trainings = {f"vit{block['seed'][0]}": block for block in blocks} | {"cnn": {}}
    expected = {"vit0": ["cnn"], "vit1": ["cnn"], "vit2": [], "vit3": [], "cnn": []}
    assert find_teachers(trainings, folder) == expected
    relative = Path("reports/x/train")
    trainings = {"vit": {"teacher": "reports/x/train/cnn"}, "cnn": {}, "cn": {}}
    assert find_teachers(trainings, relative) == {"vit": ["cnn"], "cnn": [], "cn": []}


def test_the_vit_of_fer2013_cpu_is_taught_by_the_cnn_before_it() -> None:
    config = yaml.safe_load((PROJECT_ROOT / "configs" / "fer2013_cpu.yaml").read_text())
    trainings = read_config(config)["train"]
    folder = Path("reports", config["experiment"], "train")
    cnn, vit = "image-full-seed0", "image-full-seed0-distil=soft"
    assert find_teachers(trainings, folder) == {cnn: [], vit: [cnn]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": []}, "'trian'; did you mean 'train'"),
        ({"experiment": None}, "experiment: <name>"),
        ({"experiment": "../up"}, "^experiment: "),
        ({"train": {"epohcs": 3}}, "^train.epohcs: .*02_train.*'epochs'"),
        ({"train": {3: 3}}, "^train.3: "),
        ({"train": {"epochs": "ten"}}, "^train.epochs: expected int, got 'ten'"),
        ({"train": {"epochs": True}}, "^train.epochs: expected int, got True"),
        ({"train": {"epochs": [1, 2.5]}}, "^train.epochs: expected int, got 2.5"),
        ({"train": {"lr": "1e-4"}}, "^train.lr: .*write 1.0e-4"),
        ({"train": {"class_weights": 1}}, "^train.class_weights: expected bool, got 1"),
        ({"train": {"seed": []}}, r"^train.seed: .*got \[\]"),
        ({"train": ["full"]}, "^train: expected parameters .*'full'"),
        ({"train": {"approach": "../../up"}}, "^train: "),
        ({"train": [{"seed": 0}, {"seed": 0}]}, "^train: .*'scratch-full-seed0'"),
        ({"encode": {"latents": "x"}}, "^encode.latents: "),  # set by the Snakefile
        ({"encode": {"encoder": ["psp", "e4e"]}}, "^encode: expected one encoder, got psp, e4e"),
        ({"encode": []}, "^encode: expected one encoder, got none"),
    ],
)
def test_a_mistake_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_config({"experiment": "x"} | changes)
    assert "\n" not in str(error.value)


def test_snakemake_shows_a_mistake_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"experiment": "x", "trian": [], "reports": str(tmp_path)}))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", "--configfile", path]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert lines[-1].startswith(f"{path}: unknown key 'trian'")
    assert "Traceback" not in done.stdout + done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_near_suggests_a_name_or_lists_all() -> None:
    assert near("epohcs", ["epochs", "lr"]) == "did you mean 'epochs'?"
    assert near("xyz", ["lr", "epochs"]) == "known are epochs, lr"


class TestReadParameters:
    @pytest.mark.parametrize("step", NAMED_BY)
    def test_what_names_a_variant_is_a_parameter(self, step: str) -> None:
        assert set(NAMED_BY[step]) <= set(read_parameters(PROJECT_ROOT / NOTEBOOKS[step]))

    def test_defaults_are_literals_and_nothing_is_executed(self, tmp_path: Path) -> None:
        def write(*sources: str) -> Path:
            cells = [{"metadata": {"tags": ["parameters"]}, "source": text} for text in sources]
            path = tmp_path / "n.ipynb"
            path.write_text(json.dumps({"cells": [{"metadata": {}, "source": "1 / 0"}, *cells]}))
            return path

        path = write("# Run\nname: str = 'a'  # a name\nlr: float = -1e-3\n\nx = 1\n", "y: int = 1")
        assert read_parameters(path) == {"name": ("str", "a"), "lr": ("float", -1e-3)}
        with pytest.raises(ValueError):
            read_parameters(write("name: str = open('planted', 'w')"))
        assert not (tmp_path / "planted").exists()


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, fervit_lib.pipeline; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert not modules & {"torch", "numpy", "sklearn", "pandas", "papermill", "nbformat", "optuna"}
