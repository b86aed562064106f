"""What a sweep found: the leaderboard, the trials that no other one beats, and the winner as a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import papermill
import yaml
from optuna.trial import TrialState

from fervit_lib.latents import read_store
from fervit_lib.runs import Run
from fervit_lib.sweep.config import Sweep
from fervit_lib.sweep.study import variant_of
from fervit_lib.system.atomic import atomic_write, read_json
from fervit_lib.system.runtime import PROJECT_ROOT, resolve

ENCODE_NOTEBOOK = PROJECT_ROOT / "notebooks" / "01_encode.ipynb"
_USES_TIMM = ("hybrid", "image")
_OF_RESULT = (
    "val_accuracy",
    "train_seconds",
    "peak_memory_gb",
    "total_parameters",
    "trainable_parameters",
    "epochs",
)


def leaderboard(study: optuna.Study, sweep: Sweep, reports: Path) -> pd.DataFrame:
    """A row a trial that has begun, the best first, those without a value last.

    Columns: number, variant, state (complete, pruned, fail, running), model, the parameters searched, the sweep's
    metric, val_accuracy, train_seconds, peak_memory_gb, total_parameters, trainable_parameters, epochs, size_mb (of the
    weights), reason (why it failed).
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        run = Run(reports, sweep.name, "train", variant_of(trial.number))
        parameters = sweep.fixed | trial.params
        row = {"number": trial.number, "variant": run.variant, "state": trial.state.name.lower()}
        row |= {"model": model_name(parameters)} | {
            name: trial.params.get(name) for name in sweep.space
        }
        row[sweep.metric] = np.nan if trial.value is None else trial.value
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        result = run.result if ended and (run.folder / "result.json").is_file() else {}
        row |= {name: result.get(name, np.nan) for name in _OF_RESULT}
        row["size_mb"] = (
            run.best_checkpoint.stat().st_size / 1e6 if run.best_checkpoint.is_file() else np.nan
        )
        rows.append(row | {"reason": trial.user_attrs.get("reason", "")})
    if not rows:
        raise ValueError(
            f"{sweep.name}: expected trials to show, and none has begun; run the sweep first"
        )
    return pd.DataFrame(rows).sort_values(
        sweep.metric, ascending=sweep.goal == "minimize", ignore_index=True
    )


def model_name(parameters: Mapping[str, Any]) -> str:
    """How tables name the model of a trial: timm's name where it is one, with the approach before a hybrid's."""
    approach = parameters.get("approach", "scratch")
    if approach not in _USES_TIMM:
        return approach
    name = parameters.get("model_name", "default")
    return name if approach == "image" else f"{approach} {name}"


def pareto_front(table: pd.DataFrame, metric: str, cost: str, goal: str = "maximize") -> pd.Series:
    """(rows,) bool: which rows no other row beats in both columns (better in one, and no worse in the other).

    Rows with a missing value are on no front.

    Args:
        goal: whether the metric shall be high (`maximize`) or low; a cost shall be low.
    """
    points = np.stack(
        [
            table[metric].to_numpy(float) * (-1 if goal == "maximize" else 1),
            table[cost].to_numpy(float),
        ],
        1,
    )
    others, own = points[None], points[:, None]
    beaten = (np.all(others <= own, axis=2) & np.any(others < own, axis=2)).any(1)
    return pd.Series(~beaten & np.isfinite(points).all(1), index=table.index)


def winner(study: optuna.Study, sweep: Sweep) -> dict[str, Any]:
    """All parameters of the best trial that trained to its end.

    Raises:
        ValueError: none did.
    """
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        raise ValueError(
            f"{sweep.name}: expected a trial that trained to its end, got none; the leaderboard says why"
        )
    return sweep.fixed | study.best_trial.params


def is_synthetic(table: pd.DataFrame, sweep: Sweep, reports: Path) -> bool:
    """Whether trials were trained on synthetic faces: of a leaderboard, those that have a result."""
    folders = [Run(reports, sweep.name, "train", variant).folder for variant in table["variant"]]
    return any(
        read_json(f / "result.json")["synthetic"] for f in folders if (f / "result.json").is_file()
    )


def write_winner(file: Path, study: optuna.Study, sweep: Sweep) -> Path:
    """Write the winner as a configuration for `make run CONFIG=…`: the same codes and parameters, three seeds.

    Raises:
        ValueError: as `winner`.
    """
    train = winner(study, sweep)
    encode = _encode_parameters(resolve(train.pop("latents", "data/latents/toy/autoencoder")))
    data_dir = encode.pop("data_dir", "data")
    content = {"experiment": f"{sweep.name}_winner"} | (
        {"data_dir": data_dir} if data_dir != "data" else {}
    )
    content |= {"encode": encode, "train": {"seed": [0, 1, 2]} | train}
    best = study.best_trial
    heading = (
        f"# The best of {len(study.trials)} trials of the sweep {sweep.name}: {variant_of(best.number)}, "
        f"{sweep.metric} {best.value:.3f} on the validation split.\n# More seeds say how much of that was luck.\n"
    )
    with atomic_write(file) as temporary:
        temporary.write_text(heading + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def _encode_parameters(latents: Path) -> dict[str, Any]:
    """Those parameters of the run of 01_encode that made the codes in `latents` which are not the notebook's defaults.

    Where that run is gone: what the folder's name says.
    """
    made_by = read_store(latents)["made_by"] if (latents / "store.json").is_file() else {}
    config = resolve(made_by.get("run", "")) / "config.json"
    if not config.is_file():
        return {"dataset": latents.parent.name}
    used = read_json(config)["parameters"]
    known = papermill.inspect_notebook(ENCODE_NOTEBOOK)
    # Literals of a notebook of ours, read as YAML reads them.
    defaults = {name: yaml.safe_load(known[name]["default"]) for name in known}
    own = ("experiment", "variant", "reports", "device")
    return {
        name: value
        for name, value in used.items()
        if name not in own and value != defaults.get(name, value)
    }
