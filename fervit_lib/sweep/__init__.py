"""Find the best model: sweeps in Weights & Biases' format, run by Optuna, or by W&B where one is logged in."""

from fervit_lib.sweep.config import Sweep, parse_sweep, read_sweep
from fervit_lib.sweep.results import is_synthetic, leaderboard, pareto_front, write_winner
from fervit_lib.sweep.study import load_study, open_study
from fervit_lib.sweep.work import run_notebook, run_sweep, sweep_folder
