"""Is it more than luck: intervals over the test faces, spread over seeds, and paired tests."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

RESAMPLES = 2000


def bootstrap_interval(
    correct: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `correct` (N,) bool, e.g. of an accuracy.

    It speaks of the choice of test faces alone, not of the training seed.
    """
    # So many of N faces drawn with replacement are right: a binomial number, no need to draw the faces.
    draws = np.random.default_rng(seed).binomial(len(correct), correct.mean(), RESAMPLES) / len(
        correct
    )
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score_intervals(
    confusion: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Percentile bootstrap intervals of `summary_metrics`' scores, as `<score>_low` and `<score>_high`.

    Args:
        confusion: (C, C) counts, true classes down. Faces drawn with replacement are counts drawn from it.
    """
    n, num_classes = int(confusion.sum()), len(confusion)
    draws = np.random.default_rng(seed).multinomial(n, confusion.ravel() / n, RESAMPLES)
    draws = draws.reshape(-1, num_classes, num_classes).astype(float)
    right = np.einsum("bii->bi", draws)
    support, guessed = draws.sum(2), draws.sum(1)
    recall = np.divide(right, support, out=np.full_like(right, np.nan), where=support > 0)
    f1 = (
        2 * right / np.maximum(support + guessed, 1)
    )  # as scikit-learn: 0 where a class is guessed wrongly alone
    occurs = support + guessed > 0
    scores = {
        "accuracy": right.sum(1) / n,
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": (f1 * occurs).sum(1) / occurs.sum(1),
        "weighted_f1": (f1 * support).sum(1) / n,
    }
    ends = (("low", (1 - confidence) / 2), ("high", (1 + confidence) / 2))
    return {
        f"{name}_{end}": float(np.quantile(values, q))
        for name, values in scores.items()
        for end, q in ends
    }


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Exact McNemar test that two readers err equally often on the same faces (N,) bool: the two-sided p-value.

    Only faces on which one is right and the other wrong count (McNemar 1947; Dietterich 1998, section 3.1).
    """
    if correct_a.shape != correct_b.shape:
        raise ValueError(
            f"correct_b: expected the same faces, {correct_a.shape}, got {correct_b.shape}"
        )
    a_alone, b_alone = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return float(binomtest(a_alone, a_alone + b_alone).pvalue) if a_alone + b_alone else 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) correction of `p_values` (M,) for M tests at once: adjusted p-values, at most 1."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def compare_pairs(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Every pair of runs on the same faces: a, b, difference of accuracy (a - b), p, and p_holm for all pairs at once.

    Args:
        correct: by run, (N,) bool, which faces it read rightly.
    """
    rows = [
        (a, b, float(correct[a].mean() - correct[b].mean()), mcnemar(correct[a], correct[b]))
        for a, b in combinations(correct, 2)
    ]
    pairs = pd.DataFrame(rows, columns=["a", "b", "difference", "p"])
    return pairs.assign(p_holm=holm(pairs["p"].to_numpy()))


def mean_over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of each recipe: seeds, then `<score>` and `<score>_sd`.

    Args:
        runs: columns recipe, seed, accuracy, balanced_accuracy, macro_f1, weighted_f1; a row a run.
    """
    scores = ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"]
    groups = runs.groupby("recipe", sort=False)
    spread = groups[scores].std().add_suffix("_sd")
    table = groups[scores].mean().join(spread).assign(seeds=groups.size())
    ordered = ["seeds", *(column for score in scores for column in (score, f"{score}_sd"))]
    return table[ordered].sort_values("accuracy", ascending=False).reset_index()
