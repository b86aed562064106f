"""The result of a sweep: leaderboard, Pareto front, and the best trial as a configuration."""

from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.trial import TrialState

from fervit_lib.latents import read_store
from fervit_lib.pipeline import NOTEBOOKS, read_parameters
from fervit_lib.runs import Run
from fervit_lib.sweep.config import Sweep
from fervit_lib.sweep.study import variant_of
from fervit_lib.system.atomic import read_json, write_text
from fervit_lib.system.runtime import PROJECT_ROOT, resolve

_FROM_RESULT = (
    "val_accuracy",
    "train_seconds",
    "peak_memory_gb",
    "total_parameters",
    "epochs",
    "synthetic",
)


def leaderboard(study: optuna.Study, sweep: Sweep, reports: Path) -> pd.DataFrame:
    """One row per trial that has started, the best first, those without a value last.

    Columns: number, variant, state (complete, pruned, fail, running), model, the searched
    parameters, the sweep's metric, val_accuracy, train_seconds, peak_memory_gb, total_parameters,
    epochs, synthetic (whether it was trained on synthetic faces), reason (of a failure).

    Raises:
        ValueError: no trial has started.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        run = Run(reports, sweep.name, "train", variant_of(trial.number))
        # A trial that is run again has the files of its earlier start.
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        parameters = sweep.parameters_of(trial.params)
        result = {}
        reason = trial.user_attrs.get("reason", "")
        try:
            result = run.result if ended and (run.folder / "result.json").is_file() else {}
        except ValueError as error:  # a damaged file
            reason = str(error)
        row = {
            "number": trial.number,
            "variant": run.variant,
            "state": trial.state.name.lower(),
            "model": model_name(parameters),
            **{name: parameters.get(name) for name in sweep.space},
            sweep.metric: np.nan if trial.value is None else trial.value,
            **{name: result.get(name, np.nan) for name in _FROM_RESULT},
            "reason": reason,
        }
        rows.append(row)
    if not rows:
        raise ValueError(f"{sweep.name}: no trial has started; run the sweep first")
    return pd.DataFrame(rows).sort_values(
        sweep.metric, ascending=sweep.goal == "minimize", ignore_index=True
    )


def model_name(parameters: dict) -> str:
    """The name of a trial's model in tables: its approach, timm's name, or both for `hybrid`."""
    approach = parameters.get("approach", "scratch")
    if approach not in ("hybrid", "image"):
        return approach
    name = parameters.get("model_name", "default")
    return name if approach == "image" else f"{approach} {name}"


def pareto_front(table: pd.DataFrame, metric: str, cost: str, goal: str = "maximize") -> pd.Series:
    """(rows,) bool: the rows that no other row dominates.

    A row dominates another one if it is better in one column and no worse in the other. A row with
    a missing value is not on the front.

    Args:
        goal: whether the metric is better when high (`maximize`) or low; a cost is better when low.
    """
    sign = -1 if goal == "maximize" else 1
    points = table[[metric, cost]].to_numpy(float) * (sign, 1)  # low is better in both columns
    own = points[:, None]  # (rows, 1, 2) against (rows, 2)
    dominated = ((points <= own).all(2) & (points < own).any(2)).any(1)
    return pd.Series(~dominated & np.isfinite(points).all(1), index=table.index)


def write_winner(file: Path, study: optuna.Study, sweep: Sweep) -> Path:
    """Write the best complete trial as a configuration for `make run CONFIG=…`.

    It uses the same codes, and three seeds.

    Raises:
        ValueError: no trial is complete.
    """
    best = study.best_trial  # an error of Optuna's if no trial is complete
    train = sweep.parameters_of(best.params)
    encode = _encode_parameters(resolve(train.pop("latents", "data/latents/toy/autoencoder")))
    content = {
        "experiment": f"{sweep.name}_winner",
        "data_dir": encode.pop("data_dir", "data"),  # a key of the file, not of its encode block
        "encode": encode,
        "train": {"seed": [0, 1, 2]} | train,
    }
    heading = (
        f"# The best of {len(study.trials)} trials of the sweep {sweep.name}: "
        f"{variant_of(best.number)}, {sweep.metric} {best.value:.3f} on the validation split.\n"
        "# More seeds show how much of that is chance.\n"
    )
    write_text(file, heading + yaml.safe_dump(content, sort_keys=False))
    return file


def _encode_parameters(latents: Path) -> dict:
    """The parameters of the run of 01_encode that wrote the codes in `latents`, but its defaults.

    If that run is gone, only the data set is known, from the folder's name.
    """
    made_by = read_store(latents)["made_by"] if (latents / "store.json").is_file() else {}
    config = resolve(made_by.get("run", "")) / "config.json"
    if not config.is_file():
        return {"dataset": latents.parent.name}
    known = read_parameters(PROJECT_ROOT / NOTEBOOKS["encode"])
    for name in ("experiment", "variant", "reports", "device"):
        del known[name]
    used = read_json(config)["parameters"]
    return {
        name: used[name] for name in used if name in known and used[name] != known[name].default
    }
