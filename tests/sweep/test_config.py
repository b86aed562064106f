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


# As they are found in tutorials and repositories: what is searched by our names, the metric, and
# the number of trials; or the beginning of the error.
LOG = "{distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-2}"
COMMAND = 'program: train.py\ncommand: ["${env}", python, "${program}", "${args}"]\n'
FILES_OF_OTHERS = {
    "W&B's first example": (
        f"{COMMAND}name: sweepdemo\nmethod: bayes\n"
        "metric: {goal: minimize, name: validation_loss}\n"
        "parameters: {learning_rate: {min: 0.0001, max: 0.1}, batch_size: {values: [16, 32]},"
        " epochs: {values: [5, 10]}}",
        (["lr", "batch_size", "epochs"], "valid_loss", 20),
    ),
    "W&B's command line": (
        "method: random\nentity: team\nproject: first\ndescription: rates\nrun_cap: 30\n"
        f"parameters: {{lr: {LOG}, dropout: {{values: [0.1, 0.2]}}}}",
        (["lr", "drop_rate"], "macro_f1", 30),
    ),
    "Keras": (
        "method: bayes\nmetric: {name: val_accuracy, goal: maximize}\n"
        "early_terminate: {type: hyperband, min_iter: 3}\n"
        f"parameters: {{learning_rate: {LOG}, epochs: {{value: 10}}}}",
        (["lr"], "accuracy", 20),
    ),
    "fastai": (
        "method: grid\nmetric: {name: f1_score, goal: maximize}\n"
        "parameters: {arch: {values: [resnet18, resnet34]}, bs: {values: [32, 64]},"
        " wd: {value: 0.1}}",
        (["model_name", "batch_size"], "macro_f1", 4),
    ),
    "timm": (
        f"{COMMAND}method: random\nparameters:\n  batch-size: {{values: [64, 128]}}\n"
        "  weight-decay: {distribution: uniform, min: 0.0, max: 0.1}\n"
        "  smoothing: {distribution: q_uniform, min: 0.0, max: 0.2, q: 0.05}\n"
        "  clip-grad: {value: 1.0}",
        (["batch_size", "weight_decay", "label_smoothing"], "macro_f1", 20),
    ),
    "hyperband with brackets": (
        "method: bayes\nmetric: {name: val_loss}\nearly_terminate: {type: hyperband,"
        " max_iter: 27, s: 2, eta: 3}\nparameters: {depth: {min: 2, max: 8},"
        " batch_size: {distribution: q_log_uniform_values, q: 8, min: 32, max: 256}}",
        (["depth", "batch_size"], "valid_loss", 20),
    ),
    "Hydra": (
        "method: grid\naliases: {trainer.lr: lr, eval/f1: macro_f1}\n"
        "metric: {name: eval/f1, goal: maximize}\nparameters: {trainer.lr: {values: [0.1, 0.2]}}",
        (["lr"], "macro_f1", 2),
    ),
    "an optimiser that is not ours": (
        "method: grid\nparameters: {optimizer: {values: [adam, sgd]}}",
        "parameters.optimizer: ",
    ),
    "nested": (
        "method: random\nparameters: {model: {parameters: {depth: {values: [2, 4]}}}}",
        "parameters.model_name.parameters: .*one level up",
    ),
    "a normal distribution": (
        "method: random\nparameters: {lr: {distribution: log_normal, mu: -7, sigma: 1}}",
        "parameters.lr.distribution: .*log_normal.*log_uniform_values",
    ),
    "probabilities": (
        "method: random\nparameters: {depth: {values: [2, 4], probabilities: [0.2, 0.8]}}",
        "parameters.depth.probabilities: .*leave it out",
    ),
    "rates as text": (
        "method: random\nparameters: {lr: {min: 1e-5, max: 1e-2}}",
        "parameters.lr.min: .*1.0e-4",
    ),
    "bayes without a metric": (
        f"method: bayes\nparameters: {{lr: {LOG}}}",
        "metric: required",
    ),
}


@pytest.mark.parametrize(("text", "expected"), FILES_OF_OTHERS.values(), ids=FILES_OF_OTHERS)
def test_files_of_others(tmp_path: Path, text: str, expected: tuple | str) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"^{path}: {expected}"):
            read_sweep(path)
        return
    sweep = read_sweep(path)
    assert (list(sweep.space), sweep.metric, sweep.num_trials) == expected
    assert parse_sweep(sweep.source) == sweep  # as a worker gets it from the study
    trial = optuna.create_study().ask()
    drawn = suggest_parameters(trial, sweep)
    assert drawn.keys() == {*sweep.space, *sweep.fixed}


def test_an_alias_of_the_file_is_used_before_the_usual_one() -> None:
    rates = {"parameters": {"dropout": {"values": [0.1, 0.2]}}}
    assert list(parse_sweep(sweep_source(**rates)).space) == ["drop_rate"]
    aliased = parse_sweep(sweep_source(aliases={"dropout": "attn_drop_rate"}, **rates))
    assert list(aliased.space) == ["attn_drop_rate"]


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
            ({"metric": {"name": "macro_f1", "target": 1}}, "metric.target: .*leave it out"),
            ({"aliases": {"lr": [1]}}, r"parameters.\[1\]: "),
            ({"aliases": ["lr"]}, "aliases: expected .key: value."),
            ({"parameters": {"lr": RANGE, "learning_rate": RANGE}}, "parameters: .*learning_rate"),
            ({"metric": {"name": "f1"}}, "metric.name: .*'f1'"),
            ({"metric": {"name": "accuracy", "goal": "max"}}, "metric.goal: .*'max'"),
            ({"run_cap": 0}, "run_cap: .*got 0"),
            ({"name": "a/b"}, "name: .*'a/b'"),
            ({"early_terminate": {"type": "envelope"}}, "early_terminate.type: .*'envelope'"),
            (hyperband(eta=2), "early_terminate: .*min_iter"),
            (hyperband(min_iter=9), "early_terminate.min_iter: .*at most 8"),
            (hyperband(min_iter=1, strict=False), "early_terminate.strict: "),
            (hyperband(min_iter=1, n=1), "early_terminate.n: "),
            (
                parameter("lr", distribution="normal", mu=0),
                "parameters.lr.distribution: .*'normal'.* uniform",
            ),
            (
                parameter("lr", values=[1], probabilities=[1]),
                "parameters.lr.probabilities: .*leave",
            ),
            (parameter("lr", parameters={"a": {"value": 1}}), "parameters.lr.parameters: .*level"),
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
