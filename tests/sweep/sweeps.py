"""A small sweep, for the tests of this folder."""

from typing import Any

RANGE = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}


def sweep_source(**changes: Any) -> dict[str, Any]:
    """A sweep over a rate and a batch size with other keys set, or left out where None."""
    base = {
        "name": "tiny",
        "method": "random",
        "metric": {"name": "macro_f1", "goal": "maximize"},
        "parameters": {"lr": RANGE, "batch_size": {"values": [16, 32]}, "epochs": {"value": 8}},
        "run_cap": 6,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}
