"""Read a sweep in Weights & Biases' format for Optuna.

The format: docs.wandb.ai, "Sweep configuration options". An option that Optuna does not have is an
error that names it, so a sweep never runs differently from what its file says.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna

from fervit_lib.pipeline import NOTEBOOKS, check_block
from fervit_lib.sweep.space import (
    MAX_GRID,
    CategoricalDistribution,
    Distribution,
    check_keys,
    check_mapping,
    list_points,
    read_distribution,
)
from fervit_lib.system.names import check_choice, check_name, check_range, check_value, show
from fervit_lib.system.runtime import PROJECT_ROOT, display_path
from fervit_lib.system.yaml_files import read_yaml

TRAIN_NOTEBOOK = PROJECT_ROOT / NOTEBOOKS["train"]
# Columns of metrics.csv.
METRICS = (
    "train_loss",
    "valid_loss",
    "accuracy",
    "macro_f1",
    "recall",
    "precision",
    "roc_auc",
)
# Names of W&B's examples, fastai and timm for ours. `aliases` of a sweep adds others.
ALIASES = {
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "arch": "model_name",
    "model": "model_name",
    "dropout": "drop_rate",
    "smoothing": "label_smoothing",
    "clip-grad": "grad_clip",
    "img-size": "image_size",
    "val_loss": "valid_loss",
    "validation_loss": "valid_loss",
    "val_accuracy": "accuracy",
    "f1_score": "macro_f1",
}
RESERVED = {"experiment", "variant", "reports", "resume"}  # set for each trial

_REQUIRED = ("name", "method", "metric", "parameters")
# Grid and random search need no metric; trials are still compared by one.
_METRIC = {"name": "macro_f1", "goal": "maximize"}
# Only W&B reads the last five: what the sweep is called there, and how its agent starts a trial.
_KEYS = (
    *_REQUIRED,
    "early_terminate",
    "run_cap",
    "aliases",
    "description",
    "project",
    "entity",
    "program",
    "command",
)
MAX_EPOCHS = 10_000
RUN_CAP = 20  # trials of a search without `run_cap`, which W&B never ends


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: name of the experiment, a folder under reports/.
        method: grid, random or bayes.
        metric: a column of metrics.csv; a trial's value is the one of the epoch whose weights are
            kept.
        fixed: parameters that all trials share.
        space: parameters that are searched.
        run_cap: largest number of trials; None: the whole grid.
        aliases: our names by others.
        early: arguments of Optuna's HyperbandPruner; None: no trial is stopped early.
        source: the content of the file, with the defaults of what it leaves out.
    """

    name: str
    method: str
    metric: str
    goal: Literal["minimize", "maximize"]
    fixed: dict
    space: dict[str, Distribution]
    run_cap: int | None
    early: dict | None
    aliases: dict[str, str]
    source: dict

    @property
    def grid(self) -> list[dict]:
        """Every point of the search space; the last parameter varies fastest."""
        points = itertools.product(*map(list_points, self.space.values()))
        return [dict(zip(self.space, point, strict=True)) for point in points]

    @property
    def grid_size(self) -> int:
        return math.prod(len(list_points(distribution)) for distribution in self.space.values())

    @property
    def num_trials(self) -> int:
        if self.method != "grid" and self.run_cap:
            return self.run_cap
        return min(self.grid_size, self.run_cap or MAX_GRID)

    def parameters_of(self, drawn: Mapping) -> dict:
        """The parameters of a trial: the fixed ones, and those drawn, rounded to q if in steps."""
        parameters = dict(self.fixed)
        for name, value in drawn.items():
            spec = self.source["parameters"][name]
            # Optuna has no steps on a logarithmic scale.
            if spec.get("distribution") == "q_log_uniform_values":
                value = round(value / spec.get("q", 1)) * spec.get("q", 1)
            parameters[name] = value
        return parameters

    def sampler(self, number: int, seed: int) -> optuna.samplers.BaseSampler:
        """Optuna's sampler for one trial, with a seed of its own: no other trial draws the same."""
        samplers = optuna.samplers
        sampler = samplers.TPESampler if self.method == "bayes" else samplers.RandomSampler
        return sampler(seed=(seed * 1_000_003 + number) % 2**32)

    def pruner(self) -> optuna.pruners.BasePruner:
        if self.early is None:
            return optuna.pruners.NopPruner()
        return optuna.pruners.HyperbandPruner(**self.early)


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep over the parameters of 02_train, a YAML file.

    A sweep without a name has that of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in W&B's format, uses what is not supported here, or names a parameter
            that 02_train does not have.
    """
    source = read_yaml(path)
    try:
        if source.get("name") is None:
            source["name"] = path.stem
        sweep = parse_sweep(source)
        # 02_train must have the parameters, of these types.
        values = {name: [value] for name, value in sweep.fixed.items()}
        for name, distribution in sweep.space.items():
            if isinstance(distribution, CategoricalDistribution):
                values[name] = list(distribution.choices)
            else:
                values[name] = [distribution.low]  # both ends have one type
        check_block("parameters", NOTEBOOKS["train"], values, RESERVED)
    except ValueError as error:
        raise ValueError(f"{display_path(path)}: {error}") from error
    return sweep


def our_name(name: Any, aliases: Mapping[str, str]) -> str:
    """What we call a parameter or a metric; timm writes batch-size."""
    return str(aliases.get(name, name)).replace("-", "_")


def rename(where: str, values: Mapping, aliases: Mapping[str, str]) -> dict:
    """Parameters by our names.

    Args:
        where: what they are called in errors.

    Raises:
        ValueError: it is no mapping, or two are the same one.
    """
    check_mapping(where, values)
    renamed = {our_name(name, aliases): value for name, value in values.items()}
    if len(renamed) < len(values):
        raise ValueError(
            f"{where}: expected each parameter once, got two names of one in "
            f"{show(list(values))}; remove one"
        )
    return renamed


def parse_sweep(source: Any) -> Sweep:
    """Check the content of a sweep file, see `read_sweep`."""
    check_keys("a sweep", source, _KEYS)
    source = {key: value for key, value in source.items() if value is not None}
    if source.get("method") in ("grid", "random"):
        source.setdefault("metric", _METRIC)
    if source.get("method") != "grid":
        source.setdefault("run_cap", RUN_CAP)
    given = source.get("aliases", ALIASES)
    check_mapping("aliases", given)
    aliases = ALIASES | given
    for key in _REQUIRED:
        if key not in source:
            raise ValueError(f"{key}: required in a sweep, got none")
    method = source["method"]
    check_choice("method", method, ("grid", "random", "bayes"))
    metric = source["metric"]
    check_keys("metric", metric, ("name", "goal"))
    source["metric"] = metric = metric | {"name": our_name(metric.get("name"), aliases)}
    check_choice("metric.name", metric["name"], METRICS)
    goal = metric.get("goal", "minimize")  # W&B's default
    check_choice("metric.goal", goal, ("minimize", "maximize"))
    source["parameters"] = rename("parameters", source["parameters"], aliases)
    fixed = {}
    space = {}
    for name, spec in source["parameters"].items():
        distribution = read_distribution(f"parameters.{name}", spec)
        if distribution is None:
            fixed[name] = spec["value"]
        else:
            space[name] = distribution
    if not space:
        raise ValueError(
            "parameters: expected at least one with several values or a range, got only fixed ones"
        )
    run_cap = source.get("run_cap")
    if run_cap is not None:
        check_value("run_cap", run_cap, "int")
        check_range("run_cap", run_cap, 1)
    early = None
    if "early_terminate" in source:
        early = _read_hyperband(source["early_terminate"], fixed)
    sweep = Sweep(
        name=check_name("name", source["name"]),
        method=method,
        metric=metric["name"],
        goal=goal,
        fixed=fixed,
        space=space,
        run_cap=run_cap,
        early=early,
        aliases=aliases,
        source=source,
    )
    if method == "grid" and sweep.grid_size > MAX_GRID:
        raise ValueError(
            f"method: expected a grid of at most {MAX_GRID:,} points, got more; widen q, or use "
            f"random"
        )
    return sweep


def _read_hyperband(spec: Any, fixed: Mapping) -> dict:
    """W&B's `early_terminate` as arguments of Optuna's pruner.

    W&B gives either `min_iter`, the first epoch after which trials are compared (`s` then has no
    effect), or `max_iter`, the last one, with `s`, the number of comparisons. Each comparison keeps
    1/eta of the trials.
    """
    where = "early_terminate"
    check_keys(where, spec, ("type", "min_iter", "max_iter", "s", "eta"))
    check_choice(f"{where}.type", spec.get("type"), ("hyperband",))
    for key, least in {"min_iter": 1, "max_iter": 1, "s": 1, "eta": 2}.items():
        value = spec.get(key, least)
        check_value(f"{where}.{key}", value, "int")
        check_range(f"{where}.{key}", value, least, MAX_EPOCHS)
    keys = spec.keys() & {"min_iter", "max_iter", "s"}
    if "min_iter" in keys:
        keys.discard("s")  # as W&B
    if keys not in ({"min_iter"}, {"max_iter", "s"}):
        raise ValueError(f"{where}: expected min_iter, or max_iter with s, got {show(spec)}")
    eta = spec.get("eta", 3)
    last = spec.get("max_iter", fixed.get("epochs", "auto"))
    if last != "auto":
        check_value("parameters.epochs", last, "int")
    first = spec.get("min_iter") or max(1, last // eta ** spec["s"])
    if last != "auto" and first > last:
        raise ValueError(
            f"{where}.min_iter: expected at most {last}, the epochs of a trial, got {first}"
        )
    return {"min_resource": first, "max_resource": last, "reduction_factor": eta}
