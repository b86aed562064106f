"""Notebooks as they are committed, and all of them run on tiny data."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import papermill
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from tiny import SMALL, TINY_STUDENT, write_config

from fervit_lib.evaluation import load_predictor, runs_to_compare
from fervit_lib.explain import choose_runs
from fervit_lib.models import load_model
from fervit_lib.models.create import APPROACHES
from fervit_lib.pipeline import call_files, read_config, read_parameters
from fervit_lib.runs import Run
from fervit_lib.sweep.config import parse_sweep
from fervit_lib.sweep.work import work
from fervit_lib.system.atomic import read_json
from fervit_lib.system.checkpoints import load_checkpoint
from fervit_lib.system.names import TYPES
from fervit_lib.system.runtime import PROJECT_ROOT
from fervit_lib.system.yaml_files import read_yaml
from tests.run_cells import run_cells

NOTEBOOKS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((PROJECT_ROOT / "profiles").glob("*/config.yaml"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommittedNotebook:
    def test_it_has_no_outputs(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs")
            assert not cell.get("execution_count")

    def test_every_parameter_is_typed_and_explained(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
        parameters = papermill.inspect_notebook(path)
        assert {"experiment", "reports", "seed", "device"} <= set(parameters)
        own = read_parameters(path)
        assert list(own) == list(parameters)
        for name, parameter in parameters.items():
            assert parameter["inferred_type_name"] == own[name].type
            assert isinstance(own[name].default, TYPES[own[name].type])
            assert parameter["help"], name

    def test_it_is_thin(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                lines = cell.source.splitlines()
                assert len(lines) <= 20
                assert not any(line.startswith(("!", "%")) for line in lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_help_names_the_group_of_parameters(path: Path) -> None:
    """papermill shows no headings: the first parameter below one repeats it in brackets."""
    [cell] = [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    help_of = {
        name: parameter["help"] for name, parameter in papermill.inspect_notebook(path).items()
    }
    heading = ""
    for line in cell.source.splitlines():
        if line.startswith("# "):
            heading = f"[{line[2:]}] "
        elif ": " in line:
            assert help_of[line.split(":")[0]].startswith(heading), line
            heading = ""


def test_a_default_of_a_notebook_is_the_librarys() -> None:
    parameters = read_parameters(PROJECT_ROOT / "notebooks" / "02_train.ipynb")
    for model in APPROACHES.values():
        for name, argument in inspect.signature(model).parameters.items():
            # The notebook sets the width of adapters; the strategy sets whether there are any.
            if name not in parameters or name == "adapter_dim":
                continue
            if argument.default is not argument.empty:
                assert argument.default == parameters[name].default, name


OWN = "MeanViT-full-seed0"  # of the examples in 02_train: own model, loss and augmentation
TRAININGS = {
    "scratch-full-seed0": SMALL,
    "hybrid-adapter-seed0": {
        "approach": "hybrid",
        "strategy": "adapter",
        "pretrained": "mae",
        "mae_epochs": 1,
        "epochs": 1,
        "keep_epochs": True,
    },
    "image-full-seed0": {
        "approach": "image",
        "model_name": "resnet10t",
        "image_size": 32,
        "epochs": 1,
    },
    OWN: SMALL,
    # Taught by the run above it.
    "image-full-seed0-distil=token": {
        "approach": "image",
        "model_name": "deit_tiny_distilled_patch16_224",
        "image_size": 32,
        "num_blocks": 1,
        "distil": "token",
        "epochs": 1,
    },
}
SWEEP = {
    "name": "tiny_sweep",
    "method": "grid",
    "metric": {"name": "macro_f1", "goal": "maximize"},
    "parameters": {"depth": {"values": [1, 2]}, "epochs": {"value": 1}},
}
# A mistake in a parameter, and a part of its error.
MISTAKES = {
    "tour": ("00_tour", {"latents": "data/none"}, "data/none"),
    "faces": ("01_encode", {"faces": "data/no_such_folder"}, "no_such_folder"),
    "checkpoint": ("01_encode", {"encoder": "psp", "checkpoint": "none.pt"}, "none.pt: "),
    "landmarks": ("01_encode", {"landmarks": "mtcnn"}, "landmarks: "),
    "encoder": ("01_encode", {"encoder": "stylegan"}, "encoder: "),
    "strategy": ("02_train", {"strategy": "ful"}, "strategy: "),
    "pretrained": ("02_train", {"strategy": "linear_probe"}, "pretrained="),
    "latents": ("02_train", {"latents": "data/none"}, "data/none"),
    "teacher": ("02_train", {"teacher": "reports/none"}, "reports/none"),
    "schedule": ("03_distill", {"temperature_schedule": "stairs"}, "temperature_schedule: "),
    "frozen noise": ("03_distill", {"encoder_training": "frozen"}, "student_weights: "),
    "people": ("03_distill", {"people": "data/no_such_folder"}, "no_such_folder"),
    "evaluated": ("04_evaluate", {"experiment": "none"}, "02_train"),
    "explained": ("05_attention_explorer", {"experiment": "none"}, "02_train"),
    "sweep": ("06_sweep", {"config": "configs/demo.yaml"}, "experiment: "),
}


def finish_sweep(reports: Path) -> None:
    """Two trials of SWEEP that have ended, without training anything."""

    def train(_: object, run: Run, parameters: dict) -> float:
        sizes = {"total_parameters": 1000, "trainable_parameters": 10, "epochs": 1}
        costs = {"train_seconds": 3.0, "peak_memory_gb": 1.0}
        run.write_result(val_accuracy=0.5, synthetic=True, **sizes, **costs)
        return 0.25 * parameters["depth"]

    work(parse_sweep(SWEEP), reports, train=train)


@dataclass(frozen=True)
class Ran:
    """The tiny experiment: its folder, the error of each step by name, and all printed lines."""

    folder: Path
    errors: dict[str, str | None]
    printed: str

    def result(self, run: str) -> dict[str, Any]:
        return read_json(self.folder / "reports" / run / "result.json")


@pytest.mark.notebooks
class TestTinyExperiment:
    """Every notebook once, then every mistake, in one process without kernels."""

    @pytest.fixture(scope="class")
    def ran(self, tmp_path_factory: pytest.TempPathFactory) -> Ran:
        folder = tmp_path_factory.mktemp("tiny")
        finish_sweep(folder / "reports")
        (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
        winner = {"winner": str(folder / "winner.yaml")}
        data = {"data_dir": str(folder / "data")}
        codes = {"latents": str(folder / "data" / "latents" / "toy" / "autoencoder")}
        encode = {"toy_faces": 140, "num_views": 3, "img_size": 32}
        explain = {"num_faces": 20, "shots": 2, "repeats": 1, "interactive": False}
        steps = {"encode": ("01_encode", encode | data)}
        teacher = str(folder / "reports" / "tiny" / "train" / "image-full-seed0")
        for name, training in TRAININGS.items():
            taught = {"variant": name, "teacher": teacher} if "distil" in training else {}
            notebook = "02_train+examples" if name == OWN else "02_train"
            steps[name] = (notebook, training | codes | taught)
        steps |= {
            "distill": ("03_distill", TINY_STUDENT | data),
            "tour": ("00_tour", {"batch_size": 14, "epochs": 1} | codes),
            "evaluate": ("04_evaluate", {"trust_code": True}),
            "explain": ("05_attention_explorer", explain | {"trust_code": True, "run_name": OWN}),
            "sweep": (
                "06_sweep",
                {"config": str(folder / "sweep.yaml"), "experiment": ""} | winner,
            ),
        }
        for name, (notebook, parameters, _) in MISTAKES.items():
            read = codes if notebook == "02_train" else {}
            steps[f"bad {name}"] = (notebook, read | parameters | {"reports": str(folder / "bad")})
        own = {"experiment": "tiny", "reports": str(folder / "reports"), "device": "cpu"}
        given = [(notebook, own | parameters) for notebook, parameters in steps.values()]
        errors, printed = run_cells(given)
        return Ran(folder, dict(zip(steps, errors, strict=True)), printed)

    def test_every_notebook_runs(self, ran: Ran) -> None:
        errors = {name: error for name, error in ran.errors.items() if not name.startswith("bad ")}
        assert not any(errors.values()), errors
        runs = [path.parent for path in (ran.folder / "reports").rglob("result.json")]
        assert len(runs) == len(errors) + len(SWEEP["parameters"]["depth"]["values"])
        assert all(read_json(run / "result.json")["synthetic"] for run in runs)
        assert not list(ran.folder.rglob("*.tmp"))

    def test_evaluation_compares_every_training(self, ran: Ran) -> None:
        result = ran.result("tiny/evaluate/scratchpad")
        assert {run["variant"] for run in result["runs"]} == set(TRAININGS)
        assert result["majority_accuracy"] == pytest.approx(1 / 7)

    def test_the_weights_of_every_epoch_are_kept(self, ran: Ran) -> None:
        folder = ran.folder / "reports" / "tiny" / "train" / "hybrid-adapter-seed0" / "checkpoints"
        first, best = (load_model(folder / f"{n}.safetensors")[0] for n in ("epoch_1", "best"))
        codes = torch.randn(2, 18, 512)
        assert torch.equal(first(codes), best(codes))
        assert not list((folder.parents[1] / "scratch-full-seed0").rglob("epoch_*"))

    def test_the_explorer_shows_transformers_over_codes(self, ran: Ran) -> None:
        first, other = ran.result("tiny/explain/scratchpad")["runs"]
        assert first == OWN
        assert other in ("scratch-full-seed0", "hybrid-adapter-seed0")

    def test_a_model_of_a_cell_is_evaluated_only_if_it_is_trusted(self, ran: Ran) -> None:
        folder = ran.folder / "reports" / "tiny" / "train" / OWN
        assert "class MeanViT" in (folder / "checkpoints" / "model.py").read_text()
        comparison = runs_to_compare(ran.folder / "reports", "tiny")
        assert set(comparison.skipped) == {OWN}
        assert "trust_code=True" in comparison.skipped[OWN]
        with pytest.raises(ValueError, match=r"run_name: .*trust_code=True"):
            choose_runs(comparison, OWN)
        with pytest.raises(ValueError, match=r"MeanViT.*trust_code=True"):
            load_predictor(folder)
        predictor = load_predictor(folder, "cpu", trust_code=True)
        assert predictor.predict([Image.new("RGB", (32, 32))]).codes.shape == (1, 18, 512)

    def test_a_student_is_distilled(self, ran: Ran) -> None:
        result = ran.result("tiny/distill/all")
        terms = ["none", "outputs", "outputs_features", "shuffled_features"]
        assert [arm["arm"] for arm in result["arms"]] == terms
        assert result["onnx_difference"] <= 1e-4
        assert result["shipped"]["arm"] != "shuffled_features"

    def test_a_cnn_teaches_a_vit(self, ran: Ran) -> None:
        cnn = ran.result("tiny/train/image-full-seed0")
        vit = ran.result("tiny/train/image-full-seed0-distil=token")
        assert (vit["distil"], vit["teacher_weight"], vit["temperature"]) == ("token", 0.5, 3.0)
        assert vit["teacher"].endswith("image-full-seed0") and "teacher" not in cnn
        assert vit["teacher_accuracy"] == pytest.approx(cnn["val_accuracy"])

    def test_the_sweep_names_its_best_trial(self, ran: Ran) -> None:
        result = ran.result("tiny_sweep/sweep/all")
        assert (result["trials"], result["failed"], result["winner"]) == (2, 0, "trial-001")
        winner = yaml.safe_load((ran.folder / "winner.yaml").read_text())
        assert winner["train"] == {"seed": [0, 1, 2], "epochs": 1, "depth": 2}

    @pytest.mark.parametrize("name", MISTAKES)
    def test_a_bad_parameter_is_named(self, ran: Ran, name: str) -> None:
        assert MISTAKES[name][2] in (ran.errors[f"bad {name}"] or "no error")

    def test_a_bad_parameter_fails_before_anything_is_written(self, ran: Ran) -> None:
        written = [path.name for path in (ran.folder / "bad").rglob("*") if path.is_file()]
        assert not [name for name in written if name.endswith((".safetensors", "result.json"))]


def snakemake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--nolock", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_every_profile_makes_a_plan(path: Path, tmp_path: Path) -> None:
    if executor := yaml.safe_load(path.read_text()).get("executor"):
        plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
        pytest.importorskip(plugin, reason="the extra `cluster` is not installed")
    config = write_config(tmp_path, distill=TINY_STUDENT, tour={})
    done = snakemake("--profile", path.parent, "--configfile", config, "--dry-run", "--cores", "4")
    assert done.returncode == 0, done.stderr
    for rule in ("tour", "encode", "train", "distill", "evaluate", "explain", "index"):
        assert f"\n{rule} " in done.stdout + done.stderr  # a row of the table of jobs


@pytest.mark.slow
@pytest.mark.notebooks
def test_the_config_of_persons_runs_with_tiny_models(tmp_path: Path) -> None:
    config = read_yaml(PROJECT_ROOT / "configs" / "person.yaml")
    weights = tmp_path / "mobilenet_v2.pt"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), weights)
    tiny = TINY_STUDENT | {"people": "toy", "student_weights": str(weights)}
    config["distill"] = [block | tiny for block in config["distill"]]
    config |= {"reports": str(tmp_path / "reports"), "data_dir": str(tmp_path / "data")}
    path = tmp_path / "person.yaml"
    path.write_text(yaml.safe_dump(config))
    done = snakemake("--cores", "1", "--configfile", path)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("encoder_frozen", "decoder"):
        folder = tmp_path / "reports" / "person" / "distill" / f"feature_tap={name}"
        trained = [
            load_checkpoint(folder / f"{arm}-seed0" / "checkpoints" / "best.safetensors")[0]
            for arm in ("none", "outputs_features")
        ]
        start = torch.load(weights)["features.0.0.weight"]
        frozen = [torch.equal(state["encoder.features.0.0.weight"], start) for state in trained]
        assert frozen == [name == "encoder_frozen"] * 2
    assert "feature_tap" in (tmp_path / "reports" / "person" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.notebooks
def test_the_config_of_the_guide_makes_a_plan_and_runs_with_tiny_models(tmp_path: Path) -> None:
    path = PROJECT_ROOT / "configs" / "guide.yaml"
    plan = snakemake("--dry-run", "--cores", "1", "--configfile", path)
    assert plan.returncode == 0, plan.stderr[-3000:]
    config = read_yaml(path)
    names = list(read_config(config)["train"])
    assert len(names) == 4 and len(config["train"]) == 4

    def shrink(value: Any, factor: int) -> Any:
        """As many heads, and the same names of what varies, in a small model."""
        if isinstance(value, list):
            return [shrink(entry, factor) for entry in value]
        return max(1, value // factor)

    for block in config["train"]:
        small = {"embed_dim": shrink(block["embed_dim"], 16), "depth": shrink(block["depth"], 6)}
        block |= small | {"epochs": 1}
    config["encode"] = {"toy_faces": 140, "num_views": 1, "img_size": 32}
    config["explain"] = {"num_faces": 20, "shots": 2, "repeats": 1}
    config |= {"reports": str(tmp_path / "reports"), "data_dir": str(tmp_path / "data")}
    tiny = tmp_path / "guide.yaml"
    tiny.write_text(yaml.safe_dump(config, sort_keys=False))
    done = snakemake("--cores", "2", "--configfile", tiny)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = list(tmp_path.glob("reports/guide/train/*/result.json"))
    assert {path.parent.name for path in trained} == set(read_config(config)["train"])
    for path in trained:
        assert read_json(path)["peak_lr"] in (1e-4, 5e-4)


@pytest.mark.slow
@pytest.mark.notebooks
def test_an_experiment_with_a_failed_step_continues_when_it_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole pipeline as users run it; a script stands for a driver that lists two GPUs."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # else it lists all fonts again
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = write_config(tmp_path, train=SMALL | {"seed": [0, 1]})
    call = ["--profile", "profiles/local", "--cores", "2", "--resources", "gpu=2"]
    call += ["--configfile", config]
    experiment = tmp_path / "reports" / "tiny"
    failed, passed = (experiment / "train" / f"scratch-full-seed{seed}" for seed in (0, 1))
    (failed / "metrics.csv").mkdir(parents=True)  # training fails when it writes this file

    calls = PROJECT_ROOT / call_files(read_yaml(config))
    call_failed = snakemake(*call)
    assert call_failed.returncode != 0
    assert re.search(r"^train/scratch-full-seed0 +failed .*of 5$", call_failed.stdout, re.MULTILINE)
    page = (failed / "notebook.html").read_text(encoding="utf-8")
    assert "training faces" in page and "IsADirectoryError" in page
    finished = {path.parent for path in experiment.rglob("result.json")}
    assert finished == {experiment / "encode" / "autoencoder", passed}
    message = Path(f"{calls}.failed").read_text()
    assert "train/scratch-full-seed0 failed in cell" in message and "IsADirectoryError" in message
    assert f"See {failed / 'notebook.html'}" in message
    assert "Not run yet: evaluate/all" in message
    assert (experiment / "index.html").is_file()
    # The two trainings ran at once: on a GPU and with a thread each.
    locks = {path.name for path in (tmp_path / "cache" / "fervit" / "gpus").iterdir()}
    assert locks == {"GPU-a.lock", "GPU-b.lock"}
    assert "1 thread" in read_json(passed / "config.json")["device"]

    (failed / "metrics.csv").rmdir()
    before = {folder: (folder / "result.json").stat().st_mtime_ns for folder in finished}
    done = snakemake(*call)
    assert done.returncode == 0, done.stderr[-3000:]
    ended = [line.split()[:2] for line in done.stdout.splitlines()]
    steps = ("evaluate/all", "explain/all", "train/scratch-full-seed0")
    assert sorted(ended) == [[step, "done"] for step in steps]
    outcome = Path(f"{calls}.done").read_text()
    assert "Best model: scratch-full-seed" in outcome and f"{experiment}/index.html" in outcome
    assert {folder: (folder / "result.json").stat().st_mtime_ns for folder in finished} == before
    index = (experiment / "index.html").read_text(encoding="utf-8")
    assert 'href="explain/all/notebook.html"' in index
    for page in [experiment / "index.html", *experiment.glob("*/*/notebook.html")]:
        assert page.stat().st_size < 6e6
        assert "synthetic" in page.read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.tmp"))
    assert "Nothing to be done" in snakemake(*call).stderr

    (passed / "result.json").unlink()
    plan = snakemake(*call, "--dry-run")
    rules = re.findall(r"^(?:local)?rule (\w+):$", plan.stdout + plan.stderr, re.MULTILINE)
    assert sorted(rules) == ["evaluate", "experiment", "explain", "index", "train"]
    assert f"{passed}/log.txt" in plan.stdout + plan.stderr
