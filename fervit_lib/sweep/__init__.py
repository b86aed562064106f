"""Find the best model: sweeps in Weights & Biases' format, run by Optuna, or by W&B if logged in.

Nothing is imported here: every training kernel imports `sweep.callback` and should not wait for
Optuna.
"""

from pathlib import Path
from typing import Any

# The environment variable that tells a training process which trial it runs.
TRIAL_VARIABLE = "FERVIT_TRIAL"


def read_sweep(path: Path) -> Any:
    """`config.read_sweep`."""
    from fervit_lib.sweep.config import read_sweep

    return read_sweep(path)
