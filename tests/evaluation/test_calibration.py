import numpy as np
import pytest
from sklearn.metrics import log_loss

from fervit_lib.evaluation import reliability
from fervit_lib.evaluation.calibration import (
    apply_temperature,
    calibration_metrics,
    fit_temperature,
)


def random_probs(
    n: int = 300, classes: int = 4, sharpness: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels are drawn from the probabilities, so these are calibrated if sharpness is 1."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(n, classes))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probs.cumsum(1) < rng.random((n, 1))).sum(1)
    sharp = np.exp(sharpness * logits)
    return labels, sharp / sharp.sum(1, keepdims=True)


def test_calibration_metrics_of_known_probabilities() -> None:
    labels, probs = random_probs(4000)
    result = calibration_metrics(labels, probs)
    assert result["nll"] == pytest.approx(log_loss(labels, probs))
    assert result["ece"] < 0.03  # the labels are drawn from these probabilities
    assert calibration_metrics(labels, random_probs(4000, sharpness=3)[1])["ece"] > 0.08
    perfect = np.eye(4)[labels]
    assert calibration_metrics(labels, perfect) == {"ece": 0, "nll": 0, "brier": 0}
    always_wrong = np.eye(4)[(labels + 1) % 4]
    result = calibration_metrics(labels, always_wrong)
    assert result["ece"] == 1
    assert result["brier"] == 2
    assert np.isfinite(result["nll"])


def test_reliability_has_every_face_in_its_bin() -> None:
    labels, probs = random_probs(500)
    bins = reliability(labels, probs)
    assert bins["faces"].sum() == 500
    assert (np.abs(15 * bins["confidence"] - bins.index + 0.5) <= 0.5 + 1e-6).all()
    accuracy = (probs.argmax(1) == labels).mean()
    assert (bins["accuracy"] * bins["faces"]).sum() / 500 == pytest.approx(accuracy)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0, 40.0])
def test_temperature_calibrates_and_changes_no_prediction(sharpness: float) -> None:
    labels, probs = random_probs(3000, sharpness=sharpness)
    probs = probs.astype(np.float32)  # as models give them; some underflow to 0
    temperature = fit_temperature(labels[:1500], probs[:1500])
    after = apply_temperature(probs, temperature)
    assert (after.argmax(1) == probs.argmax(1)).all()
    np.testing.assert_allclose(after.sum(1), 1)
    if sharpness < 10:
        assert temperature == pytest.approx(sharpness, rel=0.15)
    before, calibrated = (calibration_metrics(labels[1500:], p[1500:]) for p in (probs, after))
    assert calibrated["nll"] <= before["nll"] + 0.01


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        apply_temperature(np.ones((1, 2)) / 2, 0)
