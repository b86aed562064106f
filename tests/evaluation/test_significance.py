import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array

from fervit_lib.evaluation import (
    bootstrap_interval,
    compare_pairs,
    learning_curves,
    mean_over_seeds,
)
from fervit_lib.evaluation.metrics import summary_metrics
from fervit_lib.evaluation.significance import holm, mcnemar, score_intervals


def confusion_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def test_intervals_of_an_accuracy_cover_the_true_value() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.random(200) < 0.7)
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 1
    assert bootstrap_interval(np.ones(10, bool)) == (1, 1)


def test_intervals_of_every_score_cover_the_true_value() -> None:
    rng = np.random.default_rng(2)
    confusion = np.array([[0.35, 0.05, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.1]])
    labels, predicted = np.divmod(rng.choice(9, 200_000, p=confusion.ravel()), 3)
    truth = summary_metrics(labels, predicted)
    covered = dict.fromkeys(truth, 0)
    for _ in range(150):
        intervals = score_intervals(rng.multinomial(300, confusion.ravel()).reshape(3, 3))
        for name in truth:
            covered[name] += intervals[f"{name}_low"] <= truth[name] <= intervals[f"{name}_high"]
    assert all(0.89 <= times / 150 <= 1 for times in covered.values()), covered


def test_an_interval_contains_its_score() -> None:
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(5, size=(2, 100))
    scores = summary_metrics(labels, predicted)
    intervals = score_intervals(confusion_of(labels, predicted, 5))
    for name, value in scores.items():
        assert intervals[f"{name}_low"] <= value <= intervals[f"{name}_high"]


def test_an_interval_over_subjects_counts_persons_not_faces() -> None:
    rng = np.random.default_rng(4)
    labels, predicted = rng.integers(3, size=(2, 30))
    persons = np.stack([confusion_of(labels[i::10], predicted[i::10], 3) for i in range(10)])
    ten_times = score_intervals(10 * persons.sum(0), 0, 10 * persons)
    once = score_intervals(persons.sum(0), 0, persons)
    # More faces of the same persons say nothing new; more faces of anybody would.
    assert ten_times == pytest.approx(once)
    by_face = score_intervals(10 * persons.sum(0))
    width = {
        name: v["accuracy_high"] - v["accuracy_low"]
        for name, v in {"faces": by_face, "persons": once}.items()
    }
    assert width["faces"] < width["persons"]
    covered = 0
    for _ in range(150):  # persons whose faces are all right or all wrong
        right = (rng.random(60) < 0.7).astype(int)
        counts = np.stack(
            [np.diag([5 * r, 5 * r]) + (1 - r) * 5 * (1 - np.eye(2, dtype=int)) for r in right]
        )
        interval = score_intervals(counts.sum(0), 0, counts)
        covered += interval["accuracy_low"] <= 0.7 <= interval["accuracy_high"]
    assert 0.88 <= covered / 150 <= 1


def test_mcnemar_counts_faces_that_only_one_model_classifies_correctly() -> None:
    a, b = np.zeros(40, bool), np.zeros(40, bool)
    assert mcnemar(a, b) == 1
    a[:5] = True
    assert mcnemar(a, b) == pytest.approx(2 * 0.5**5)
    assert mcnemar(a | (np.arange(40) > 20), b | (np.arange(40) > 20)) == mcnemar(a, b)
    with pytest.raises(ValueError, match="shape"):
        mcnemar(a, b[:3])


def test_holm_agrees_with_a_textbook_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert holm(np.array([])).size == 0


def test_equal_models_rarely_differ_significantly() -> None:
    rng = np.random.default_rng(4)
    false_alarms = 0
    for _ in range(60):
        pairs = compare_pairs({name: rng.random(200) < 0.6 for name in "abcd"})
        assert len(pairs) == 6
        false_alarms += (pairs["p_holm"] < 0.05).any()
    assert false_alarms <= 8
    rng = np.random.default_rng(5)
    [better] = compare_pairs({"a": rng.random(500) < 0.8, "b": rng.random(500) < 0.5}).itertuples()
    assert better.difference > 0.2
    assert better.p_holm < 0.001
    assert compare_pairs({"a": np.ones(3, bool)}).empty


def test_mean_and_standard_deviation_over_seeds() -> None:
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


def test_learning_curves_have_a_band_over_runs_and_end_at_all_faces() -> None:
    def point(recipe: str, fraction: float | None, shots: int | None, accuracy: float) -> dict:
        return {
            "recipe": recipe,
            "data_fraction": fraction,
            "shots": shots,
            "accuracy": accuracy,
            "accuracy_low": accuracy - 0.1,
            "accuracy_high": accuracy + 0.1,
            "train_faces": 7,
            "seen_faces": 70,
        }

    points = [
        point("a", 0.1, 0, 0.2),
        point("a", 0.1, 0, 0.4),
        point("a", None, None, 0.8),
        point("a", 1, 5, 0.3),
        point("b", 1, 0, 0.9),
    ]
    curves = learning_curves(pd.DataFrame(points))
    assert set(curves["recipe"]) == {"a"}
    smallest, largest, shots = curves.itertuples()
    sd = np.std([0.2, 0.4], ddof=1)
    assert (smallest.share, smallest.runs, smallest.mean) == (0.1, 2, pytest.approx(0.3))
    assert (smallest.low, smallest.high) == (pytest.approx(0.3 - sd), pytest.approx(0.3 + sd))
    assert (largest.share, largest.low, largest.high) == (1, pytest.approx(0.7), pytest.approx(0.9))
    assert (shots.kind, shots.share) == ("shots", 5)
    assert learning_curves(pd.DataFrame([point("b", 1, 0, 0.9)])).empty


@pytest.mark.parametrize("persons", [0, 400])
def test_memory_does_not_grow_with_the_square_of_the_classes(persons: int) -> None:
    num_classes = 1000
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 4000)
    predicted = np.where(rng.random(4000) < 0.5, labels, rng.integers(0, num_classes, 4000))
    cells = coo_array((np.ones(4000, int), (labels, predicted)), (num_classes, num_classes))
    groups = None
    if persons:
        shape = (persons, num_classes, num_classes)
        groups = coo_array((np.ones(4000), (np.arange(4000) % persons, labels, predicted)), shape)
    tracemalloc.start()
    intervals = score_intervals(cells.toarray(), 0, groups)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # all resamples at once would take 16 GB
    assert intervals["accuracy_low"] < (labels == predicted).mean() < intervals["accuracy_high"]
