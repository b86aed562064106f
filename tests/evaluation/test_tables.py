import json
from pathlib import Path

import numpy as np
import pandas as pd

from fervit_lib.evaluation import write_results
from fervit_lib.evaluation.evaluate import EvaluatedRun
from fervit_lib.evaluation.predict import Predictions


def test_results_are_valid_json_csv_and_latex(tmp_path: Path) -> None:
    runs = pd.DataFrame(
        {
            "variant": ["a_b"],
            "accuracy": [0.5],
            "accuracy_low": [0.4],
            "accuracy_high": [0.6],
            "macs": [np.nan],
        }
    )
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    test = Predictions(("x", "y"), tuple("abcd"), np.array([0, 1, 1, 0]), probs)
    paths = write_results(
        tmp_path,
        best=EvaluatedRun(None, test, probs, {"variant": "a_b", "accuracy": 0.75}),
        runs=runs,
        classes=["x", "y"],
        class_metrics={"a_b": pd.DataFrame({"f1": [0.4, 0.6]}, index=["x", "y"])},
        confusion={"a_b": np.eye(2, dtype=int)},
        pairs=pd.DataFrame(),
    )
    assert [path.name for path in paths] == [
        "evaluation_results.json",
        "comparison.csv",
        "comparison.tex",
    ]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(paths[0].read_text(), parse_constant=refuse)
    assert list(content)[1:4] == ["best", "accuracy", "classification_report"]
    assert (content["best"], content["accuracy"]) == ("a_b", 0.75)
    report = content["classification_report"]
    assert report["accuracy"] == 0.75
    assert report["y"] == {"precision": 1, "recall": 0.5, "f1-score": 2 / 3, "support": 2}
    assert set(report) == {"x", "y", "accuracy", "macro avg", "weighted avg"}
    assert content["runs"][0]["macs"] is None
    assert content["class_metrics"]["a_b"][1] == {"class": "y", "f1": 0.6}
    assert content["pairs"] == []
    latex = paths[2].read_text()
    assert r"a\_b & 50.0 [40.0, 60.0] & -- \\" in latex
    assert r"\toprule" in latex
    assert pd.read_csv(paths[1])["accuracy"].tolist() == [0.5]
