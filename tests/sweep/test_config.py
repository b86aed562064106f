"""The format of sweeps: read as Weights & Biases reads it; what is not supported is named."""

from pathlib import Path
from statistics import median

import numpy as np
import optuna
import pytest
import yaml
from sweeps import RANGE, sweep_source
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from fervit_lib.sweep.__main__ import main
from fervit_lib.sweep.config import parse_sweep, read_sweep
from fervit_lib.sweep.study import suggest_parameters
from fervit_lib.system.runtime import PROJECT_ROOT

optuna.logging.set_verbosity(optuna.logging.WARNING)
DEMO = PROJECT_ROOT / "configs" / "sweep.yaml"


class TestSpace:
    def test_the_demo_is_read_as_by_weights_and_biases(self) -> None:
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
    def test_a_distribution_is_that_of_weights_and_biases(self, spec: dict) -> None:
        parameters = {"x": spec, "y": {"values": [1, 2]}}
        space = parse_sweep(sweep_source(parameters=parameters)).space
        assert space == search_space_from_sweep_config(parameters)

    def test_log_uniform_is_of_the_exponent(self) -> None:
        spec = {"distribution": "log_uniform", "min": -3, "max": 0}
        space = parse_sweep(sweep_source(parameters={"lr": spec})).space
        assert space["lr"].log
        assert (space["lr"].low, space["lr"].high) == pytest.approx((np.exp(-3), 1))

    def test_a_grid_has_every_point_once(self) -> None:
        parameters = {
            "lr": {"values": [0.1, 0.2]},
            "depth": {"min": 1, "max": 3},
            "drop_rate": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.25},
        }
        grid = sweep_source(method="grid", parameters=parameters, run_cap=None)
        sweep = parse_sweep(grid)
        points = [tuple(point.values()) for point in sweep.grid]
        assert points[0] == (0.1, 1, 0.0) and points[1] == (0.1, 1, 0.25)
        assert len(set(points)) == len(points) == sweep.num_trials == 2 * 3 * 3
        assert parse_sweep(grid | {"run_cap": 5}).num_trials == 5


def test_both_forms_of_hyperband() -> None:
    first = {"type": "hyperband", "min_iter": 2, "eta": 2}
    assert parse_sweep(sweep_source(early_terminate=first)).early == {
        "min_resource": 2,
        "max_resource": 8,
        "reduction_factor": 2,
    }
    last = {"type": "hyperband", "max_iter": 27, "s": 2}
    assert parse_sweep(sweep_source(early_terminate=last)).early == {
        "min_resource": 3,
        "max_resource": 27,
        "reduction_factor": 3,
    }


def hyperband(**keys: object) -> dict:
    return {"early_terminate": {"type": "hyperband"} | keys}


def parameter(name: str, **spec: object) -> dict:
    return {"parameters": {name: spec}}


# As W&B's documentation takes them: only bayes needs a metric, and no sweep a name.
WANDB_FILES = {
    "grid": "method: grid\nparameters: {lr: {values: [0.001, 0.002]}}\n",
    "random": "method: random\nrun_cap: 2\nparameters: {lr: {min: 0.001, max: 0.01}}\n",
    "nulls": (
        "name: null\nmethod: grid\nmetric: null\nearly_terminate: null\nrun_cap: null\n"
        "description: null\nparameters: {lr: {values: [0.001, 0.002]}}\n"
    ),
}


