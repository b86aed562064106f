"""The study of a sweep: which trial is next, which worker runs it, and how it ended.

Workers share nothing but files. Optuna's storage holds the trials. In addition a worker holds a
file lock on the trial that it runs, which the operating system releases when the worker ends, even
if it is killed: a trial that is running but not locked was abandoned, and the next worker takes it
over. (Optuna's own retry waits until a heartbeat is missed, and restarts the trial instead of
resuming it.)
"""

from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from fervit_lib.sweep.config import Sweep, parse_sweep
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.locks import file_lock, hold_lock, try_lock
from fervit_lib.system.names import check_choice
from fervit_lib.system.runtime import display_path

STORAGES = {"sqlite": "study.db", "journal": "study.journal"}
# Starts of a trial without a further epoch. A trial that kills its worker each time would otherwise
# run forever.
MAX_STARTS = 3


def load_storage(folder: Path, kind: str | None = None) -> optuna.storages.BaseStorage:
    """The storage in a sweep's folder, created if there is none.

    Args:
        kind: of a new storage: `sqlite` (the default), or `journal` for a network file system,
            where SQLite's locks are not safe.

    Raises:
        ValueError: it is damaged; names the file.
    """
    for existing in STORAGES:
        if (folder / STORAGES[existing]).exists():
            kind = existing
    kind = kind or "sqlite"
    check_choice("storage", kind, STORAGES)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / STORAGES[kind]
    with explain_read_error(file, "damaged", "remove it to start the sweep again"):
        storage = (
            JournalStorage(JournalFileBackend(str(file)))
            if kind == "journal"
            else RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})
        )
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id)
    return storage


def open_study(sweep: Sweep, folder: Path, storage: str | None = None) -> optuna.Study:
    """The study of `sweep` in `folder`, created if there is none.

    Raises:
        ValueError: the existing study has other parameters, or another method, metric or early
            stopping. Only `run_cap` may grow.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # workers print how each trial ended
    with hold_lock(folder / "sweep.lock"):
        study = optuna.create_study(
            storage=load_storage(folder, storage),
            study_name=sweep.name,
            direction=sweep.goal,
            pruner=sweep.pruner(),
            load_if_exists=True,
        )
        if "sweep" not in study.user_attrs:
            study.set_user_attr("sweep", sweep.source)
        original = study.user_attrs["sweep"]
        for key in ("method", "metric", "parameters", "early_terminate"):
            if original.get(key) != sweep.source.get(key):
                raise ValueError(
                    f"{key}: {display_path(folder)} holds trials of a sweep with another one "
                    f"({original.get(key)}); give the sweep another name, or remove that folder "
                    f"and reports/{sweep.name}/train"
                )
        if sweep.method == "grid" and not study.trials:
            for point in sweep.grid:
                study.enqueue_trial(point)
    return study


def load_study(folder: Path) -> tuple[optuna.Study, Sweep]:
    """The study in a sweep's folder, and the sweep that it was created with.

    Raises:
        FileNotFoundError: there is none.
    """
    if not any((folder / file).exists() for file in STORAGES.values()):
        raise FileNotFoundError(
            f"{display_path(folder)}: no sweep there; run `python -m fervit_lib.sweep <file>` first"
        )
    storage = load_storage(folder)
    [summary] = optuna.get_all_study_summaries(storage)
    sweep = parse_sweep(summary.user_attrs["sweep"])
    return optuna.load_study(study_name=sweep.name, storage=storage, pruner=sweep.pruner()), sweep


@dataclass
class Claim:
    """A trial that this process runs until the lock is released."""

    trial: optuna.Trial
    parameters: dict
    lock: FileLock


def suggest_parameters(trial: optuna.Trial, sweep: Sweep) -> dict:
    """The parameters of a trial: the fixed ones, those it has already, and the others drawn now."""
    # As study.ask(sweep.space) does, but also for a trial that an ended worker has begun.
    drawn = {name: trial._suggest(name, space) for name, space in sweep.space.items()}
    return sweep.parameters_of(drawn)


def live_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """The trial of that number to report to, whichever process created it."""
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def claim(study: optuna.Study, sweep: Sweep, folder: Path, seed: int = 0) -> Claim | None:
    """The next trial to run, an abandoned one or else a new one; None if there is none."""
    with hold_lock(folder / "sweep.lock"):
        trials = study.get_trials(deepcopy=False)
        started = [trial for trial in trials if trial.state != TrialState.WAITING]
        for trial in started:
            if trial.state == TrialState.RUNNING:
                study.sampler = sweep.sampler(trial.number, seed)
                if abandoned := _take_over(study, sweep, trial, folder):
                    return abandoned
        if len(started) >= sweep.num_trials:
            return None
        study.sampler = sweep.sampler(len(started), seed)
        new = study.ask()
        lock = file_lock(_lock_file(folder, new.number))
        lock.acquire()
        parameters = suggest_parameters(new, sweep)
        new.set_user_attr("starts", 1)
        return Claim(new, parameters, lock)


def _take_over(study: optuna.Study, sweep: Sweep, trial: FrozenTrial, folder: Path) -> Claim | None:
    """Claim a trial if its worker has ended; None if not, or if the trial is given up."""
    lock = try_lock(_lock_file(folder, trial.number))
    if lock is None:
        return None
    if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
        lock.release()  # its worker finished it after the trials were listed
        return None
    epochs = len(trial.intermediate_values)
    starts = 1
    if epochs == trial.user_attrs.get("epochs", 0):  # no epoch since the last start
        starts += trial.user_attrs.get("starts", 0)
    if starts > MAX_STARTS:
        reason = f"its worker ended {MAX_STARTS} times while it ran (out of memory?)"
        fail(study, trial.number, reason)
        lock.release()
        return None
    live = live_trial(study, trial.number)
    live.set_user_attr("starts", starts)
    live.set_user_attr("epochs", epochs)
    return Claim(live, suggest_parameters(live, sweep), lock)


def count_finished(study: optuna.Study) -> int:
    """How many trials have ended, successfully or not."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _lock_file(folder: Path, number: int) -> Path:
    return folder / "locks" / variant_of(number)


def variant_of(number: int) -> str:
    """The name of a trial's run directory."""
    return f"trial-{number:03d}"


def fail(study: optuna.Study, number: int, reason: str) -> None:
    """Record a trial as failed, with the reason, and print it."""
    live_trial(study, number).set_user_attr("reason", reason)
    study.tell(number, state=TrialState.FAIL)
    print(f"{variant_of(number)} failed: {reason.splitlines()[0]}", flush=True)
