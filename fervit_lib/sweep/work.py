"""Run the trials of a sweep: each is an ordinary run of 02_train in a process of its own."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from optuna.trial import TrialState

from fervit_lib.pipeline import NOTEBOOKS, check_block
from fervit_lib.report.failures import describe_failure
from fervit_lib.report.run import run_notebook
from fervit_lib.runs import Run
from fervit_lib.sweep import TRIAL_VARIABLE
from fervit_lib.sweep.config import RESERVED, TRAIN_NOTEBOOK, Sweep, read_sweep, rename
from fervit_lib.sweep.study import claim, count_finished, fail, open_study, variant_of
from fervit_lib.system.names import check_name
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import PROJECT_ROOT, cpu_count

Train = Callable[[Sweep, Run, dict], float]


def sweep_folder(reports: Path, sweep: Sweep) -> Path:
    """The folder of the sweep's own files: its study and locks."""
    return reports / sweep.name / "sweep"


def train_trial(sweep: Sweep, run: Run, parameters: dict) -> float:
    """Train one trial with 02_train and return the sweep's metric of its best epoch.

    That is the epoch whose weights are kept.

    Raises:
        RuntimeError: the notebook failed.
    """
    identity = {"experiment": run.experiment, "variant": run.variant, "reports": str(run.reports)}
    # A trial that is run again replaces what an earlier start has left.
    parameters = parameters | identity | {"overwrite": True}
    if not run_notebook(TRAIN_NOTEBOOK, run.folder, parameters):
        raise RuntimeError(describe_failure(run.folder).removeprefix("failed "))
    metrics = pd.read_csv(run.folder / "metrics.csv").set_index("epoch")
    return float(metrics.loc[run.result["best_epoch"], sweep.metric])


def train_wandb_trial(sweep: Sweep, parameters: dict, reports: Path) -> None:
    """Train one trial of W&B's: an ordinary run that logs to W&B and is named by W&B's run ID.

    Raises:
        ValueError: not started by W&B's agent, or not with parameters of 02_train.
        RuntimeError: the trial failed; W&B shows it as crashed.
    """
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id is None:
        raise ValueError(
            "--trial: expected W&B's agent, which sets WANDB_RUN_ID; start it by `wandb agent <id>`"
        )
    parameters = rename("--trial", parameters, sweep.aliases)
    check_block("--trial", NOTEBOOKS["train"], parameters, RESERVED)
    run = Run(reports, sweep.name, "train", check_name("WANDB_RUN_ID", f"wandb-{run_id}"))
    train_trial(sweep, run, parameters | {"wandb": os.environ.get("WANDB_MODE", "online")})


def work(sweep: Sweep, reports: Path, *, seed: int = 0, train: Train = train_trial) -> None:
    """Run trials until there is none to start. Any number of processes may work on a sweep at once.

    Args:
        train: runs a trial; an exception is recorded as the reason why the trial failed.
    """
    folder = sweep_folder(reports, sweep)
    study = open_study(sweep, folder)
    while claimed := claim(study, sweep, folder, seed):
        number = claimed.trial.number
        run = Run(reports, sweep.name, "train", variant_of(number))
        os.environ[TRIAL_VARIABLE] = json.dumps({"folder": str(folder), "number": number})
        with claimed.lock:
            try:
                value = train(sweep, run, claimed.parameters)
                if math.isnan(value):
                    raise RuntimeError(f"{sweep.metric} is NaN")
            except Exception as error:  # the sweep goes on, whatever a trial fails with
                fail(study, number, str(error).strip() or type(error).__name__)
                continue
            finally:
                del os.environ[TRIAL_VARIABLE]
            # Read from the storage, because the trial's own process has set it.
            pruned = study.get_trials(deepcopy=False)[number].user_attrs.get("pruned", False)
            if pruned:
                study.tell(number, state=TrialState.PRUNED)  # with its last reported value
            else:
                study.tell(number, value)
        remark = " (stopped early)" if pruned else ""
        searched = ", ".join(f"{name} {claimed.parameters[name]}" for name in sweep.space)
        print(f"{run.variant}: {sweep.metric} {value:.3f}{remark}, {searched}", flush=True)


def run_sweep(
    file: Path, reports: Path, *, workers: int = 1, storage: str | None = None, seed: int = 0
) -> None:
    """Run the remaining trials of a sweep in `workers` processes.

    Args:
        file: the sweep, see `read_sweep`.
        reports: the folder of all experiments; trials are written to `<name>/train/trial-000/`, …
        storage: see `study.load_storage`.
        seed: seed of the sampler.

    Raises:
        ValueError: see `read_sweep` and `open_study`.
        RuntimeError: workers ended before all trials had.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    sweep = read_sweep(file)
    study = open_study(sweep, sweep_folder(reports, sweep), storage)
    if count_finished(study) >= sweep.num_trials:
        return
    print(f"{sweep.name}: up to {sweep.num_trials} trials, compared by {sweep.metric}", flush=True)
    options = ["--worker", "--reports", str(reports), "--seed", str(seed)]
    command = [sys.executable, "-m", "fervit_lib.sweep", str(file), *options]
    threads = str(max(1, cpu_count() // workers))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    processes = [
        subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment) for _ in range(workers)
    ]
    try:
        with progress(
            total=sweep.num_trials, initial=count_finished(study), desc="sweep", unit=" trials"
        ) as bar:
            while any(process.poll() is None for process in processes):
                time.sleep(0.5)
                bar.update(count_finished(study) - bar.n)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    codes = [process.returncode for process in processes]
    # A worker that was killed does not matter if the others ran its trial, too.
    if any(codes) and count_finished(study) < sweep.num_trials:
        raise RuntimeError(
            f"workers ended early (exit codes {codes}); run the same command again to run "
            "the remaining trials"
        )
