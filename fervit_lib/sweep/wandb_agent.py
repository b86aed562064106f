"""The same sweep on Weights & Biases: its server draws the trials, its agent starts them here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import wandb

from fervit_lib.runs import Run
from fervit_lib.sweep.config import Sweep, read_sweep
from fervit_lib.sweep.work import train_trial
from fervit_lib.system.runtime import PROJECT_ROOT, display_path
from fervit_lib.training.tracking import PROJECT


def for_wandb(sweep: Sweep, file: Path) -> dict[str, Any]:
    """The sweep's file as W&B takes it; where it does not say how a trial starts, with that, too."""
    # ${args_json} becomes the trial's parameters.
    command = [
        "${env}",
        sys.executable,
        "-m",
        "fervit_lib.sweep",
        display_path(file),
        "--trial",
        "${args_json}",
    ]
    return {
        "project": PROJECT,
        "program": "fervit_lib/sweep/__main__.py",
        "command": command,
    } | sweep.source


def run_agent(file: Path) -> None:
    """Register the sweep with W&B, and run its trials one after another. More agents may join: `wandb agent <id>`.

    Raises:
        ValueError: nobody is logged in.
    """
    sweep = read_sweep(file)
    if not wandb.login(prompt=False):
        raise ValueError(
            "wandb: nobody is logged in; run `wandb login`, or leave --wandb out to sweep offline"
        )
    content = for_wandb(sweep, file)
    identity = wandb.sweep(content, project=content["project"])
    # The agent's ${interpreter} is the first `python` on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    agent = [sys.executable, "-m", "wandb", "agent", f"{content['project']}/{identity}"]
    subprocess.run(agent, cwd=PROJECT_ROOT, env=os.environ | {"PATH": path}, check=True)


def wandb_trial(sweep: Sweep, parameters: dict[str, Any], reports: Path) -> None:
    """Train one trial of W&B's: an ordinary run, named by W&B's identity of it, which logs there.

    Raises:
        ValueError: not started by W&B's agent.
        RuntimeError: it failed; W&B then shows it as crashed.
    """
    if "WANDB_RUN_ID" not in os.environ:
        raise ValueError(
            "--trial: expected to be started by W&B's agent, which sets WANDB_RUN_ID; use --wandb"
        )
    run = Run(reports, sweep.name, "train", f"wandb-{os.environ['WANDB_RUN_ID']}")
    mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "online"
    train_trial(sweep, run, parameters | {"wandb": mode})
