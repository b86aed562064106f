"""A sweep as users run it: notebooks in processes of their own, a killed worker, W&B's agent."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from sweeps import RANGE, sweep_source
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from fervit_lib.runs import Run
from fervit_lib.sweep.__main__ import main
from fervit_lib.sweep.study import load_study
from fervit_lib.sweep.work import run_sweep
from fervit_lib.system.runtime import PROJECT_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.notebooks, pytest.mark.launched]
SMALL = {"epochs": 2, "embed_dim": 16, "num_heads": 2, "depth": 1, "batch_size": 16}


def run_and_kill_a_worker(file: Path, reports: Path, trial: Path) -> None:
    """`run_sweep` with one worker, which is killed once it has started `trial`."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_sweep, file, reports)
        while not (trial / "config.json").is_file():
            time.sleep(0.05)
            assert not running.done(), running.result()
        lock = reports / "tiny" / "sweep" / "locks" / trial.name
        [process] = re.findall(r"^process (\d+) ", lock.read_text())
        os.kill(int(process), signal.SIGKILL)
        running.result()


def test_a_sweep_with_a_killed_worker_and_a_failed_trial(
    make_store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = SMALL | {"latents": str(make_store(tmp_path / "codes")), "wandb": "offline"}
    parameters = {name: {"value": value} for name, value in fixed.items()}
    parameters["attention"] = {"values": ["softmax", "<img src=x onerror=alert(1)>"]}
    source = sweep_source(method="grid", run_cap=None, parameters=parameters)
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(source))
    reports = tmp_path / "reports"
    trial = reports / "tiny" / "train" / "trial-000"
    with pytest.raises(RuntimeError, match=r"exit codes \[-9\]"):
        run_and_kill_a_worker(file, reports, trial)
    assert not (trial / "result.json").exists()

    winner = PROJECT_ROOT / "configs" / "tiny_winner.yaml"
    try:
        main([str(file), "--reports", str(reports), "--workers", "2"])
        assert yaml.safe_load(winner.read_text())["train"]["attention"] == "softmax"
    finally:
        winner.unlink(missing_ok=True)
    folder = reports / "tiny" / "sweep" / "all"
    result = json.loads((folder / "result.json").read_text())
    assert [result[name] for name in ("trials", "failed", "pruned")] == [2, 1, 0]
    assert result["synthetic"] and result["winner"] == "trial-000"
    assert (reports / "tiny" / "index.html").is_file()
    page = (folder / "notebook.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and "<img" not in page
    trials = load_study(folder.parent)[0].trials
    assert trials[0].user_attrs["starts"] == 2
    assert re.search("attention: .*'<img", trials[1].user_attrs["reason"])
    assert not (trial.with_name("trial-001") / "result.json").exists()
    files = {path.name for path in trial.iterdir()}
    assert files >= {
        "checkpoints",
        "config.json",
        "metrics.csv",
        "notebook.html",
        "result.json",
        "wandb",
    }


def test_a_trial_as_the_agent_of_weights_and_biases_runs_it(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    fixed = SMALL | {"latents": str(make_store(tmp_path / "codes"))}
    parameters = {"lr": RANGE} | {name: {"value": value} for name, value in fixed.items()}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep_source(parameters=parameters)))
    drawn = {name: {"value": value} for name, value in (fixed | {"lr": 0.01}).items()}
    given = create_sweep_command_args({"args": drawn})["args_json"]
    reports = tmp_path / "reports"
    command = [sys.executable, "-m", "fervit_lib.sweep", file, "--reports", reports, "--trial"]
    agent = {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "abc123"}
    done = subprocess.run(
        [*command, *given],
        cwd=PROJECT_ROOT,
        env=os.environ | agent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = Run(reports, "tiny", "train", "wandb-abc123")
    assert run.config["parameters"]["lr"] == 0.01 and run.result["epochs"] == 2
    [offline] = (run.folder / "wandb").glob("offline-run-*-abc123")
    sync = [sys.executable, "-m", "wandb", "sync", "--dry-run", offline]
    done = subprocess.run(sync, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "abc123" in done.stdout + done.stderr
