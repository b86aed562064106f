"""Workers of a sweep: several at once, killed, restarted; and trials that fail or are stopped."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from sweeps import sweep_source

from fervit_lib import models, training
from fervit_lib.runs import Run
from fervit_lib.sweep import study as study_module
from fervit_lib.sweep.callback import ReportTrial
from fervit_lib.sweep.config import METRICS, parse_sweep
from fervit_lib.sweep.results import leaderboard
from fervit_lib.sweep.study import (
    MAX_STARTS,
    claim,
    count_finished,
    live_trial,
    load_study,
    open_study,
)
from fervit_lib.sweep.work import train_wandb_trial, work
from fervit_lib.system.runtime import seed_everything

optuna.logging.set_verbosity(optuna.logging.WARNING)


def start_worker(sweep: dict, reports: Path, train: Callable[[dict], float]) -> BaseProcess:
    """A worker process whose trials run `train` instead of a notebook."""

    def run_trial(_: object, run: Run, parameters: dict) -> float:
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / "starts").open("a") as file:
            print(os.getpid(), file=file)
        return train(parameters)

    # Forked, because a new process needs seconds for its imports.
    process = get_context("fork").Process(
        target=work, args=(parse_sweep(sweep), reports), kwargs={"train": run_trial}
    )
    process.start()
    return process


def end(*workers: BaseProcess) -> list[int]:
    for worker in workers:
        worker.join()
    return [worker.exitcode for worker in workers]


def study_of(reports: Path, sweep: dict) -> optuna.Study:
    return load_study(reports / sweep["name"] / "sweep")[0]


@pytest.mark.launched
class TestKilledWorkers:
    @pytest.mark.parametrize("storage", ["sqlite", "journal"])
    def test_no_trial_is_lost(self, tmp_path: Path, storage: str) -> None:
        parameters = {"lr": {"values": [0.1, 0.2, 0.3, 0.4]}, "depth": {"values": [1, 2]}}
        source = sweep_source(method="grid", parameters=parameters, run_cap=None)
        open_study(parse_sweep(source), tmp_path / "tiny" / "sweep", storage)

        def train(parameters: dict) -> float:
            time.sleep(0.2)
            return parameters["lr"] * parameters["depth"]

        workers = [start_worker(source, tmp_path, train) for _ in range(2)]
        starts = tmp_path / "tiny" / "train"
        while len(list(starts.glob("*/starts"))) < 3:
            time.sleep(0.05)
            assert any(worker.is_alive() for worker in workers)
        for worker in workers:
            worker.kill()
        assert end(*workers) == [-signal.SIGKILL] * 2
        study = study_of(tmp_path, source)
        running = {trial.number for trial in study.trials if trial.state == TrialState.RUNNING}
        complete = {trial.number for trial in study.trials if trial.state == TrialState.COMPLETE}
        assert 1 <= len(running) <= 2 and complete

        assert end(*[start_worker(source, tmp_path, train) for _ in range(2)]) == [0, 0]
        study = study_of(tmp_path, source)
        assert count_finished(study) == parse_sweep(source).num_trials
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
        assert {(trial.params["lr"], trial.params["depth"]) for trial in study.trials} == {
            (lr, depth) for lr in (0.1, 0.2, 0.3, 0.4) for depth in (1, 2)
        }
        restarted = {
            int(path.parent.name[-3:])
            for path in starts.glob("*/starts")
            if len(path.read_text().split()) > 1
        }
        assert restarted <= running

    def test_a_trial_that_kills_its_worker_is_given_up(self, tmp_path: Path) -> None:
        source = sweep_source(method="grid", parameters={"depth": {"values": [1, 2]}}, run_cap=None)

        def train(parameters: dict) -> float:
            if parameters["depth"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return 1.0

        codes = [end(start_worker(source, tmp_path, train)) for _ in range(MAX_STARTS + 1)]
        assert codes == [[-signal.SIGKILL]] * MAX_STARTS + [[0]]
        study = study_of(tmp_path, source)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
        assert "its worker ended 3 times" in study.trials[0].user_attrs["reason"]

    def test_a_trial_that_gains_an_epoch_each_time_is_not_given_up(self, tmp_path: Path) -> None:
        source = sweep_source(method="grid", parameters={"depth": {"values": [1]}}, run_cap=None)

        def train(_: dict) -> float:
            study = study_of(tmp_path, source)
            epoch = len(study.trials[0].intermediate_values) + 1
            live_trial(study, 0).report(0.5, epoch)
            if epoch <= MAX_STARTS + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return 1.0

        codes = [end(start_worker(source, tmp_path, train)) for _ in range(MAX_STARTS + 2)]
        assert codes == [[-signal.SIGKILL]] * (MAX_STARTS + 1) + [[0]]
        assert [trial.state for trial in study_of(tmp_path, source).trials] == [TrialState.COMPLETE]


class TestTrials:
    def test_a_failed_trial_is_recorded_and_the_sweep_continues(self, tmp_path: Path) -> None:
        sweep = parse_sweep(sweep_source(run_cap=8))

        def train(_: object, run: Run, parameters: dict) -> float:
            if run.variant == "trial-002":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return float("nan") if run.variant == "trial-003" else parameters["lr"]

        work(sweep, tmp_path, train=train)
        study, _ = load_study(tmp_path / "tiny" / "sweep")
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.FAIL if n in (2, 3) else TrialState.COMPLETE for n in range(8)]
        table = leaderboard(study, sweep, tmp_path).set_index("variant")
        assert table.loc["trial-002", "reason"] == "CUDA out of memory"
        assert table.loc["trial-003", "reason"] == "macro_f1 is NaN"
        assert study.best_trial.value == max(
            trial.params["lr"] for trial in study.trials if trial.value is not None
        )
        assert list(table.index[-2:].sort_values()) == ["trial-002", "trial-003"]

    def test_a_trial_that_its_own_process_stops_is_pruned(self, tmp_path: Path) -> None:
        folder = tmp_path / "tiny" / "sweep"

        def stop(number: int) -> None:
            trial = live_trial(load_study(folder)[0], number)
            trial.report(0.3, 1)
            trial.set_user_attr("pruned", True)

        def train(_: object, run: Run, __: dict) -> float:
            if run.variant == "trial-001":
                process = get_context("fork").Process(target=stop, args=(1,))
                process.start()
                assert end(process) == [0]
            return 0.3

        work(parse_sweep(sweep_source(run_cap=3)), tmp_path, train=train)
        states = [trial.state for trial in study_of(tmp_path, sweep_source()).trials]
        assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]

    def test_run_cap_may_grow_but_nothing_else_may_change(self, tmp_path: Path) -> None:
        work(parse_sweep(sweep_source(run_cap=2)), tmp_path, train=lambda *_: 0.0)
        work(parse_sweep(sweep_source(run_cap=5)), tmp_path, train=lambda *_: 0.0)
        assert len(study_of(tmp_path, sweep_source()).trials) == 5
        other = parse_sweep(sweep_source(metric={"name": "macro_f1", "goal": "minimize"}))
        with pytest.raises(ValueError, match="^metric: "):
            work(other, tmp_path, train=lambda *_: 0.0)

    def test_a_trial_that_ends_just_before_it_is_locked_is_not_run_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = parse_sweep(sweep_source(run_cap=1))
        study = open_study(sweep, tmp_path)
        claimed = claim(study, sweep, tmp_path)
        take = study_module.try_lock

        def end_then_lock(path: Path) -> Any:
            study_of_worker, _ = load_study(tmp_path)
            study_of_worker.tell(claimed.trial.number, 0.5)
            claimed.lock.release()
            return take(path)

        monkeypatch.setattr(study_module, "try_lock", end_then_lock)
        assert claim(study, sweep, tmp_path) is None
        assert study.trials[0].value == 0.5

    def test_a_running_trial_is_not_claimed_again(self, tmp_path: Path) -> None:
        sweep = parse_sweep(sweep_source(run_cap=2))
        study = open_study(sweep, tmp_path)
        first = claim(study, sweep, tmp_path)
        second = claim(study, sweep, tmp_path)
        assert claim(study, sweep, tmp_path) is None
        first.lock.release()
        again = claim(study, sweep, tmp_path)
        assert (again.trial.number, again.parameters) == (0, first.parameters)
        assert second.trial.number == 1


@pytest.fixture
def learner(make_store: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    def make(lr: float, callback: object) -> pd.DataFrame:
        seed_everything(0)
        store = tmp_path / "store"
        if not store.exists():
            make_store(store)
        model = models.create_model("scratch", 3, embed_dim=16, depth=1, num_heads=2)
        dls = training.face_dls(model, store, batch_size=16, device=torch.device("cpu"))
        plan = training.get_strategy("full")
        learn = training.build_learner(model, dls, plan, folder=tmp_path / "run", cbs=[callback])
        with learn.no_bar(), learn.no_logging():
            training.fit(learn, plan, epochs=8, lr=lr)
        return pd.read_csv(tmp_path / "run" / "metrics.csv")

    return make


def test_hyperband_stops_a_bad_trial_and_not_a_good_one(learner: Callable, tmp_path: Path) -> None:
    sweep = parse_sweep(
        sweep_source(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2}, run_cap=40)
    )
    study = open_study(sweep, tmp_path / "sweep")
    for _ in range(20):
        trial = study.ask()
        for epoch in range(1, 9):
            trial.report(0.9, epoch)
            trial.should_prune()  # also records how far the trial got
        study.tell(trial, 0.9)
    trained = []
    for lr in (1e-8, 1e-8, 1e-8, 1e-8, 3e-3):
        number = study.ask().number
        metrics = learner(lr, ReportTrial(tmp_path / "sweep", number))
        trial = load_study(tmp_path / "sweep")[0].trials[number]
        assert list(trial.intermediate_values.values()) == pytest.approx(list(metrics["macro_f1"]))
        assert trial.user_attrs.get("pruned", False) == (len(metrics) < 8)
        trained.append(len(metrics))
    assert set(metrics.columns) >= set(METRICS)
    assert min(trained[:4]) < 8 and trained[4] == 8


@pytest.mark.parametrize(
    ("parameters", "run_id"),
    [
        ({'lr = 0.1; open("ran", "w"); x': 1}, "a"),
        ({"lr": "0.1"}, "a"),
        ({"experiment": "other"}, "a"),
        ([0.1], "a"),
        ({"lr": 0.1}, "../../up"),
        ({"lr": 0.1}, "a;b"),
    ],
    ids=lambda value: str(value),
)
def test_a_trial_of_wandb_with_other_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: Any, run_id: str
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(ValueError, match=r"--trial|WANDB_RUN_ID"):
        train_wandb_trial(parse_sweep(sweep_source()), parameters, tmp_path)
    assert not list(tmp_path.iterdir())


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "SQLite truncated": ("sqlite", lambda content: content[: len(content) // 2]),
    "SQLite overwritten": ("sqlite", lambda content: b"no database" + content[11:]),
    "journal without a beginning": ("journal", lambda content: content[9:]),
    "journal overwritten": ("journal", lambda content: b"\xff" + content[1:]),
}


@pytest.mark.parametrize(("storage", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_study_is_refused_by_name(
    tmp_path: Path, storage: str, damage: Callable[[bytes], bytes]
) -> None:
    sweep = parse_sweep(sweep_source(run_cap=3))
    folder = tmp_path / "tiny" / "sweep"
    study = open_study(sweep, folder, storage)
    study.tell(study.ask(), 0.5)
    file = folder / study_module.STORAGES[storage]
    file.write_bytes(damage(file.read_bytes()))
    for read in (lambda: load_study(folder), lambda: open_study(sweep, folder)):
        with pytest.raises(ValueError, match=f"{file.name}: damaged"):
            read()
