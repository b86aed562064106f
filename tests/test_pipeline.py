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
    find_sources,
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
    assert plan["encode"] and plan["train"] or plan["distill"]


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


def test_a_list_of_arms_is_one_distillation() -> None:
    found = variants("distill", {"feature_arms": ["attention", "mixture"]})
    assert found == {"all": {"feature_arms": "attention, mixture"}}


def test_steps_without_codes_need_no_encoding() -> None:
    without = {"experiment": "x", "encode": [], "train": [], "evaluate": [], "explain": []}
    plan = read_config(without | {"distill": {}})
    assert {step: list(found) for step, found in plan.items() if found} == {"distill": ["all"]}
    for needs in ({"train": {}}, {"tour": {}}):
        with pytest.raises(ValueError, match="^encode: expected"):
            read_config(without | needs)


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
    assert find_sources(trainings, folder, "teacher") == expected
    relative = Path("reports/x/train")
    trainings = {"vit": {"teacher": "reports/x/train/cnn"}, "cnn": {}, "cn": {}}
    assert find_sources(trainings, relative, "teacher") == {"vit": ["cnn"], "cnn": [], "cn": []}


def test_the_vit_of_fer2013_cpu_is_taught_by_the_cnn_before_it() -> None:
    config = yaml.safe_load((PROJECT_ROOT / "configs" / "fer2013_cpu.yaml").read_text())
    trainings = read_config(config)["train"]
    folder = Path("reports", config["experiment"], "train")
    cnn, vit = "image-full-seed0", "image-full-seed0-distil=soft"
    assert find_sources(trainings, folder, "teacher") == {cnn: [], vit: [cnn]}


SETS = [{"dataset": name, "faces": f"data/{name}"} for name in ("raf", "ck")]


