"""Calibration: is a prediction of 80% confidence correct in 80 of 100 cases?"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

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


def calibration_metrics(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Expected calibration error, negative log-likelihood and Brier score; 0 is best for each.

    `ece` uses 15 bins (Guo et al. 2017, section 2), `nll` is in nats, `brier` lies in [0, 2]
    (Brier 1950).
    """
    bins = reliability(labels, probs)
    gaps = (bins["confidence"] - bins["accuracy"]).abs()
    of_true = probs[np.arange(len(labels)), labels].astype(float)
    squares = np.einsum("nc,nc->n", probs, probs, dtype=float)  # without a copy of all of them
    return {
        "ece": float((gaps * bins["faces"]).sum() / len(labels)),
        "nll": float(-np.log(np.maximum(of_true, _TINY)).mean()),
        "brier": float((squares - 2 * of_true + 1).mean()),
    }


def apply_temperature(probs: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Probabilities (N, C) for logits divided by `temperature`; predictions do not change.

    Args:
        temperature: one, or one per row, (N, 1).
    """
    if np.any(np.less_equal(temperature, 0)):
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    return (_logits(probs) / torch.as_tensor(temperature)).softmax(1).numpy()


def _logits(probs: np.ndarray) -> Tensor:
    """Differ from a model's logits by a constant per row, which softmax ignores; (N, C) float64."""
    return torch.from_numpy(probs).double().clamp_(min=_TINY).log_()


def fit_temperature(labels: np.ndarray, probs: np.ndarray) -> float:
    """The temperature in [0.05, 20] with the smallest NLL (Guo et al. 2017, section 4.2).

    Fit it on other faces than those that are tested.
    """
    logits = _logits(probs).split(1024)  # in parts that stay in a CPU's cache
    targets = torch.from_numpy(labels).split(1024)

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        parts = zip(logits, targets, strict=True)
        return sum(F.cross_entropy(x / temperature, y, reduction="sum").item() for x, y in parts)

    # On a logarithmic scale, where halving and doubling the temperature are equally far.
    result = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(result.x))
