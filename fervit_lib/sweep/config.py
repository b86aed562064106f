"""A sweep as Weights & Biases writes it (docs.wandb.ai, "Sweep configuration options"), read for Optuna.

What Optuna cannot do the same way is refused by its name: a sweep never runs otherwise than it reads.
"""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
import papermill
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.names import check_name
from fervit_lib.system.runtime import PROJECT_ROOT, display_path

TRAIN_NOTEBOOK = PROJECT_ROOT / "notebooks" / "02_train.ipynb"
METHODS = ("grid", "random", "bayes")
Goal = Literal["minimize", "maximize"]
GOALS = get_args(Goal)
METRICS = (
    "train_loss",
    "valid_loss",
    "accuracy",
    "macro_f1",
    "recall",
    "precision",
    "roc_auc",
)  # of metrics.csv
SET_HERE = {"experiment", "variant", "reports", "resume"}

# Who trains is W&B's agent's business, and what the sweep is called there its page's.
_FOR_WANDB = ("description", "project", "entity", "program", "command")
_TOP = ("name", "method", "metric", "parameters", "early_terminate", "run_cap", *_FOR_WANDB)
_HYPERBAND = ("type", "min_iter", "max_iter", "s", "eta", "strict")
_DISTRIBUTIONS = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),  # of the logarithm
    "log_uniform_values": ("min", "max"),
}
MAX_GRID = 100_000
MAX_DEPTH = 100  # of the lists and maps in a file
_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
}

Distribution = CategoricalDistribution | IntDistribution | FloatDistribution


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: of the experiment, the folder under reports/.
        metric: a column of metrics.csv; of a trial counts its value in the epoch whose weights are kept.
        fixed: parameters that every trial has.
        space: parameters that are searched.
        run_cap: most trials; None: the whole grid.
        early: keywords of Optuna's HyperbandPruner; None: no trial is stopped early.
        source: the file's content.
    """

    name: str
    method: str
    metric: str
    goal: Goal
    fixed: dict[str, Any]
    space: dict[str, Distribution]
    run_cap: int | None
    early: dict[str, Any] | None
    source: dict[str, Any]

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every point of the search space, the last parameter fastest."""
        axes = [[(name, value) for value in _points(dist)] for name, dist in self.space.items()]
        return [dict(point) for point in itertools.product(*axes)]

    @property
    def num_trials(self) -> int:
        if self.run_cap is None:  # only a grid's: it has an end of its own
            return len(self.grid)
        return min(len(self.grid), self.run_cap) if self.method == "grid" else self.run_cap

    def sampler(self, number: int, seed: int) -> optuna.samplers.BaseSampler:
        """Optuna's sampler for trial `number`: seeded by it, so that workers and later starts never draw alike."""
        own = (seed * 1_000_003 + number) % 2**32
        if self.method == "bayes":
            return optuna.samplers.TPESampler(seed=own)
        return optuna.samplers.RandomSampler(seed=own)

    def pruner(self) -> optuna.pruners.BasePruner:
        return (
            optuna.pruners.HyperbandPruner(**self.early)
            if self.early
            else optuna.pruners.NopPruner()
        )


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for more than fits into memory. Nor is it nested deeply."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"expected values, got the alias *{self.peek_event().anchor}")
        if self.flow_level + len(self.indents) > MAX_DEPTH:
            raise yaml.YAMLError(
                f"expected values at most {MAX_DEPTH} lists and maps deep, got more"
            )
        return super().compose_node(parent, index)


