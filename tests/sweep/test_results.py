"""The leaderboard, the Pareto front, the winner and the figures of a sweep."""

from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
import yaml
from sweeps import RANGE, sweep_source

from fervit_lib.figures import sweep as sweep_figures
from fervit_lib.latents import complete_store, shard_path, write_shard
from fervit_lib.pipeline import read_config
from fervit_lib.runs import Run
from fervit_lib.sweep.config import parse_sweep
from fervit_lib.sweep.results import leaderboard, pareto_front, write_winner
from fervit_lib.sweep.study import load_study
from fervit_lib.sweep.work import work
from fervit_lib.system.atomic import write_json

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_no_row_dominates_one_on_the_front() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"f1": rng.integers(0, 6, 40) / 5, "cost": rng.integers(1, 8, 40).astype(float)}
    )
    table.loc[3, "f1"] = np.nan
    for goal, sign in (("maximize", 1), ("minimize", -1)):
        front = pareto_front(table, "f1", "cost", goal)
        rows = list(table.assign(f1=sign * table["f1"]).itertuples())
        for row in rows:
            dominated = any(
                other.f1 >= row.f1
                and other.cost <= row.cost
                and (other.f1, other.cost) != (row.f1, row.cost)
                for other in rows
            )
            assert front[row.Index] == (row.Index != 3 and not dominated)


def test_the_winner_is_a_valid_config_with_the_same_codes(tmp_path: Path) -> None:
    parameters = {
        "lr": RANGE,
        "depth": {"values": [1, 2]},
        "latents": {"value": str(tmp_path / "codes/toy/a")},
    }
    sweep = parse_sweep(sweep_source(parameters=parameters))
    work(sweep, tmp_path / "reports", train=lambda sweep, run, parameters: parameters["lr"])
    encoded = Run(tmp_path / "reports", "demo", "encode", "autoencoder")
    used = {
        "dataset": "toy",
        "toy_faces": 140,
        "num_views": 4,
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
    store = tmp_path / "codes/toy/a"
    write_shard(shard_path(store, "train", 0), torch.zeros(1, 18, 4), np.zeros(1), ["a.png"], "f")
    complete_store(store, {"train": 1}, made_by={"run": str(encoded.folder)}, **about)
    study, _ = load_study(tmp_path / "reports" / "tiny" / "sweep")
    file = write_winner(tmp_path / "winner.yaml", study, sweep)
    written = yaml.safe_load(file.read_text())
    assert written["encode"] == {"toy_faces": 140} and written["data_dir"] == str(tmp_path)
    assert written["train"] == {"seed": [0, 1, 2]} | study.best_trial.params
    plan = read_config(written)
    assert list(plan["train"]) == [f"scratch-full-seed{seed}" for seed in (0, 1, 2)]
    assert list(plan["encode"]) == ["autoencoder"]


def test_figures_show_every_trial(tmp_path: Path) -> None:
    sweep = parse_sweep(sweep_source(run_cap=8))

    def train(_: object, run: Run, parameters: dict) -> float:
        sizes = {
            "val_accuracy": 0.5,
            "train_seconds": 3.0,
            "peak_memory_gb": 1.0,
            "total_parameters": 1000,
        }
        run.write_result(**sizes, trainable_parameters=10, epochs=3, synthetic=True)
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
        sum(len(trace.x) for trace in sweep_figures.plot_costs(table, "macro_f1", front).data) >= 8
    )
    assert len(sweep_figures.plot_parameters(study, "macro_f1")) == 3
    assert len(sweep_figures.plot_progress(study, "macro_f1")) == 2
    few = optuna.create_study()
    assert sweep_figures.plot_parameters(few, "macro_f1") == []
