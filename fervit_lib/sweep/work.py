"""Run a sweep's trials: each is 02_train as an ordinary run, in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbclient
import optuna
import pandas as pd
import papermill
from optuna.trial import TrialState

from fervit_lib.runs import Run
from fervit_lib.sweep.config import TRAIN_NOTEBOOK, Sweep, read_sweep
from fervit_lib.sweep.study import (
    STORAGES,
    Claim,
    claim,
    fail,
    num_ended,
    open_study,
    trial_environment,
    variant_of,
)
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import PROJECT_ROOT, cpu_count

_QUIET = {
    "extra_arguments": ["--IPKernelApp.log_level=ERROR"]
}  # or every kernel warns of how it is reached

Train = Callable[[Sweep, Run, dict[str, Any]], float]


def sweep_folder(reports: Path, sweep: Sweep) -> Path:
    """The sweep's own files: its study and locks."""
    return reports / sweep.name / "sweep"


def run_notebook(notebook: Path, folder: Path, parameters: dict[str, Any]) -> None:
    """Execute `notebook` to `folder/notebook.ipynb`, and make its page, failed or not.

    Raises:
        RuntimeError: a cell failed, with its error, or the kernel died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / "notebook.ipynb"
    try:
        papermill.execute_notebook(
            notebook, executed, parameters, kernel_name="python3", progress_bar=False, **_QUIET
        )
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(f"{error.ename}: {error.evalue}") from error
    except nbclient.exceptions.DeadKernelError as error:
        raise RuntimeError("the process was killed (was memory short?)") from error
    finally:
        # The page is a floor up, and not for this module to import.
        page = [
            sys.executable,
            "-m",
            "fervit_lib.report",
            "page",
            str(executed),
            str(folder / "notebook.html"),
        ]
        subprocess.run(page, cwd=PROJECT_ROOT, capture_output=True)


def train_trial(sweep: Sweep, run: Run, parameters: dict[str, Any]) -> float:
    """Train one trial by 02_train; the sweep's metric in the epoch whose weights are kept."""
    own = {"experiment": run.experiment, "variant": run.variant, "reports": str(run.reports)}
    run_notebook(TRAIN_NOTEBOOK, run.folder, parameters | own)
    metrics = pd.read_csv(run.folder / "metrics.csv").set_index("epoch")
    return float(metrics.loc[run.result["best_epoch"], sweep.metric])


def work(sweep: Sweep, reports: Path, *, seed: int = 0, train: Train = train_trial) -> None:
    """Run trials until none is left to begin. Any number of processes may do so at once, and come and go.

    Args:
        train: runs a trial; what it raises is recorded as the reason why the trial failed.
    """
    folder = sweep_folder(reports, sweep)
    study = open_study(sweep, folder)
    while claimed := claim(study, sweep, folder, seed):
        run = Run(reports, sweep.name, "train", variant_of(claimed.trial.number))
        with claimed.lock, _environment(trial_environment(folder, claimed.trial.number)):
            _run_claimed(study, sweep, run, claimed, train)


@contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started within, and for no later one."""
    os.environ |= names
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def _run_claimed(study: optuna.Study, sweep: Sweep, run: Run, claimed: Claim, train: Train) -> None:
    number = claimed.trial.number
    try:
        value = train(sweep, run, claimed.parameters)
        if value != value:
            raise RuntimeError(f"{sweep.metric} is no number")
    except Exception as error:  # whatever a trial dies of, the sweep goes on
        reason = str(error).strip() or type(error).__name__
        fail(study, number, reason)
        return
    # Asked of the storage: the trial's own process said so, and this one's copy does not know.
    pruned = study.get_trials(deepcopy=False)[number].user_attrs.get("pruned")
    study.tell(number, state=TrialState.PRUNED) if pruned else study.tell(number, value)
    searched = {name: claimed.parameters[name] for name in sweep.space}
    shown = ", ".join(
        f"{name} {v:.2g}" if isinstance(v, float) else f"{name} {v}" for name, v in searched.items()
    )
    print(
        f"{run.variant}: {sweep.metric} {value:.3f}{' (stopped early)' if pruned else ''}, {shown}",
        flush=True,
    )


def run_sweep(
    file: Path, reports: Path, *, workers: int = 1, storage: str | None = None, seed: int = 0
) -> None:
    """Run the trials of a sweep that have not run yet, in `workers` processes.

    Args:
        file: the sweep, see `read_sweep`.
        reports: the folder of all experiments; trials go to `<name>/train/trial-000/`, …
        storage: see `study.load_storage`.
        seed: of the sampler.

    Raises:
        ValueError: as `read_sweep` and `open_study`.
        RuntimeError: workers ended before all trials had.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if storage not in (None, *STORAGES):
        raise ValueError(f"storage: expected one of {', '.join(STORAGES)}, got {storage!r}")
    sweep = read_sweep(file)
    study = open_study(sweep, sweep_folder(reports, sweep), storage)
    if num_ended(study) >= sweep.num_trials:
        return
    options = ["--worker", "--reports", str(reports), "--seed", str(seed)]
    command = [sys.executable, "-m", "fervit_lib.sweep", str(file), *options]
    threads = str(max(1, cpu_count() // workers))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    running = [subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment) for _ in range(workers)]
    try:
        with progress(
            total=sweep.num_trials, initial=num_ended(study), desc="sweep", unit=" trials"
        ) as bar:
            while any(process.poll() is None for process in running):
                time.sleep(0.5)
                bar.update(num_ended(study) - bar.n)
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        raise
    if (
        any(codes) and num_ended(study) < sweep.num_trials
    ):  # else the others have taken up what one left
        raise RuntimeError(
            f"{sum(map(bool, codes))} of {workers} workers ended early (exit codes {codes}); run the same command "
            f"again: it takes up the trials that they left"
        )