def read_sweep(path: Path, notebook: Path = TRAIN_NOTEBOOK) -> Sweep:
    """Read and check a sweep's YAML file.

    Args:
        notebook: whose parameters are swept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not W&B's format, asks for what is not supported here, or names what the notebook has not.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{display_path(path)}: no such file; give a sweep as configs/sweep.yaml is one"
        )
    with explain_read_error(
        path, "expected YAML, but it does not parse", "configs/sweep.yaml shows how it is written"
    ):
        source = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506  (a SafeLoader)
    try:
        sweep = parse_sweep(source)
        check_parameters(sweep, notebook)
    except ValueError as error:
        raise ValueError(f"{display_path(path)}: {error}") from error
    return sweep


def parse_sweep(source: Any) -> Sweep:
    """Check the content of a sweep file, see `read_sweep`."""
    _check_keys("a sweep", source, _TOP)
    for key in ("name", "method", "metric", "parameters"):
        if key not in source:
            raise ValueError(f"{key}: expected it in a sweep, got none")
    if source["method"] not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {source['method']!r}")
    metric = source["metric"]
    _check_keys("metric", metric, ("name", "goal"))
    if metric.get("name") not in METRICS:
        raise ValueError(
            f"metric.name: expected one of {', '.join(METRICS)}, got {metric.get('name')!r}"
        )
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in GOALS:
        raise ValueError(f"metric.goal: expected one of {', '.join(GOALS)}, got {goal!r}")
    _check_mapping("parameters", source["parameters"])
    fixed, space = {}, {}
    for name, spec in source["parameters"].items():
        distribution = _read_parameter(f"parameters.{name}", spec)
        if distribution is not None:
            space[name] = distribution
        else:
            fixed[name] = spec["value"]
    cap = source.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise ValueError(f"run_cap: expected a whole number of trials, at least 1, got {cap!r}")
    if cap is None and source["method"] != "grid":
        raise ValueError(
            f"run_cap: expected a number of trials: {source['method']} search has no end of its own"
        )
    if not space:
        raise ValueError(
            "parameters: expected at least one with several values or a range, got only fixed ones"
        )
    sweep = Sweep(
        name=check_name("name", source["name"]),
        method=source["method"],
        metric=metric["name"],
        goal=goal,
        fixed=fixed,
        space=space,
        run_cap=cap,
        early=_read_hyperband(source["early_terminate"], fixed)
        if "early_terminate" in source
        else None,
        source=source,
    )
    if (
        sweep.method == "grid"
        and (size := math.prod(map(_count_points, space.values()))) > MAX_GRID
    ):
        raise ValueError(
            f"method: expected a grid of at most {MAX_GRID:,} points, got {size:,}; widen q, or say random"
        )
    return sweep


def check_parameters(sweep: Sweep, notebook: Path) -> None:
    """Refuse a parameter that `notebook` does not have or that a sweep sets itself, or values of another type."""
    known = papermill.inspect_notebook(notebook)
    free = sorted(set(known) - SET_HERE)
    for name in [*sweep.fixed, *sweep.space]:
        if name not in free:
            raise ValueError(
                f"parameters.{name}: {display_path(notebook)} has no such parameter{_near(name, free)}"
            )
        kind = known[name]["inferred_type_name"]
        for value in _examples(sweep, name):
            if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
                hint = (
                    " (in YAML, write 1.0e-4, not 1e-4)"
                    if kind == "float" and isinstance(value, str)
                    else ""
                )
                raise ValueError(f"parameters.{name}: expected {kind}, got {value!r}{hint}")


def _examples(sweep: Sweep, name: str) -> Iterable[Any]:
    """Values that show the type of a parameter: all it lists, or an end of its range."""
    if name in sweep.fixed:
        return [sweep.fixed[name]]
    distribution = sweep.space[name]
    return (
        distribution.choices
        if isinstance(distribution, CategoricalDistribution)
        else [distribution.low]
    )


def _read_parameter(where: str, spec: Any) -> Distribution | None:
    """The distribution of one entry of `parameters`; None for a fixed value."""
    _check_mapping(where, spec)
    kind = spec.get("distribution", _infer(spec))
    if not isinstance(kind, str) or kind not in _DISTRIBUTIONS:
        supported = ", ".join(_DISTRIBUTIONS)
        raise ValueError(
            f"{where}.distribution: expected one of {supported}, got {kind!r}, which is not supported here"
        )
    _check_keys(where, spec, ("distribution", *_DISTRIBUTIONS[kind]))
    if missing := [key for key in _DISTRIBUTIONS[kind] if key not in spec and key != "q"]:
        raise ValueError(f"{where}.{missing[0]}: expected it for distribution {kind}, got none")
    if kind == "constant":
        return None
    if kind == "categorical":
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise ValueError(f"{where}.values: expected a list of values, got {spec['values']!r}")
        return CategoricalDistribution(spec["values"])
    return _range(where, kind, spec)


def _range(where: str, kind: str, spec: Mapping[str, Any]) -> Distribution:
    numbers = int if kind == "int_uniform" else (int, float)
    for key in ("min", "max", "q"):
        if key in spec and (not isinstance(spec[key], numbers) or isinstance(spec[key], bool)):
            hint = " (in YAML, write 1.0e-4, not 1e-4)" if isinstance(spec[key], str) else ""
            wanted = "a whole number" if numbers is int else "a number"
            raise ValueError(f"{where}.{key}: expected {wanted}, got {spec[key]!r}{hint}")
    low, high, step = spec["min"], spec["max"], spec.get("q", 1)
    if not all(math.isfinite(number) for number in (low, high, step)):
        raise ValueError(f"{where}: expected finite numbers, got {spec}")
    if low >= high or step <= 0 or (kind == "log_uniform_values" and low <= 0):
        raise ValueError(
            f"{where}: expected min below max (above 0 for log_uniform_values) and q above 0, got {spec}"
        )
    if kind == "q_uniform" and not all(isinstance(number, int) for number in (low, high, step)):
        return FloatDistribution(
            low, low + step * math.floor((high - low) / step + 1e-9), step=step
        )
    if kind in ("int_uniform", "q_uniform"):
        return IntDistribution(low, low + step * ((high - low) // step), step=step)
    if kind == "log_uniform":
        if high > 700:
            raise ValueError(f"{where}.max: expected the logarithm of a number, got {high}")
        low, high = math.exp(low), math.exp(high)
    return FloatDistribution(low, high, log=kind != "uniform")


def _infer(spec: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    whole = all(type(spec.get(key)) is int for key in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _step(distribution: IntDistribution | FloatDistribution) -> float:
    if distribution.step is None:
        raise ValueError(
            "method: grid needs values (or int_uniform, q_uniform) of every parameter, got a range"
        )
    return distribution.step


def _count_points(distribution: Distribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    return round((distribution.high - distribution.low) / _step(distribution)) + 1


def _points(distribution: Distribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low + i * _step(distribution) for i in range(_count_points(distribution))]


def _read_hyperband(spec: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """W&B's two ways to write hyperband, as Optuna's: first epochs to judge after, last epochs, and the share kept."""
    _check_keys("early_terminate", spec, _HYPERBAND)
    if spec.get("type") != "hyperband":
        raise ValueError(f"early_terminate.type: expected hyperband, got {spec.get('type')!r}")
    if spec.get("strict") is False:
        raise ValueError(
            "early_terminate.strict: expected true (Optuna's hyperband keeps the best 1/eta), got false"
        )
    for key in ("min_iter", "max_iter", "s", "eta"):
        if key in spec and (
            type(spec[key]) is not int or not (2 if key == "eta" else 1) <= spec[key] <= 10_000
        ):
            raise ValueError(
                f"early_terminate.{key}: expected a whole number from 1 (eta: 2) to 10,000, got {spec[key]!r}"
            )
    if ("min_iter" in spec) == ("max_iter" in spec) or ("s" in spec) != ("max_iter" in spec):
        raise ValueError(
            f"early_terminate: expected min_iter, or max_iter with s, got {', '.join(spec)}"
        )
    eta = spec.get("eta", 3)
    last = spec.get("max_iter", fixed.get("epochs", "auto"))
    if last != "auto" and type(last) is not int:
        raise ValueError(f"parameters.epochs: expected int, got {last!r}")
    first = spec.get("min_iter") or max(1, last // eta ** spec["s"])
    if last != "auto" and first > last:
        raise ValueError(
            f"early_terminate.min_iter: expected at most {last}, the epochs of a trial, got {first}"
        )
    return {"min_resource": first, "max_resource": last, "reduction_factor": eta}


def _check_mapping(where: str, value: Any) -> None:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: expected `key: value`, got {value!r}")


def _check_keys(where: str, value: Any, known: Iterable[str]) -> None:
    _check_mapping(where, value)
    for key in value:
        if key not in known:
            prefix = "" if where == "a sweep" else f"{where}."
            raise ValueError(f"{prefix}{key}: not supported here{_near(key, list(known))}")


def _near(name: Any, known: list[str]) -> str:
    match = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean {match[0]!r}?" if match else f"; known are {', '.join(known)}"