class TestSeveralEncodings:
    def test_one_data_set_names_its_stores_as_a_single_block_does(self) -> None:
        for blocks, latents in (
            ({}, "reports/x/encode/autoencoder"),
            ({"dataset": "fer2013", "encoder": "psp"}, "reports/x/encode/psp"),
        ):
            plan = read_config({"experiment": "x", "encode": blocks})
            [name] = plan["encode"]
            assert "/" + name == latents[latents.rindex("/") :]
            assert [p["latents"] for p in plan["train"].values()] == [latents]

    def test_a_training_is_named_after_the_codes_that_it_names_in_a_list(self) -> None:
        train = [{"approach": "image", "encode": ["raf", "ck-autoencoder"]}, {"encode": "ck"}]
        config = {"experiment": "x", "encode": SETS, "train": train, "data_dir": "d"}
        plan = read_config(config)
        assert list(plan["encode"]) == ["raf-autoencoder", "ck-autoencoder"]
        assert {name: p["latents"] for name, p in plan["train"].items()} == {
            "image-full-seed0-encode=raf": "reports/x/encode/raf-autoencoder",
            "image-full-seed0-encode=ck-autoencoder": "reports/x/encode/ck-autoencoder",
            "scratch-full-seed0": "reports/x/encode/ck-autoencoder",
        }
        assert all("encode" not in p for p in plan["train"].values())
        with pytest.raises(ValueError, match="^train: two blocks"):
            read_config(config | {"train": [{"encode": "raf"}, {"encode": "ck"}]})

    def test_variants_of_one_data_set_are_told_apart_by_what_varies(self) -> None:
        plan = read_config({"experiment": "x", "encode": {"landmarks": ["none", "dlib"]}})
        assert list(plan["encode"]) == ["autoencoder-landmarks=none", "autoencoder-landmarks=dlib"]
        [training] = plan["train"].values()
        assert training["latents"] == "reports/x/encode/autoencoder-landmarks=none"

    def test_a_learned_encoder_is_that_of_the_set_it_names_and_waits_for_it(self) -> None:
        blocks = [*SETS, SETS[1] | {"encoder": "autoencoder@raf"}]
        plan = read_config({"experiment": "x", "encode": blocks, "reports": "r"})
        borrowed = plan["encode"]["ck-autoencoder@raf"]
        folder = Path("r", "x", "encode")
        assert borrowed["encoder"] == "autoencoder"
        checkpoint = folder / "raf-autoencoder" / "checkpoints" / "best.safetensors"
        assert borrowed["checkpoint"] == str(checkpoint)
        assert find_sources(plan["encode"], folder, "checkpoint") == {
            "raf-autoencoder": [],
            "ck-autoencoder": [],
            "ck-autoencoder@raf": ["raf-autoencoder"],
        }
        # The set's own name would be its own encoder or the other one's.
        with pytest.raises(ValueError, match="^train.encode: ck has several encodings"):
            read_config({"experiment": "x", "encode": blocks, "train": {"encode": "ck"}})

    def test_folds_are_a_store_and_a_training_each(self) -> None:
        expected = {f"autoencoder-fold={i}": {"folds": 3, "fold": i} for i in range(3)}
        for block in ({"folds": 3}, {"folds": 3, "fold": [0, 1, 2]}):
            plan = read_config({"experiment": "x", "encode": block, "train": {"seed": [0, 1]}})
            assert plan["encode"] == expected
            assert {name: p["latents"] for name, p in plan["train"].items()} == {
                f"scratch-full-seed{seed}-fold={i}": f"reports/x/encode/autoencoder-fold={i}"
                for seed in (0, 1)
                for i in range(3)
            }
        one = {"encode": block, "train": {"encode": "autoencoder-fold=1"}}
        [training] = read_config({"experiment": "x"} | one)["train"].values()
        assert training["latents"].endswith("fold=1")

    def test_a_list_of_data_sets_to_test_on_is_one_evaluation(self) -> None:
        for test_on in (["raf", "ck"], "raf, ck"):
            blocks = {"encode": SETS, "evaluate": {"test_on": test_on}}
            plan = read_config({"experiment": "x"} | blocks)
            assert plan["evaluate"] == {"all": {"test_on": "raf, ck"}}

    def test_an_adapter_that_is_missing_is_named_before_anything_runs(self) -> None:
        with pytest.raises(ValueError, match="baselines: .*missing.yaml"):
            read_config({"experiment": "x", "evaluate": {"baselines": "configs/missing.yaml"}})

    def test_snakemake_tells_a_data_set_from_one_whose_name_begins_alike(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "c.yaml"
        places = {"reports": str(tmp_path / "reports"), "data_dir": str(tmp_path / "data")}
        sets = [{"dataset": name, "faces": "toy"} for name in ("raf", "raf-db")]
        path.write_text(yaml.safe_dump({"experiment": "x", "encode": sets} | places))
        target = f"{places['reports']}/x/evaluate/all/result.json"
        command = [sys.executable, "-m", "snakemake", target, "--cores", "1", "--nolock", "-n"]
        done = subprocess.run(
            [*command, "--configfile", path], cwd=PROJECT_ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        stores = [f"encode/{name}-autoencoder/codes.json" for name in ("raf", "raf-db")]
        assert all(store in done.stdout for store in stores)

    def test_two_numbers_of_folds_have_all_their_folds(self) -> None:
        plan = read_config({"experiment": "x", "encode": {"folds": [3, 4]}})
        assert [(p["folds"], p["fold"]) for p in plan["encode"].values()] == [
            (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2), (4, 3),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": []}, "'trian'; did you mean 'train'"),
        ({"experiment": None}, "^experiment: expected"),
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
        ({"encode": []}, r"^encode: .*got \[\]"),
        ({"encode": [{}, {"landmarks": "dlib"}]}, "^encode: .*'autoencoder'"),
        ({"encode": {"encoder": "autoencoder@toi"}}, "^encode.encoder: .*'toi'.* none"),
        (
            {"encode": [SETS[0], SETS[1] | {"encoder": "autoencoder@rav"}]},
            "^encode.encoder: .*'rav'.*'raf'",
        ),
        ({"encode": {"encoder": "psp@toy"}}, "^encode.encoder: .*psp@toy"),
        ({"train": {"encode": "autoencoder@toy"}}, "^train.encode: .*did you mean 'autoencoder'"),
        ({"train": {"encode": []}}, r"^train.encode: .*got \[\]"),
        ({"train": {"encode": 3}}, "^train.encode: .*3"),
        (
            {"encode": {"landmarks": ["none", "dlib"]}, "train": {"encode": "toy"}},
            "^train.encode: toy has several encodings",
        ),
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
