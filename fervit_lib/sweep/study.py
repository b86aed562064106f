"""A sweep's study: which trial is next, who works on it, and how it ended.

Workers share nothing but files. Optuna's storage holds the trials; beside it, a worker holds a lock on the trial that
it runs, which the system lets go of when the worker dies, however it dies: a trial that is running and not locked was
left behind, and whoever asks next takes it up.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from fervit_lib.sweep.config import Distribution, Sweep, parse_sweep
from fervit_lib.system.locks import file_lock, hold_lock, try_lock
from fervit_lib.system.runtime import display_path

STORAGES = ("sqlite", "journal")
VARIABLE = "FERVIT_TRIAL"  # of the environment: which trial a process trains
MAX_STARTS = 3  # of a trial without an epoch more: one that takes its worker down each time would never end otherwise


def trial_environment(folder: Path, number: int) -> dict[str, str]:
    """What a worker sets for the process that trains its trial."""
    return {VARIABLE: json.dumps({"folder": str(folder), "number": number})}


def load_storage(folder: Path, kind: str | None = None) -> optuna.storages.BaseStorage:
    """The storage in a sweep's folder: the one that is there, else a new one of `kind`.

    Args:
        kind: `sqlite` (the default), or `journal` for a network file system, where SQLite's locks are not safe.
    """
    files = {"sqlite": folder / "study.db", "journal": folder / "study.journal"}
    present = [name for name, file in files.items() if file.exists()]
    if kind not in (None, *STORAGES):
        raise ValueError(f"storage: expected one of {', '.join(STORAGES)}, got {kind!r}")
    if present and kind not in (None, *present):
        raise ValueError(
            f"storage: expected {present[0]}, which {display_path(folder)} began with, got {kind!r}; leave it out, or "
            f"give the sweep another name"
        )
    kind = (present or [kind or "sqlite"])[0]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "journal":
        return JournalStorage(JournalFileBackend(str(files["journal"])))
    return RDBStorage(
        f"sqlite:///{files['sqlite']}", engine_kwargs={"connect_args": {"timeout": 60}}
    )


def open_study(sweep: Sweep, folder: Path, storage: str | None = None) -> optuna.Study:
    """The study of `sweep` in `folder`, begun if there is none.

    Raises:
        ValueError: the study there is of another sweep: other parameters, method, metric or way to stop early. Only
            `run_cap` may grow.
    """
    optuna.logging.set_verbosity(
        optuna.logging.WARNING
    )  # workers say themselves how each trial went
    with hold_lock(folder / "sweep.lock"):
        study = optuna.create_study(
            storage=load_storage(folder, storage),
            study_name=sweep.name,
            direction=sweep.goal,
            pruner=sweep.pruner(),
            load_if_exists=True,
        )
        decisive = {
            key: sweep.source.get(key)
            for key in ("method", "metric", "parameters", "early_terminate")
        }
        began_with = study.user_attrs.get("sweep")
        if began_with is None:
            study.set_user_attr("sweep", sweep.source)
        for key, value in decisive.items():
            if began_with is not None and began_with.get(key) != value:
                raise ValueError(
                    f"{key}: {display_path(folder)} holds trials of a sweep with another one ({began_with.get(key)}); "
                    f"give the sweep another name, or remove that folder and reports/{sweep.name}/train"
                )
        if sweep.method == "grid" and not study.trials:
            for point in sweep.grid:
                study.enqueue_trial(point)
    return study


def load_study(folder: Path) -> tuple[optuna.Study, Sweep]:
    """The study in a sweep's folder, and the sweep that it began with.

    Raises:
        FileNotFoundError: none has begun there.
    """
    if not any((folder / name).exists() for name in ("study.db", "study.journal")):
        raise FileNotFoundError(
            f"{display_path(folder)}: no sweep there; run `python -m fervit_lib.sweep <file>` first"
        )
    storage = load_storage(folder)
    [summary] = optuna.get_all_study_summaries(storage)
    sweep = parse_sweep(summary.user_attrs["sweep"])
    return optuna.load_study(study_name=sweep.name, storage=storage, pruner=sweep.pruner()), sweep


@dataclass
class Claim:
    """A trial that this process works on, until the lock is released."""

    trial: optuna.Trial
    parameters: dict[str, Any]
    lock: FileLock


def propose(study: optuna.Study, sweep: Sweep, trial: optuna.Trial) -> dict[str, Any]:
    """The parameters of a trial: those that it was given already, and the others drawn now."""
    return sweep.fixed | {
        name: _draw(trial, name, distribution) for name, distribution in sweep.space.items()
    }


def _draw(trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def live_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """The trial of that number to report to, whichever process began it."""
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def claim(study: optuna.Study, sweep: Sweep, folder: Path, seed: int = 0) -> Claim | None:
    """The next trial to run: one that a dead worker left, else a new one; None where none is left to begin."""
    with hold_lock(folder / "sweep.lock"):
        trials = study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        for left in begun:
            if left.state == TrialState.RUNNING and (
                lock := try_lock(_lock_file(folder, left.number))
            ):
                if study.get_trials(deepcopy=False)[left.number].state.is_finished():
                    lock.release()  # its worker ended it between the look and the lock
                    continue
                study.sampler = sweep.sampler(left.number, seed)
                if taken := _take_up(study, sweep, left, lock):
                    return taken
        if len(begun) >= sweep.num_trials:
            return None
        study.sampler = sweep.sampler(len(begun), seed)
        trial = study.ask()
        lock = file_lock(_lock_file(folder, trial.number))
        lock.acquire()
        parameters = propose(study, sweep, trial)
        trial.set_user_attr("starts", 1)
        return Claim(trial, parameters, lock)


def num_ended(study: optuna.Study) -> int:
    """How many trials have ended, well or not."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _take_up(study: optuna.Study, sweep: Sweep, left: FrozenTrial, lock: FileLock) -> Claim | None:
    epochs = len(left.intermediate_values)
    starts = 1 + (
        left.user_attrs.get("starts", 0) if epochs == left.user_attrs.get("epochs", 0) else 0
    )
    if starts > MAX_STARTS:
        fail(
            study,
            left.number,
            f"its worker ended {MAX_STARTS} times while it ran (was memory short?)",
        )
        lock.release()
        return None
    trial = live_trial(study, left.number)
    trial.set_user_attr("starts", starts)
    trial.set_user_attr("epochs", epochs)
    return Claim(trial, propose(study, sweep, trial), lock)


def _lock_file(folder: Path, number: int) -> Path:
    return folder / "locks" / variant_of(number)


def variant_of(number: int) -> str:
    """The name of a trial's run directory."""
    return f"trial-{number:03d}"


def fail(study: optuna.Study, number: int, reason: str) -> None:
    """Record a trial as failed, and say why."""
    live_trial(study, number).set_user_attr("reason", reason)
    study.tell(number, state=TrialState.FAIL)
    print(f"{variant_of(number)} failed: {reason.splitlines()[0]}", flush=True)
