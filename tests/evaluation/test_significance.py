import numpy as np
import pandas as pd
import pytest

from fervit_lib.evaluation import (
    bootstrap_interval,
    compare_pairs,
    holm,
    mcnemar,
    mean_over_seeds,
    score_intervals,
    summary_metrics,
)


def confusion_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def test_intervals_of_an_accuracy_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.random(200) < 0.7)
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 1
    assert bootstrap_interval(np.ones(10, bool)) == (1, 1)


def test_intervals_of_every_score_cover_the_truth() -> None:
    rng = np.random.default_rng(2)
    confusion = np.array([[0.35, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.1]])
    labels, predicted = np.divmod(rng.choice(9, 200_000, p=confusion.ravel()), 3)
    truth = summary_metrics(labels, predicted)
    covered = dict.fromkeys(truth, 0)
    for _ in range(150):
        found = score_intervals(rng.multinomial(300, confusion.ravel()).reshape(3, 3))
        for name in truth:
            covered[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]
    assert all(0.89 <= times / 150 <= 1 for times in covered.values()), covered


def test_an_interval_holds_the_score_it_is_of() -> None:
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(5, size=(2, 100))
    scores, found = (
        summary_metrics(labels, predicted),
        score_intervals(confusion_of(labels, predicted, 5)),
    )
    for name, value in scores.items():
        assert found[f"{name}_low"] <= value <= found[f"{name}_high"]


def test_mcnemar_counts_the_faces_that_one_alone_reads() -> None:
    a, b = np.zeros(40, bool), np.zeros(40, bool)
    assert mcnemar(a, b) == 1
    a[:5] = True
    assert mcnemar(a, b) == pytest.approx(2 * 0.5**5)
    assert mcnemar(a | (np.arange(40) > 20), b | (np.arange(40) > 20)) == mcnemar(a, b)
    with pytest.raises(ValueError, match="the same faces"):
        mcnemar(a, b[:3])


def test_holm_is_the_textbooks() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert holm(np.array([])).size == 0


def test_chance_alone_is_rarely_called_a_difference() -> None:
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(60):
        pairs = compare_pairs({name: rng.random(200) < 0.6 for name in "abcd"})
        assert len(pairs) == 6
        alarms += (pairs["p_holm"] < 0.05).any()
    assert alarms <= 8
    rng = np.random.default_rng(5)
    [better] = compare_pairs({"a": rng.random(500) < 0.8, "b": rng.random(500) < 0.5}).itertuples()
    assert better.difference > 0.2
    assert better.p_holm < 0.001
    assert compare_pairs({"a": np.ones(3, bool)}).empty


def test_seeds_are_told_as_mean_and_spread() -> None:
    scores = {"balanced_accuracy": 0.5, "macro_f1": 0.5, "weighted_f1": 0.5}
    runs = pd.DataFrame(
        [
            {"recipe": r, "seed": s, "accuracy": a, **scores}
            for r, s, a in [("x", 0, 0.4), ("x", 1, 0.6), ("y", 0, 0.9)]
        ]
    )
    table = mean_over_seeds(runs).set_index("recipe")
    assert list(table.index) == ["y", "x"]
    assert table.loc["x", ["seeds", "accuracy"]].tolist() == [2, pytest.approx(0.5)]
    assert table.loc["x", "accuracy_sd"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert np.isnan(table.loc["y", "accuracy_sd"])
