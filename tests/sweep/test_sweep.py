"""Sweeps: the format, the search, several workers, and what is left when they are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from optuna.trial import TrialState
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from fervit_lib import models, training
from fervit_lib.figures import sweep as sweep_figures
from fervit_lib.latents import complete_store
from fervit_lib.runs import Run
from fervit_lib.sweep import (
    leaderboard,
    load_study,
    open_study,
    pareto_front,
    parse_sweep,
    read_sweep,
    run_notebook,
    run_sweep,
    write_winner,
)
from fervit_lib.sweep import study as study_module
from fervit_lib.sweep.__main__ import main
from fervit_lib.sweep.callback import ReportTrial
from fervit_lib.sweep.config import METRICS
from fervit_lib.sweep.study import MAX_STARTS, claim, live_trial, num_ended, propose
from fervit_lib.sweep.wandb_agent import for_wandb
from fervit_lib.sweep.work import work
from fervit_lib.system.atomic import write_json
from fervit_lib.system.runtime import PROJECT_ROOT, seed_everything

optuna.logging.set_verbosity(optuna.logging.WARNING)
DEMO = PROJECT_ROOT / "configs" / "sweep.yaml"
RANGE = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}


def content(**changes: Any) -> dict[str, Any]:
    """A sweep over a rate and a batch size, with other keys set, or left out where None."""
    base = {
        "name": "tiny",
        "method": "random",
        "metric": {"name": "macro_f1", "goal": "maximize"},
        "parameters": {"lr": RANGE, "batch_size": {"values": [16, 32]}, "epochs": {"value": 8}},
        "run_cap": 6,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


class TestFormat:
    def test_the_demo_reads_as_weights_and_biases_reads_it(self) -> None:
        sweep = read_sweep(DEMO)
        theirs = search_space_from_sweep_config(yaml.safe_load(DEMO.read_text())["parameters"])
        assert {name: theirs[name] for name in sweep.space} == sweep.space
        assert all(theirs[name].choices == (value,) for name, value in sweep.fixed.items())
        assert sweep.num_trials == 12 and sweep.goal == "maximize"

    @pytest.mark.parametrize(
        "spec",
        [
            {"values": ["a", 2, None]},
            {"min": 1, "max": 9},
            {"min": 0.0, "max": 1},
            {"distribution": "uniform", "min": 0, "max": 1},
            {"distribution": "int_uniform", "min": 2, "max": 5},
            {"distribution": "q_uniform", "min": 0, "max": 10, "q": 5},
            {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
            RANGE,
        ],
    )
    def test_a_parameter_is_drawn_from_what_weights_and_biases_draws_it_from(
        self, spec: dict
    ) -> None:
        parameters = {"x": spec, "y": {"values": [1, 2]}}
        assert parse_sweep(content(parameters=parameters)).space == search_space_from_sweep_config(
            parameters
        )

    def test_log_uniform_is_of_the_exponent(self) -> None:
        space = parse_sweep(
            content(parameters={"lr": {"distribution": "log_uniform", "min": -3, "max": 0}})
        ).space
        assert (space["lr"].low, space["lr"].high, space["lr"].log) == (
            pytest.approx(np.exp(-3)),
            1.0,
            True,
        )

    def test_hyperband_in_both_ways(self) -> None:
        first = parse_sweep(content(early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2}))
        assert first.early == {"min_resource": 2, "max_resource": 8, "reduction_factor": 2}
        last = parse_sweep(content(early_terminate={"type": "hyperband", "max_iter": 27, "s": 2}))
        assert last.early == {"min_resource": 3, "max_resource": 27, "reduction_factor": 3}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"metod": "grid"}, "metod: not supported here; did you mean 'method'?"),
            ({"method": "custom"}, "method: expected one of grid, random, bayes, got 'custom'"),
            ({"metrics": []}, "metrics: not supported here; did you mean 'metric'?"),
            ({"metric": None}, "metric: expected it in a sweep"),
            ({"metric": {"name": "macro_f1", "target": 1}}, "metric.target: not supported here"),
            ({"metric": {"name": "f1"}}, "metric.name: expected one of train_loss, valid_loss"),
            (
                {"metric": {"name": "accuracy", "goal": "max"}},
                "metric.goal: expected one of minimize, maximize, got",
            ),
            ({"run_cap": None}, "run_cap: expected a number of trials: random search has no end"),
            ({"run_cap": 0}, "run_cap: expected a whole number"),
            ({"name": "a/b"}, "name: expected letters"),
            (
                {"early_terminate": {"type": "envelope"}},
                "early_terminate.type: expected hyperband, got 'envelope'",
            ),
            (
                {"early_terminate": {"type": "hyperband", "eta": 2}},
                "early_terminate: expected min_iter, or max_iter",
            ),
            (
                {"early_terminate": {"type": "hyperband", "min_iter": 9}},
                "early_terminate.min_iter: expected at most 8",
            ),
            (
                {"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": False}},
                "early_terminate.strict",
            ),
            (
                {"early_terminate": {"type": "hyperband", "min_iter": 1, "n": 1}},
                "early_terminate.n: not supported",
            ),
            (
                {"parameters": {"lr": {"distribution": "normal", "mu": 0}}},
                "got 'normal', which is not supported here",
            ),
            (
                {"parameters": {"lr": {"values": [1], "probabilities": [1]}}},
                "parameters.lr.probabilities: not",
            ),
            (
                {"parameters": {"lr": {"parameters": {"a": {"value": 1}}}}},
                "parameters.lr.parameters: not supported",
            ),
            ({"parameters": {"lr": RANGE | {"q": 1}}}, "parameters.lr.q: not supported here"),
            (
                {"parameters": {"lr": {"min": 1}}},
                "parameters.lr.max: expected it for distribution uniform",
            ),
            (
                {"parameters": {"lr": {"min": "1e-4", "max": 1}}},
                "got '1e-4' (in YAML, write 1.0e-4, not 1e-4)",
            ),
            ({"parameters": {"lr": {"min": 2, "max": 1}}}, "parameters.lr: expected min below max"),
            (
                {"parameters": {"epochs": {"value": 3}}},
                "parameters: expected at least one with several values",
            ),
            ({"method": "grid"}, "method: grid needs values"),
            (
                {"parameters": {"lrr": RANGE}},
                "parameters.lrr: notebooks/02_train.ipynb has no such parameter; did you",
            ),
            (
                {"parameters": {"reports": {"values": ["a", "b"]}}},
                "parameters.reports: notebooks/02_train.ipynb has",
            ),
            (
                {"parameters": {"depth": {"values": [1, 2.5]}}},
                "parameters.depth: expected int, got 2.5",
            ),
        ],
    )
    def test_a_mistake_is_named(self, tmp_path: Path, changes: dict, message: str) -> None:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content(**changes)))
        with pytest.raises(ValueError) as error:
            read_sweep(path)
        assert str(error.value).startswith(f"{path}: ") and message in str(error.value)

    def test_the_command_line_ends_with_the_mistake_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content(metod="grid")))
        with pytest.raises(SystemExit) as end:
            main([str(path), "--reports", str(tmp_path / "reports")])
        assert str(end.value).startswith(f"sweep: {path}: metod: not supported here")
        assert not (tmp_path / "reports").exists()

    def test_the_agent_of_weights_and_biases_starts_a_trial(self) -> None:
        sweep = read_sweep(DEMO)
        assert for_wandb(sweep, DEMO) == sweep.source  # it says itself how
        own = for_wandb(parse_sweep(content()), DEMO)
        assert own["command"][2:] == sweep.source["command"][2:]
        given = create_sweep_command_args(
            {"args": {"lr": {"value": 0.01}, "approach": {"value": "image"}}}
        )
        assert json.loads(given["args_json"][0]) == {"lr": 0.01, "approach": "image"}


def search(method: str, goal: str, seed: int, trials: int = 30) -> float:
    """How far the best of some trials is from the best there is of a bowl with a bump for a category."""
    parameters = {
        "lr": {"min": -5.0, "max": 5.0},
        "mixup": {"min": -5.0, "max": 5.0},
        "depth": {"values": [1, 2, 3]},
    }
    metric = {"name": "accuracy", "goal": goal}
    sweep = parse_sweep(
        content(method=method, metric=metric, parameters=parameters, run_cap=trials)
    )
    study = optuna.create_study(direction=sweep.goal)
    for number in range(trials):
        study.sampler = sweep.sampler(number, seed)
        trial = study.ask()
        at = propose(study, sweep, trial)
        distance = (at["lr"] - 2) ** 2 + (at["mixup"] + 1) ** 2 + 4 * (at["depth"] != 2)
        study.tell(trial, distance if goal == "minimize" else -distance)
    return abs(study.best_value)


class TestSearch:
    @pytest.mark.parametrize("goal", ["minimize", "maximize"])
    def test_bayes_beats_random(self, goal: str) -> None:
        bayes, random = (
            [search(method, goal, seed) for seed in range(20)] for method in ("bayes", "random")
        )
        assert median(bayes) < 0.5 * median(random)

    def test_another_start_does_not_draw_the_same_again(self) -> None:
        sweep = parse_sweep(content())
        study = optuna.create_study()
        drawn = []
        for number in range(50):
            study.sampler = sweep.sampler(number, seed=0)
            drawn.append(propose(study, sweep, study.ask())["lr"])
        assert len(set(drawn)) == 50


def start_worker(sweep: dict, reports: Path, train: Callable[[dict], float]) -> BaseProcess:
    """A real worker, whose trials run `train` instead of a notebook."""

    def run_trial(_: object, run: Run, parameters: dict) -> float:
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / "starts").open("a") as file:
            print(os.getpid(), file=file)
        return train(parameters)

    # Forked, for a process that imports everything anew takes seconds to come up.
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


class TestWorkers:
    @pytest.mark.parametrize("storage", ["sqlite", "journal"])
    def test_killed_workers_lose_no_trial(self, tmp_path: Path, storage: str) -> None:
        parameters = {"lr": {"values": [0.1, 0.2, 0.3, 0.4]}, "depth": {"values": [1, 2]}}
        source = content(method="grid", parameters=parameters, run_cap=None)
        open_study(parse_sweep(source), tmp_path / "tiny" / "sweep", storage)

        def train(parameters: dict) -> float:
            time.sleep(0.4)
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
        whole = {trial.number for trial in study.trials if trial.state == TrialState.COMPLETE}
        assert 1 <= len(running) <= 2 and whole

        assert end(*[start_worker(source, tmp_path, train) for _ in range(2)]) == [0, 0]
        study = study_of(tmp_path, source)
        assert num_ended(study) == parse_sweep(source).num_trials
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
        assert {(trial.params["lr"], trial.params["depth"]) for trial in study.trials} == {
            (lr, depth) for lr in (0.1, 0.2, 0.3, 0.4) for depth in (1, 2)
        }
        again = {
            int(p.parent.name[-3:])
            for p in starts.glob("*/starts")
            if len(p.read_text().split()) > 1
        }
        assert again <= running  # what had ended was not run again

    def test_a_trial_that_kills_its_worker_is_given_up(self, tmp_path: Path) -> None:
        source = content(method="grid", parameters={"depth": {"values": [1, 2]}}, run_cap=None)

        def train(parameters: dict) -> float:
            if parameters["depth"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return 1.0

        codes = [end(start_worker(source, tmp_path, train)) for _ in range(MAX_STARTS + 1)]
        assert codes == [[-signal.SIGKILL]] * MAX_STARTS + [[0]]
        study = study_of(tmp_path, source)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
        assert "its worker ended 3 times" in study.trials[0].user_attrs["reason"]

    def test_a_trial_that_comes_further_each_time_is_not_given_up(self, tmp_path: Path) -> None:
        source = content(method="grid", parameters={"depth": {"values": [1]}}, run_cap=None)

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

    def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(self, tmp_path: Path) -> None:
        sweep = parse_sweep(content(run_cap=8))

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
        assert table.loc["trial-003", "reason"] == "macro_f1 is no number"
        assert study.best_trial.value == max(
            trial.params["lr"] for trial in study.trials if trial.value is not None
        )
        assert list(table.index[-2:].sort_values()) == ["trial-002", "trial-003"]

    def test_a_trial_that_its_own_process_stopped_is_pruned(self, tmp_path: Path) -> None:
        folder = tmp_path / "tiny" / "sweep"

        def in_own_process(number: int) -> None:
            trial = live_trial(load_study(folder)[0], number)
            trial.report(0.3, 1)
            trial.set_user_attr("pruned", True)

        def train(_: object, run: Run, __: dict) -> float:
            if run.variant == "trial-001":
                process = get_context("fork").Process(target=in_own_process, args=(1,))
                process.start()
                assert end(process) == [0]
            return 0.3

        work(parse_sweep(content(run_cap=3)), tmp_path, train=train)
        states = [trial.state for trial in study_of(tmp_path, content()).trials]
        assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]

    def test_more_trials_may_follow_and_another_sweep_may_not(self, tmp_path: Path) -> None:
        work(parse_sweep(content(run_cap=2)), tmp_path, train=lambda *_: 0.0)
        work(parse_sweep(content(run_cap=5)), tmp_path, train=lambda *_: 0.0)
        assert len(study_of(tmp_path, content()).trials) == 5
        other = parse_sweep(content(metric={"name": "macro_f1", "goal": "minimize"}))
        with pytest.raises(ValueError, match="metric: .* holds trials of a sweep with another one"):
            work(other, tmp_path, train=lambda *_: 0.0)

    def test_a_trial_that_ends_just_before_it_is_locked_is_not_taken_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = parse_sweep(content(run_cap=1))
        study = open_study(sweep, tmp_path)
        claimed = claim(study, sweep, tmp_path)
        take = study_module.try_lock

        def ended_in_between(path: Path) -> Any:
            study_of_its_worker, _ = load_study(tmp_path)
            study_of_its_worker.tell(claimed.trial.number, 0.5)
            claimed.lock.release()
            return take(path)

        monkeypatch.setattr(study_module, "try_lock", ended_in_between)
        assert claim(study, sweep, tmp_path) is None
        assert study.trials[0].value == 0.5

    def test_a_trial_that_somebody_works_on_is_not_taken(self, tmp_path: Path) -> None:
        sweep = parse_sweep(content(run_cap=2))
        study = open_study(sweep, tmp_path)
        first, second = claim(study, sweep, tmp_path), claim(study, sweep, tmp_path)
        assert claim(study, sweep, tmp_path) is None
        first.lock.release()
        taken = claim(study, sweep, tmp_path)
        assert (taken.trial.number, taken.parameters) == (0, first.parameters)
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


def test_hyperband_stops_a_bad_trial_and_lets_a_good_one_train_on(
    learner: Callable, tmp_path: Path
) -> None:
    sweep = parse_sweep(
        content(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2}, run_cap=40)
    )
    study = open_study(sweep, tmp_path / "sweep")
    for _ in range(20):
        trial = study.ask()
        for epoch in range(1, 9):
            trial.report(0.9, epoch)
            trial.should_prune()  # which notes how far it came
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


class TestResults:
    def test_a_front_is_what_no_row_beats(self) -> None:
        rng = np.random.default_rng(0)
        table = pd.DataFrame(
            {"f1": rng.integers(0, 6, 40) / 5, "cost": rng.integers(1, 8, 40).astype(float)}
        )
        table.loc[3, "f1"] = np.nan
        for goal, sign in (("maximize", 1), ("minimize", -1)):
            front = pareto_front(table, "f1", "cost", goal)
            rows = list(table.assign(f1=sign * table["f1"]).itertuples())
            for row in rows:
                beaten = any(
                    other.f1 >= row.f1
                    and other.cost <= row.cost
                    and (other.f1, other.cost) != (row.f1, row.cost)
                    for other in rows
                )
                assert front[row.Index] == (row.Index != 3 and not beaten)

    def test_the_winner_makes_a_plan_with_the_codes_it_was_found_on(self, tmp_path: Path) -> None:
        parameters = {
            "lr": RANGE,
            "depth": {"values": [1, 2]},
            "latents": {"value": str(tmp_path / "codes/toy/a")},
        }
        sweep = parse_sweep(content(parameters=parameters))
        work(sweep, tmp_path / "reports", train=lambda sweep, run, parameters: parameters["lr"])
        encoded = Run(tmp_path / "reports", "demo", "encode", "autoencoder")
        used = {
            "dataset": "toy",
            "toy_faces": 140,
            "epochs": 15,
            "experiment": "demo",
            "data_dir": str(tmp_path),
        }
        write_json(encoded.folder / "config.json", {"parameters": used})
        about = {
            "classes": ("a", "b"),
            "encoder": "autoencoder",
            "faces": tmp_path,
            "synthetic": True,
        }
        complete_store(
            tmp_path / "codes/toy/a", {"train": 1}, made_by={"run": str(encoded.folder)}, **about
        )
        study, _ = load_study(tmp_path / "reports" / "tiny" / "sweep")
        file = write_winner(tmp_path / "winner.yaml", study, sweep)
        written = yaml.safe_load(file.read_text())
        assert written["encode"] == {"toy_faces": 140} and written["data_dir"] == str(tmp_path)
        assert written["train"] == {"seed": [0, 1, 2]} | study.best_trial.params
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "1",
            "--nolock",
            "--configfile",
            file,
            "--dry-run",
        ]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("scratch-full-seed") >= 3

    def test_figures_show_every_trial(self, tmp_path: Path) -> None:
        sweep = parse_sweep(content(run_cap=8))

        def train(_: object, run: Run, parameters: dict) -> float:
            figures = {
                "val_accuracy": 0.5,
                "train_seconds": 3.0,
                "peak_memory_gb": 1.0,
                "total_parameters": 1000,
            }
            run.write_result(**figures, trainable_parameters=10, epochs=3, synthetic=True)
            if run.variant == "trial-005":
                raise RuntimeError("no memory")
            return parameters["lr"] + parameters["batch_size"] / 100

        work(sweep, tmp_path, train=train)
        study, _ = load_study(tmp_path / "tiny" / "sweep")
        table = leaderboard(study, sweep, tmp_path)
        page = sweep_figures.table_of_trials(table, list(sweep.space), sweep.metric).to_html()
        assert all(f"trial-00{n}" in page for n in range(8))
        front = {"train_seconds": pareto_front(table, "macro_f1", "train_seconds")}
        assert (
            sum(len(trace.x) for trace in sweep_figures.plot_costs(table, "macro_f1", front).data)
            >= 8
        )
        assert len(sweep_figures.plot_parameters(study, "macro_f1")) == 4
        assert len(sweep_figures.plot_progress(study, "macro_f1")) == 2
        few = optuna.create_study()
        assert sweep_figures.plot_parameters(few, "macro_f1") == []


def run_and_kill_who_works_on(trial: Path, file: Path, reports: Path, workers: int) -> None:
    """`run_sweep`, one of whose workers is killed once it has begun `trial`."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_sweep, file, reports, workers=workers)
        while not (trial / "config.json").is_file():
            time.sleep(0.05)
            assert not running.done(), running.result()
        [number] = re.findall(
            r"^process (\d+) ", (reports / "tiny" / "sweep" / "locks" / trial.name).read_text()
        )
        os.kill(int(number), signal.SIGKILL)
        running.result()


