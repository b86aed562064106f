import numpy as np
import pytest
from sklearn import metrics

from fervit_lib.evaluation import class_metrics, class_roc_auc, majority_accuracy, top_confusions
from fervit_lib.evaluation.metrics import summary_metrics


def random_labels(n: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=n)
    return labels, np.where(rng.random(n) < 0.6, labels, rng.integers(classes, size=n))


def test_metrics_agree_with_scikit_learn() -> None:
    labels, predicted = random_labels()
    result = summary_metrics(labels, predicted)
    assert result["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert result["balanced_accuracy"] == metrics.balanced_accuracy_score(labels, predicted)
    assert result["macro_f1"] == metrics.f1_score(labels, predicted, average="macro")
    assert result["weighted_f1"] == metrics.f1_score(labels, predicted, average="weighted")
    table = class_metrics(labels, predicted, "abcd")
    assert (
        table["recall"].tolist() == metrics.recall_score(labels, predicted, average=None).tolist()
    )
    assert table["support"].sum() == len(labels)


def test_roc_auc_is_one_versus_rest_as_in_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, probs = rng.integers(4, size=300), rng.dirichlet(np.ones(4), size=300)
    expected = metrics.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
    assert np.mean(class_roc_auc(labels, probs)) == pytest.approx(expected)
    few = labels.copy()
    few[few == 2] = 1
    areas = class_roc_auc(few, probs)
    assert np.isnan(areas[2])
    assert np.isfinite(areas[[0, 1, 3]]).all()


def test_classes_that_are_absent_or_never_predicted_score_0() -> None:
    table = class_metrics(np.array([0, 0, 1]), np.array([0, 0, 0]), "abc")
    assert table["f1"].tolist() == [pytest.approx(0.8), 0, 0]
    assert majority_accuracy(np.array([0, 0, 1])) == pytest.approx(2 / 3)


def test_the_most_common_mistakes_come_first() -> None:
    result = top_confusions(np.array([[5, 1, 0], [4, 4, 2], [0, 0, 3]]), "abc")
    assert result[["true", "predicted", "faces"]].values.tolist() == [
        ["b", "a", 4],
        ["b", "c", 2],
        ["a", "b", 1],
    ]
    assert result["share"].tolist() == pytest.approx([0.4, 0.2, 1 / 6])
    assert top_confusions(np.eye(3, dtype=int), "abc").empty
