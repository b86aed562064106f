"""The search space of a sweep: Weights & Biases' distributions as Optuna's."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from fervit_lib.system.names import check_value, near, show

MAX_GRID = 100_000  # points
Distribution = CategoricalDistribution | IntDistribution | FloatDistribution

# W&B's name of a distribution, and the keys it takes.
_KEYS = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),  # of the logarithm
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),  # rounded to q by `Sweep.parameters_of`
}


def read_distribution(where: str, spec: Any) -> Distribution | None:
    """Read one entry of `parameters`, called `where` in errors; None for a fixed value.

    Raises:
        ValueError: names the key, what was expected and what was found.
    """
    check_mapping(where, spec)
    name = spec.get("distribution", _infer(spec))
    if name not in tuple(_KEYS):
        raise ValueError(
            f"{where}.distribution: Optuna has no {show(name)}; give min and max with one of "
            f"{', '.join(_KEYS)}, instead of a normal one mu - 2 sigma to mu + 2 sigma"
        )
    check_keys(where, spec, ("distribution", *_KEYS[name]))
    for key in _KEYS[name]:
        if key not in spec and key != "q":
            raise ValueError(f"{where}.{key}: required by the distribution {name}, got none")
    if name == "constant":
        return None
    if name == "categorical":
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise ValueError(
                f"{where}.values: expected a list of values, got {show(spec['values'])}"
            )
        return CategoricalDistribution(spec["values"])
    return _read_range(where, name, spec)


def _infer(spec: Mapping) -> str:
    """The distribution that W&B assumes if none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    is_whole = all(type(spec.get(key)) is int for key in ("min", "max"))
    return "int_uniform" if is_whole else "uniform"


def _read_range(where: str, name: str, spec: Mapping) -> Distribution:
    limits = {key: value for key, value in spec.items() if key != "distribution"}
    for key, value in limits.items():
        check_value(f"{where}.{key}", value, "int" if name == "int_uniform" else "float")
        if not math.isfinite(value):
            raise ValueError(f"{where}.{key}: expected a finite number, got {value}")
    low = limits["min"]
    high = limits["max"]
    step = limits.get("q", 1)
    is_log = "log" in name
    has_steps = name == "int_uniform" or name.startswith("q_")
    try:
        if name == "log_uniform":
            low, high = math.exp(low), math.exp(high)
        if is_log and has_steps and not low >= step > 0:
            raise ValueError("min must be at least q")
        if has_steps and all(isinstance(value, int) for value in limits.values()):
            return IntDistribution(low, high, is_log, 1 if is_log else step)
        return FloatDistribution(low, high, is_log, step if has_steps and not is_log else None)
    except (ValueError, OverflowError) as error:  # such as min above max
        raise ValueError(f"{where}: expected a range, got {spec} ({error})") from error


def list_points(distribution: Distribution) -> list:
    """The values of a distribution in order, at most one more than `MAX_GRID`.

    Raises:
        ValueError: it is continuous.
    """
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low = distribution.low
    step = distribution.step
    if step is None or distribution.log:
        raise ValueError(
            "method: grid needs values (or int_uniform, q_uniform) of every parameter, got a range"
        )
    num_steps = min(round((distribution.high - low) / step), MAX_GRID)
    return [low + i * step for i in range(num_steps + 1)]


def check_mapping(where: str, value: Any) -> None:
    """Raise a ValueError if `value` is no mapping, or an empty one."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: expected `key: value`, got {show(value)}")


# How a sweep does without what W&B has and Optuna has not.
_MENDS = {
    "probabilities": "leave it out: all values are equally likely",
    "parameters": "write the parameters inside it one level up, without their group",
    "target": "leave it out: a sweep ends after run_cap trials",
    "strict": "leave it out: Optuna's own rule is used",
}


def check_keys(where: str, value: Any, known: Iterable[str]) -> None:
    """Raise a ValueError if `value` is no mapping or has a key that is not known."""
    check_mapping(where, value)
    for key in value:
        if key not in known:
            prefix = "" if where == "a sweep" else f"{where}."
            raise ValueError(
                f"{prefix}{key}: not supported here; {_MENDS.get(key) or near(key, known)}"
            )
