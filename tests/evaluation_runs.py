"""A table of evaluated runs, as `04_evaluate` computes it."""

import pandas as pd

RUNS = pd.DataFrame(
    {
        "variant": ["a", "b", "c"],
        "recipe": ["scratch-full", "scratch-linear_probe", "hybrid-full"],
        "approach": ["scratch", "scratch", "hybrid"],
        "strategy": ["full", "linear_probe", "full"],
        "accuracy": [0.7, 0.5, 0.9],
        "accuracy_low": [0.65, 0.45, 0.85],
        "accuracy_high": [0.72, 0.55, 0.95],
        "trainable_parameters": [10_000, 100, 1_000_000],
        "total_parameters": [10_000, 10_000, 1_000_000],
        "macs": [1e6, 1e6, 1e8],
        "joules_per_face": [None, None, None],
        "num_test": 800,
        "machine": ["", "busy", ""],
        "ece": [0.1, 0.2, 0.3],
        "ece_calibrated": [0.05, 0.1, 0.1],
    }
)
