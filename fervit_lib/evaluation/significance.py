"""Are differences more than chance? Intervals over faces, spread over seeds, and paired tests."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.stats import binomtest

RESAMPLES = 2000
_BLOCK = 4_000_000  # counts that are held at once
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")


def bootstrap_interval(correct: np.ndarray) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of `correct` (N,) bool, e.g. of an accuracy.

    It covers the choice of test faces, not that of the training seed.
    """
    # Among N faces drawn with replacement the number of correct ones is binomial.
    n = len(correct)
    draws = np.random.default_rng(0).binomial(n, correct.mean(), RESAMPLES) / n
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def score_intervals(
    confusion: np.ndarray, seed: int = 0, by_subject: np.ndarray | coo_array | None = None
) -> dict[str, float]:
    """95% percentile bootstrap intervals of `SCORES`, as `<score>_low` and `<score>_high`.

    Memory is that of `_BLOCK` counts, whatever the numbers of classes and persons are.

    Args:
        confusion: (C, C) counts, one row per true class. Drawing faces with replacement is
            drawing such counts from a multinomial distribution.
        by_subject: (S, C, C), the counts of each person. Persons are then drawn instead of faces:
            faces of one person resemble each other, so that there is less to learn from them.
    """
    rng = np.random.default_rng(seed)
    # Only the cells that hold faces: of 1,000 classes, few of the million pairs occur.
    cells = coo_array(confusion[None] if by_subject is None else by_subject)
    unit, true, predicted = cells.coords
    counts = cells.data.astype(float)
    num_units = cells.shape[0]
    shares = np.full(num_units, 1 / num_units)
    if by_subject is None:
        num_units = int(counts.sum())
        shares = counts / num_units
        unit = np.arange(len(counts))
        counts = np.ones_like(counts)
    correct, support, answers = (
        coo_array((counts * used, (unit, column)), (len(shares), len(confusion))).tocsr()
        for column, used in ((true, true == predicted), (true, 1), (predicted, 1))
    )
    blocks = []
    size = max(1, _BLOCK // max(correct.shape))
    for start in range(0, RESAMPLES, size):
        draws = rng.multinomial(num_units, shares, min(size, RESAMPLES - start))  # (B, units)
        blocks.append(_scores(draws @ correct, draws @ support, draws @ answers))
    intervals = {}
    for name, values in zip(SCORES, np.concatenate(blocks, axis=1), strict=True):
        intervals[f"{name}_low"] = float(np.quantile(values, 0.025))
        intervals[f"{name}_high"] = float(np.quantile(values, 0.975))
    return intervals


def _scores(correct: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """`SCORES` (4, B) from counts by class (B, C): true positives, true and predicted faces."""
    recall = np.divide(correct, support, out=np.full_like(correct, np.nan), where=support > 0)
    # As scikit-learn: 0 for a class that is only predicted wrongly, absent classes left out.
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    occurs = support + predicted > 0
    faces = support.sum(1)  # persons have unequal numbers of faces
    return np.array(
        [
            correct.sum(1) / faces,
            np.nanmean(recall, axis=1),
            (f1 * occurs).sum(1) / occurs.sum(1),
            (f1 * support).sum(1) / faces,
        ]
    )


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided p-value of the exact McNemar test that both models have the same error rate.

    Only faces that exactly one of them classifies correctly count (McNemar 1947; Dietterich 1998,
    section 3.1).

    Args:
        correct_a, correct_b: (N,) bool, which of the same faces each model classifies correctly.
    """
    only_a = int((correct_a & ~correct_b).sum())
    differ = int((correct_a != correct_b).sum())
    return float(binomtest(only_a, differ).pvalue) if differ else 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values (M,) adjusted for M simultaneous tests by Holm's (1979) method, at most 1."""
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def compare_pairs(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Paired tests of all pairs of runs: a, b, difference (in accuracy, a - b), p, p_holm.

    Args:
        correct: by run, (N,) bool, which of the same faces it classifies correctly.
    """
    rows = [
        (a, b, float(correct[a].mean() - correct[b].mean()), mcnemar(correct[a], correct[b]))
        for a, b in combinations(correct, 2)
    ]
    pairs = pd.DataFrame(rows, columns=["a", "b", "difference", "p"])
    return pairs.assign(p_holm=holm(pairs["p"].to_numpy(float)))


def mean_over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of each recipe: seeds, `<score>`, `<score>_sd`.

    Args:
        runs: one row per run: recipe, seed and `SCORES`.
    """
    groups = runs.groupby("recipe", sort=False)[list(SCORES)]
    table = groups.mean().join(groups.std(), rsuffix="_sd").assign(seeds=groups.size())
    return table.sort_values("accuracy", ascending=False).reset_index()


def learning_curves(points: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against the number of training faces.

    Args:
        points: rows of `EvaluatedRun.metrics`, of runs on subsets and on all faces.

    Returns:
        One row per recipe, kind (fraction or shots) and share: faces; runs; seen_faces, in all
        epochs; mean, low, high. The band is one standard deviation if there are several runs (seeds
        and draws), else the interval over test faces. Recipes without runs on a subset are left
        out; runs on all faces are the right end of a recipe's curve.
    """
    shots = points["shots"].fillna(0).astype(int)
    fraction = points["data_fraction"].fillna(1.0)
    points = points.assign(
        kind=np.where(shots > 0, "shots", "fraction"), share=np.where(shots > 0, shots, fraction)
    )
    rows = []
    for recipe, group in points.groupby("recipe", sort=False):
        fractions = group[group["kind"] == "fraction"]
        if (fractions["share"] == 1).all():  # one point on all faces is no curve
            group = group.drop(fractions.index)
        for (kind, share), runs in group.groupby(["kind", "share"]):
            mean = runs["accuracy"].mean()
            low = runs["accuracy_low"].iloc[0]
            high = runs["accuracy_high"].iloc[0]
            if len(runs) > 1:
                sd = runs["accuracy"].std()
                low = mean - sd
                high = mean + sd
            budget = (runs["train_faces"].iloc[0], len(runs), runs["seen_faces"].max())
            rows.append((recipe, kind, share, *budget, mean, low, high))
    columns = ["recipe", "kind", "share", "faces", "runs", "seen_faces", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
