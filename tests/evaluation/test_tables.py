import json
from pathlib import Path

import numpy as np
import pandas as pd

from fervit_lib.evaluation import write_results


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
    paths = write_results(
        tmp_path,
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
    assert content["runs"][0]["macs"] is None
    assert content["class_metrics"]["a_b"][1] == {"class": "y", "f1": 0.6}
    assert content["pairs"] == []
    latex = paths[2].read_text()
    assert r"a\_b & 50.0 [40.0, 60.0] & -- \\" in latex
    assert r"\toprule" in latex
    assert pd.read_csv(paths[1])["accuracy"].tolist() == [0.5]
