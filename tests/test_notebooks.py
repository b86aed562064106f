"""Notebooks as they are committed, and all of them run on tiny data the way the experiments run them."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from tiny import SMALL, TINY_STUDENT, write_config

from fervit_lib import report, runs
from fervit_lib.models import APPROACHES
from fervit_lib.system import atomic
from fervit_lib.system.runtime import PROJECT_ROOT

NOTEBOOKS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))
CONFIGS = sorted(
    path for path in (PROJECT_ROOT / "configs").glob("*.yaml") if path.stem != "sweep"
)  # not Snakemake's
PROFILES = sorted((PROJECT_ROOT / "profiles").glob("*/config.yaml"))


def snakemake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)


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
        for name, parameter in parameters.items():
            assert parameter["inferred_type_name"] in ("str", "int", "float", "bool"), name
            assert parameter["help"], name

    def test_it_is_thin(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                assert len(cell.source.splitlines()) <= 20
                assert not any(
                    line.startswith(("class ", "def ", "!", "%"))
                    for line in cell.source.splitlines()
                )


def test_a_default_of_a_notebook_is_the_librarys() -> None:
    parameters = papermill.inspect_notebook(PROJECT_ROOT / "notebooks" / "02_train.ipynb")
    for model in APPROACHES.values():
        for name, argument in inspect.signature(model).parameters.items():
            # The notebook says how wide adapters are, the strategy whether there are any.
            if (
                name in parameters
                and argument.default is not argument.empty
                and name != "adapter_dim"
            ):
                assert str(argument.default) == parameters[name]["default"].strip('"'), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_makes_a_plan(path: Path) -> None:
    done = snakemake("--configfile", path, "--dry-run", "--forceall", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_every_profile_makes_a_plan(path: Path) -> None:
    if executor := yaml.safe_load(path.read_text()).get("executor"):
        plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
        pytest.importorskip(plugin, reason="the extra `cluster` is not installed")
    done = snakemake(
        "--profile", path.parent, "--configfile", CONFIGS[0], "--dry-run", "--forceall"
    )
    assert done.returncode == 0, done.stderr


def test_a_step_with_an_empty_list_is_left_out(tmp_path: Path) -> None:
    done = snakemake("--configfile", write_config(tmp_path, explain=[]), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "evaluate:" in done.stdout + done.stderr and "explain:" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": []}, "unknown key 'trian'; did you mean 'train'?"),
        (
            {"train": {"epohcs": 3}},
            "train: notebooks/02_train.ipynb has no parameter 'epohcs' to set; did you mean 'epochs'?",
        ),
        ({"train": {"epochs": "ten"}}, "train.epochs: expected int, got 'ten'"),
        ({"train": {"class_weights": 1}}, "train.class_weights: expected bool, got 1"),
        ({"train": [{"seed": 0}, {"seed": 0}]}, "two blocks make the variant 'scratch-full-seed0'"),
        (
            {"train": ["full"]},
            "expected parameters of notebooks/02_train.ipynb as `name: value`, got 'full'",
        ),
        ({"encode": {"latents": "x"}}, "has no parameter 'latents' to set"),
        ({"experiment": None}, "expected `experiment: <name>`"),
    ],
)
def test_a_mistake_in_a_config_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    path = write_config(tmp_path, **changes)
    done = snakemake("--configfile", path, "--dry-run")
    assert done.returncode != 0
    assert f"{path}: " in done.stdout + done.stderr
    assert message in done.stdout + done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.notebooks
def test_the_whole_pipeline_runs_once_and_redoes_only_what_is_missing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = snakemake("--configfile", config)
    assert done.returncode == 0, done.stderr[-3000:]
    experiment = tmp_path / "reports" / "tiny"
    variants = {
        f"{name}-seed0"
        for name in ("scratch-full", "scratch-gradual", "hybrid-adapter", "image-full")
    }
    assert {
        run.variant for run in runs.completed_runs(tmp_path / "reports", "tiny", "train")
    } == variants
    for page in [experiment / "index.html", *experiment.glob("*/*/notebook.html")]:
        assert page.stat().st_size < 6e6
        assert "synthetic" in page.read_text(encoding="utf-8").split("<main")[0] + page.read_text(
            encoding="utf-8"
        )
    result = json.loads((experiment / "evaluate" / "all" / "result.json").read_text())
    assert {run["variant"] for run in result["runs"]} == variants
    assert result["majority_accuracy"] == pytest.approx(1 / 7)
    explained = json.loads((experiment / "explain" / "all" / "result.json").read_text())
    assert {name.split("-")[0] for name in explained["runs"]} == {"scratch", "hybrid"}
    assert 'href="explain/all/notebook.html"' in (experiment / "index.html").read_text(
        encoding="utf-8"
    )
    assert not list(tmp_path.rglob("*.tmp"))

    files = {path: path.stat().st_mtime_ns for path in experiment.rglob("result.json")}
    assert "Nothing to be done" in snakemake("--configfile", config).stderr

    (experiment / "train" / "hybrid-adapter-seed0" / "result.json").unlink()
    done = snakemake("--configfile", config)
    assert done.returncode == 0, done.stderr[-3000:]
    redone = {path for path in files if path.stat().st_mtime_ns != files[path]}
    assert {str(path.parent.relative_to(experiment)) for path in redone} == {
        "train/hybrid-adapter-seed0",
        "evaluate/all",
        "explain/all",
    }


@pytest.mark.notebooks
@pytest.mark.parametrize(("seeds", "threads"), [([0], "2 threads"), ([0, 1], "1 thread,")])
def test_the_trainings_of_an_experiment_share_the_cores(
    tmp_path: Path, seeds: list[int], threads: str
) -> None:
    train = SMALL | {"approach": "scratch", "strategy": "full", "device": "cpu", "seed": seeds}
    done = snakemake("--configfile", write_config(tmp_path, train=train), "--until", "train")
    assert done.returncode == 0, done.stderr[-3000:]
    for seed in seeds:
        config = atomic.read_json(
            tmp_path / "reports" / "tiny" / "train" / f"scratch-full-seed{seed}" / "config.json"
        )
        assert threads in config["device"].replace(")", ",")


@pytest.mark.notebooks
def test_a_student_is_distilled_and_appears_in_the_report(tmp_path: Path) -> None:
    config = write_config(tmp_path, distill=TINY_STUDENT)
    experiment = tmp_path / "reports" / "tiny"
    done = snakemake(experiment / "distill" / "person" / "result.json", "--configfile", config)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((experiment / "distill" / "person" / "result.json").read_text())
    assert [arm["arm"] for arm in result["arms"]] == [
        "none",
        "outputs",
        "outputs_features",
        "shuffled_features",
    ]
    assert result["synthetic"]
    assert result["onnx_difference"] <= 1e-4
    assert "distill/person/notebook.html" in report.write_index(experiment).read_text()


@pytest.mark.notebooks
def test_two_steps_at_once_take_two_gpus(
    tmp_path: Path, make_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed: what a machine with two says is printed by a script, and each step leaves a lock of its own."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    make_store(tmp_path / "data" / "latents" / "toy" / "autoencoder")
    config = write_config(
        tmp_path, train=[{"lr": -1.0, "seed": [0, 1]}]
    )  # a mistake: they start at once and end soon
    results = [
        tmp_path / "reports" / "tiny" / "train" / f"scratch-full-seed{seed}" / "result.json"
        for seed in (0, 1)
    ]
    done = snakemake(*results, "--configfile", config, "--keep-going", "--resources", "gpu=2")
    locks = {path.name for path in tmp_path.glob("*.lock")}
    assert locks == {f"fervit-{os.getuid()}-GPU-{gpu}.lock" for gpu in "ab"}, done.stderr[-3000:]


@pytest.mark.notebooks
def test_a_cnn_teaches_a_vit_and_its_students_appear_in_the_report(tmp_path: Path) -> None:
    small = {"task": "expression", "image_size": 32, "batch_size": 14, "epochs": 1, "seeds": 2}
    models = {
        "teacher": "toy",
        "teacher_encoder": "resnet10t",
        "teacher_epochs": 1,
        "student_blocks": 1,
    }
    config = write_config(
        tmp_path, distill=small | models | {"student_encoder": "deit_tiny_distilled_patch16_224"}
    )
    experiment = tmp_path / "reports" / "tiny"
    folder = experiment / "distill" / "expression"
    done = snakemake(folder / "result.json", "--configfile", config)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((folder / "result.json").read_text())
    assert [arm["arm"] for arm in result["arms"]] == ["none", "soft", "hard", "token", "teacher"]
    assert all(arm["low"] <= arm["accuracy"] <= arm["high"] for arm in result["arms"])
    assert result["synthetic"] and result["toy_teacher"] and not result["toy_detector"]
    assert len(result["fits"]) == 8
    assert all((folder / fit["checkpoint"]).is_file() for fit in result["fits"])
    cells = nbformat.read(folder / "notebook.ipynb", as_version=4).cells
    printed = "".join(
        output.get("text", "") for cell in cells for output in cell.get("outputs", [])
    )
    assert "there is no feature term" in printed
    assert not re.search(
        r"Traceback \(most recent|Warning: ", (folder / "notebook.html").read_text(encoding="utf-8")
    )
    assert "distill/expression/notebook.html" in report.write_index(experiment).read_text()


@pytest.mark.notebooks
def test_a_failed_notebook_leaves_a_partial_page_and_the_next_call_redoes_only_what_is_missing(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, train=[SMALL | {"seed": [0, 1]}])
    experiment = tmp_path / "reports" / "tiny"
    failed, passed = (experiment / "train" / f"scratch-full-seed{seed}" for seed in (0, 1))
    (failed / "metrics.csv").mkdir(
        parents=True
    )  # a folder in the way: training fails, when the notebook is half done
    done = snakemake("--profile", "profiles/local", "--configfile", config)
    assert done.returncode != 0
    page = (failed / "notebook.html").read_text()
    assert (
        "training faces, " in page and "IsADirectoryError" in page and "Best epoch 1 of" not in page
    )
    made = {path.parent for path in experiment.rglob("result.json")}
    assert made == {experiment / "encode" / "autoencoder", passed}
    told = (
        PROJECT_ROOT / ".snakemake" / f"{config.name}.failed"
    ).read_text()  # what the Makefile shows at last
    assert "train/scratch-full-seed0 failed in cell" in told and "IsADirectoryError" in told
    assert f"See {failed / 'notebook.html'}" in told and "Not run yet: evaluate/all" in told

    (failed / "metrics.csv").rmdir()
    before = {folder: (folder / "result.json").stat().st_mtime_ns for folder in made}
    done = snakemake("--profile", "profiles/local", "--configfile", config)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {folder: (folder / "result.json").stat().st_mtime_ns for folder in made} == before
    assert "Best epoch 1 of" in (failed / "notebook.html").read_text()
    assert (experiment / "evaluate" / "all" / "result.json").is_file() and (
        experiment / "index.html"
    ).is_file()


@pytest.mark.notebooks
@pytest.mark.parametrize(
    ("notebook", "parameters", "message"),
    [
        ("01_encode", {"faces": "data/no_such_folder"}, "no_such_folder"),
        (
            "01_encode",
            {"encoder": "psp", "checkpoint": "none.pt"},
            "none.pt: no such checkpoint; place psp_ffhq_encode",
        ),
        ("01_encode", {"landmarks": "mtcnn"}, "landmarks: expected none or dlib, got 'mtcnn'"),
        (
            "01_encode",
            {"encoder": "stylegan"},
            "encoder: expected one of autoencoder, psp, e4e, got 'stylegan'",
        ),
        (
            "02_train",
            {"strategy": "ful"},
            "strategy: expected one of full, adapter, linear_probe, partial, gradual, got",
        ),
        ("02_train", {"strategy": "linear_probe"}, "say pretrained='random'"),
        ("02_train", {"latents": "data/none"}, "run 01_encode"),
        ("03_distill", {"task": "people"}, "task: expected person or expression, got 'people'"),
        (
            "03_distill",
            {"temperature_schedule": "stairs"},
            "temperature_schedule: expected one of linear, cosine",
        ),
        ("03_distill", {"people": "data/no_such_folder"}, "no such folder"),
        ("04_evaluate", {"experiment": "none"}, "run 02_train first"),
        ("06_sweep", {"config": "configs/demo.yaml"}, "experiment: not supported here"),
        ("05_attention_explorer", {"experiment": "none"}, "run 02_train first"),
    ],
)
def test_a_bad_parameter_fails_at_once_and_writes_nothing(
    tmp_path: Path, notebook: str, parameters: dict, message: str
) -> None:
    given = {"reports": str(tmp_path / "reports")} | parameters
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        papermill.execute_notebook(
            PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb",
            os.devnull,
            given,
            kernel_name="python3",
            progress_bar=False,
        )
    assert message in failure.value.evalue
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("*.safetensors"))