@pytest.mark.parametrize("text", WANDB_FILES.values(), ids=WANDB_FILES)
def test_what_weights_and_biases_does_not_need(tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.yaml").write_text(text)
    sweep = read_sweep(tmp_path / "rates.yaml")
    assert (sweep.name, sweep.metric, sweep.goal) == ("rates", "macro_f1", "maximize")
    assert sweep.num_trials == 2 and sweep.early is None
    again = parse_sweep(sweep.source)  # as a worker gets it from the study
    assert again == sweep


def test_hyperband_ignores_s_beside_min_iter() -> None:
    plain = {"type": "hyperband", "min_iter": 2, "eta": 2}
    assert parse_sweep(sweep_source(early_terminate=plain | {"s": 2})).early == (
        parse_sweep(sweep_source(early_terminate=plain)).early
    )


@pytest.mark.parametrize("method", ["random", "bayes"])
@pytest.mark.parametrize("q", [1, 8])
def test_log_steps_are_multiples_of_q(method: str, q: int) -> None:
    spec = {"distribution": "q_log_uniform_values", "min": 16, "max": 256, "q": q}
    sweep = parse_sweep(sweep_source(method=method, parameters={"batch_size": spec}))
    values = []
    study = optuna.create_study(direction=sweep.goal)
    for number in range(200):
        study.sampler = sweep.sampler(number, 0)
        trial = study.ask()
        values.append(suggest_parameters(trial, sweep)["batch_size"])
        assert sweep.parameters_of(trial.params)["batch_size"] == values[-1]
        study.tell(trial, 0.0)
    assert all(type(value) is int and value % q == 0 and 16 <= value <= 256 for value in values)
    if method == "random":  # half of the draws below the middle of the logarithms, 64
        assert 70 < sum(value < 64 for value in values) < 130


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"metod": "grid"}, "metod: .*'method'"),
            ({"method": "custom"}, "method: .*'custom'"),
            ({"metrics": []}, "metrics: .*'metric'"),
            ({"method": "bayes", "metric": None}, "metric: required"),
            ({"metric": {"name": "macro_f1", "target": 1}}, "metric.target: "),
            ({"metric": {"name": "f1"}}, "metric.name: .*'f1'"),
            ({"metric": {"name": "accuracy", "goal": "max"}}, "metric.goal: .*'max'"),
            ({"run_cap": None}, "run_cap: .*random"),
            ({"run_cap": 0}, "run_cap: .*got 0"),
            ({"name": "a/b"}, "name: .*'a/b'"),
            ({"early_terminate": {"type": "envelope"}}, "early_terminate.type: .*'envelope'"),
            (hyperband(eta=2), "early_terminate: .*min_iter"),
            (hyperband(min_iter=9), "early_terminate.min_iter: .*at most 8"),
            (hyperband(min_iter=1, strict=False), "early_terminate.strict: "),
            (hyperband(min_iter=1, n=1), "early_terminate.n: "),
            (
                parameter("lr", distribution="normal", mu=0),
                "parameters.lr.distribution: .*'normal'",
            ),
            (parameter("lr", values=[1], probabilities=[1]), "parameters.lr.probabilities: "),
            (parameter("lr", parameters={"a": {"value": 1}}), "parameters.lr.parameters: "),
            ({"parameters": {"lr": RANGE | {"q": 1}}}, "parameters.lr.q: "),
            (parameter("lr", min=1), "parameters.lr.max: "),
            (
                parameter("batch_size", distribution="q_log_uniform_values", min=1, max=9, q=2),
                "parameters.batch_size: .*min",
            ),
            (
                {"method": "grid"}
                | parameter("batch_size", distribution="q_log_uniform_values", min=1, max=9),
                "method: grid",
            ),
            (parameter("lr", min="1e-4", max=1), "parameters.lr.min: .*1.0e-4"),
            (parameter("lr", min=2, max=1), "parameters.lr: "),
            (parameter("epochs", value=3), "parameters: "),
            ({"method": "grid"}, "method: grid"),
            ({"parameters": {"lrr": RANGE}}, "parameters.lrr: .*'lr'"),
            (parameter("reports", values=["a", "b"]), "parameters.reports: "),
            (parameter("depth", values=[1, 2.5]), "parameters.depth: .*2.5"),
        ],
    )
    def test_a_mistake_is_named(self, tmp_path: Path, changes: dict, message: str) -> None:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(sweep_source(**changes)))
        with pytest.raises(ValueError, match=f"^{path}: {message}"):
            read_sweep(path)

    def test_the_command_line_ends_with_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(sweep_source(metod="grid")))
        with pytest.raises(SystemExit, match=f"^sweep: {path}: metod: "):
            main([str(path), "--reports", str(tmp_path / "reports")])
        assert not (tmp_path / "reports").exists()


def search(method: str, goal: str, seed: int) -> float:
    """The distance of the best of 30 trials to the optimum of a bowl with a step per category."""
    parameters = {
        "lr": {"min": -5.0, "max": 5.0},
        "mixup": {"min": -5.0, "max": 5.0},
        "depth": {"values": [1, 2, 3]},
    }
    metric = {"name": "accuracy", "goal": goal}
    sweep = parse_sweep(sweep_source(method=method, metric=metric, parameters=parameters))
    study = optuna.create_study(direction=sweep.goal)
    for number in range(30):
        study.sampler = sweep.sampler(number, seed)
        trial = study.ask()
        at = suggest_parameters(trial, sweep)
        distance = (at["lr"] - 2) ** 2 + (at["mixup"] + 1) ** 2
        distance += 0 if at["depth"] == 2 else 4
        study.tell(trial, distance if goal == "minimize" else -distance)
    return abs(study.best_value)


class TestSampler:
    @pytest.mark.parametrize("goal", ["minimize", "maximize"])
    def test_bayes_is_better_than_random(self, goal: str) -> None:
        bayes = [search("bayes", goal, seed) for seed in range(10)]
        random = [search("random", goal, seed) for seed in range(10)]
        assert median(bayes) < 0.5 * median(random)

    def test_each_trial_draws_from_a_seed_of_its_own(self) -> None:
        sweep = parse_sweep(sweep_source())

        def draw(number: int, seed: int) -> float:
            study = optuna.create_study(sampler=sweep.sampler(number, seed))
            return suggest_parameters(study.ask(), sweep)["lr"]

        assert len({draw(number, seed=0) for number in range(50)}) == 50
        assert draw(3, seed=0) == draw(3, seed=0) != draw(3, seed=1)
