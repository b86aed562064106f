"""Find the best model: sweeps in Weights & Biases' format, run by Optuna, or by W&B if logged in.

Nothing is imported here: every training kernel imports `sweep.callback` and should not wait for
Optuna.
"""

# The environment variable that tells a training process which trial it runs.
TRIAL_VARIABLE = "FERVIT_TRIAL"
