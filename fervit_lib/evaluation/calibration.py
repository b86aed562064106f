"""Calibration: is a prediction of 80% confidence correct in 80 of 100 cases?"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax

NUM_BINS = 15
_TINY = float(np.finfo(np.float32).tiny)  # keeps the logarithm finite where float32 gave 0


def reliability(labels: np.ndarray, probs: np.ndarray) -> pd.DataFrame:
    """Accuracy and mean confidence in 15 confidence bins of equal width.

    Args:
        labels: (N,) class indices.
        probs: (N, C).

    Returns:
        One row per bin that is not empty: confidence, accuracy, faces; the index is the number of
        the bin, from 1.
    """
    confidence = probs.max(1).astype(float)
    table = pd.DataFrame({"confidence": confidence, "accuracy": probs.argmax(1) == labels})
    # A confidence on an edge belongs to the lower bin (Guo et al. 2017, section 2).
    groups = table.groupby(np.ceil(confidence * NUM_BINS).clip(1, NUM_BINS))
    return groups.mean().assign(faces=groups.size())


def nll(labels: np.ndarray, probs: np.ndarray) -> float:
    """Mean negative log-likelihood of the true classes, in nats."""
    true_probs = probs[np.arange(len(labels)), labels].astype(float)
    return float(-np.log(np.maximum(true_probs, _TINY)).mean())


def calibration_metrics(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Expected calibration error, negative log-likelihood and Brier score; 0 is best for each.

    `ece` uses 15 bins (Guo et al. 2017, section 2), `nll` is in nats, `brier` lies in [0, 2]
    (Brier 1950).
    """
    bins = reliability(labels, probs)
    gaps = (bins["confidence"] - bins["accuracy"]).abs()
    squared_errors = (probs.astype(float) - np.eye(probs.shape[1])[labels]) ** 2
    return {
        "ece": float((gaps * bins["faces"]).sum() / len(labels)),
        "nll": nll(labels, probs),
        "brier": float(squared_errors.sum(1).mean()),
    }


def apply_temperature(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, C) for logits divided by `temperature`; predictions do not change."""
    if temperature <= 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    # log(probs) differs from the logits by a constant per row, which softmax ignores.
    return softmax(np.log(np.maximum(probs.astype(float), _TINY)) / temperature, axis=1)


def fit_temperature(labels: np.ndarray, probs: np.ndarray) -> float:
    """The temperature in [0.05, 20] with the smallest NLL (Guo et al. 2017, section 4.2).

    Fit it on other faces than those that are tested.
    """

    def loss(log_temperature: float) -> float:
        return nll(labels, apply_temperature(probs, float(np.exp(log_temperature))))

    # On a logarithmic scale, where halving and doubling the temperature are equally far.
    result = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(result.x))