@pytest.mark.notebooks
def test_a_real_sweep_with_killed_workers_and_a_failing_trial(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    make_store(tmp_path / "codes")
    parameters = {
        "attention": {"values": ["softmax", "rectified", "<img src=x onerror=alert(1)>"]},
        "latents": {"value": str(tmp_path / "codes")},
        "batch_size": {"value": 16},
        "epochs": {"value": 2},
        "embed_dim": {"value": 16},
        "num_heads": {"value": 2},
        "depth": {"value": 1},
        "wandb": {"value": "offline"},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content(method="grid", run_cap=None, parameters=parameters)))
    train = tmp_path / "reports" / "tiny" / "train"
    with pytest.raises(
        RuntimeError,
        match=r"1 of 1 workers ended early \(exit codes \[-9\]\); run the same command",
    ):
        run_and_kill_who_works_on(train / "trial-000", file, tmp_path / "reports", workers=1)
    assert not (train / "trial-000" / "result.json").exists()
    run_and_kill_who_works_on(
        train / "trial-001", file, tmp_path / "reports", workers=2
    )  # the other goes on

    winner = {"winner": str(tmp_path / "winner.yaml")}
    notebook = PROJECT_ROOT / "notebooks" / "06_sweep.ipynb"
    folder = tmp_path / "reports" / "tiny" / "sweep" / "all"
    given = {"config": str(file), "reports": str(tmp_path / "reports"), "workers": 2} | winner
    run_notebook(notebook, folder, given)
    result = json.loads((folder / "result.json").read_text())
    assert (result["trials"], result["failed"], result["pruned"], result["synthetic"]) == (
        3,
        1,
        0,
        True,
    )
    study, _ = load_study(folder.parent)
    reason = study.trials[2].user_attrs["reason"]
    assert "attention: expected one of softmax, rectified, got '<img" in reason
    page = (folder / "notebook.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and "<img" not in page
    assert [trial.user_attrs["starts"] for trial in study.trials[:2]] == [2, 2]
    for number in (0, 1):
        assert {
            "notebook.html",
            "config.json",
            "metrics.csv",
            "result.json",
            "checkpoints",
            "wandb",
        } <= {path.name for path in (train / f"trial-00{number}").iterdir()}
    assert not list(train.glob("trial-002/result.json"))
    assert yaml.safe_load((tmp_path / "winner.yaml").read_text())["train"]["attention"] in (
        "softmax",
        "rectified",
    )


@pytest.mark.notebooks
def test_a_trial_as_the_agent_of_weights_and_biases_starts_it(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    make_store(tmp_path / "codes")
    fixed = {
        "latents": str(tmp_path / "codes"),
        "epochs": 1,
        "embed_dim": 16,
        "num_heads": 2,
        "depth": 1,
    }
    parameters = {"lr": RANGE} | {name: {"value": value} for name, value in fixed.items()}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content(parameters=parameters)))
    given = create_sweep_command_args(
        {"args": {name: {"value": v} for name, v in (fixed | {"lr": 0.01}).items()}}
    )
    agent = {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "abc123"}
    command = [
        sys.executable,
        "-m",
        "fervit_lib.sweep",
        file,
        "--reports",
        tmp_path / "reports",
        "--trial",
    ]
    done = subprocess.run(
        [*command, *given["args_json"]],
        cwd=PROJECT_ROOT,
        env=os.environ | agent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "reports", "tiny", "train", "wandb-abc123")
    assert run.config["parameters"]["lr"] == 0.01 and run.result["epochs"] == 1
    [offline] = (run.folder / "wandb").glob("offline-run-*-abc123")
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", offline],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert synced.returncode == 0 and "abc123" in synced.stdout + synced.stderr
