"""`make rehearse`: short forms of the committed configs, and one rehearsal as users run it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.rehearse import shorten
from fervit_lib.pipeline import read_config
from fervit_lib.system.atomic import read_json
from fervit_lib.system.runtime import PROJECT_ROOT
from fervit_lib.system.yaml_files import read_yaml

CONFIGS = sorted(p for p in (PROJECT_ROOT / "configs").glob("*.yaml") if p.stem != "sweep")
FACES = 28


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_short_config_has_the_variants_of_one_seed_and_little_work(path: Path) -> None:
    config = read_yaml(path)
    plan, short = read_config(config), read_config(shorten(config, FACES))
    for step in ("tour", "encode", "evaluate", "explain"):
        assert len(short[step]) == len(plan[step])
    seeds = ("seed", "data_seed")
    without = [{k: v for k, v in p.items() if k not in seeds} for p in plan["train"].values()]
    assert len(short["train"]) == len({str(parameters) for parameters in without})
    for parameters in short["train"].values():
        assert parameters["batch_size"] <= FACES // 2
        assert parameters["epochs"] <= 3
        assert not parameters.get("teacher", "").startswith(f"reports/{config['experiment']}/")


def content_of(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.notebooks
@pytest.mark.launched
def test_every_step_runs_on_random_weights_that_are_removed_afterwards(tmp_path: Path) -> None:
    config = read_yaml(PROJECT_ROOT / "configs" / "fer2013_psp.yaml")
    # One run, on codes: 04 needs minutes on a CPU to time a ViT over pixels of full size.
    blocks = {block["approach"]: block for block in config["train"]}
    config["train"] = [blocks["hybrid"] | {"strategy": "adapter"}]
    path = tmp_path / "thin.yaml"
    path.write_text(yaml.safe_dump(config))
    folder = tmp_path / "rehearsal"
    before = content_of(PROJECT_ROOT / "pretrained_models")
    command = [sys.executable, "-W", "ignore", PROJECT_ROOT / "benchmarks" / "rehearse.py", path]
    command += ["--faces", str(FACES), "--folder", folder]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "s per face" in done.stdout
    reports = folder / "rehearsal-fer2013_psp"
    steps = {file.relative_to(reports).parts[0:2] for file in reports.glob("*/*/result.json")}
    plan = read_config(shorten(config, FACES))
    assert steps == {(step, variant) for step, runs in plan.items() for variant in runs}
    assert len(steps) == 4
    assert read_json(reports / "encode" / "psp" / "result.json")["synthetic"]
    assert "random" in (reports / "index.html").read_text(encoding="utf-8")
    assert not (folder / "work").exists()
    assert content_of(PROJECT_ROOT / "pretrained_models") == before
