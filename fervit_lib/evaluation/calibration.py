"""Whether a confidence of 80% is right in 80 of 100 cases, and the one number that mends it."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax

NUM_BINS = 15
_SMALLEST = float(
    np.finfo(np.float32).tiny
)  # a probability that has become 0 still has a logarithm


def reliability(labels: np.ndarray, probs: np.ndarray, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Faces in bins of equal width of the confidence: low, high, faces, confidence (mean), accuracy. Empty bins go.

    Args:
        labels: (N,) class numbers.
        probs: (N, C).
    """
    confidence, correct = probs.max(1).astype(float), probs.argmax(1) == labels
    # A confidence on an edge belongs to the bin below it, as in Guo et al. 2017, section 2.
    place = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    faces = np.bincount(place, minlength=num_bins)
    filled = np.flatnonzero(faces)
    sums = {"confidence": confidence, "accuracy": correct.astype(float)}
    means = {
        name: np.bincount(place, values, num_bins)[filled] / faces[filled]
        for name, values in sums.items()
    }
    return pd.DataFrame(
        {"low": filled / num_bins, "high": (filled + 1) / num_bins, "faces": faces[filled], **means}
    )


def nll(labels: np.ndarray, probs: np.ndarray) -> float:
    """Mean negative log-likelihood of the true classes, nats."""
    return float(
        -np.log(np.maximum(probs[np.arange(len(labels)), labels].astype(float), _SMALLEST)).mean()
    )


def calibration_metrics(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """ECE (15 bins; Guo et al. 2017, section 2), NLL in nats, and the Brier score, 0 to 2 (Brier 1950).

    0 is best for each.
    """
    bins = reliability(labels, probs)
    gaps = (bins["confidence"] - bins["accuracy"]).abs()
    return {
        "ece": float((gaps * bins["faces"]).sum() / len(labels)),
        "nll": nll(labels, probs),
        "brier": float(((probs.astype(float) - np.eye(probs.shape[1])[labels]) ** 2).sum(1).mean()),
    }


def apply_temperature(probs: np.ndarray, temperature: float) -> np.ndarray:
    """`probs` (N, C) as they are with logits divided by `temperature`; the order within a row stays.

    The logarithm of a probability is its logit but for a constant of the row, which softmax ignores.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    return softmax(np.log(np.maximum(probs.astype(float), _SMALLEST)) / temperature, axis=1)


def fit_temperature(labels: np.ndarray, probs: np.ndarray) -> float:
    """The temperature with the smallest NLL, in [0.05, 20] (Guo et al. 2017, section 4.2). Give faces not tested on."""

    def loss(log_temperature: float) -> float:
        return nll(labels, apply_temperature(probs, float(np.exp(log_temperature))))

    return float(
        np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x)
    )
