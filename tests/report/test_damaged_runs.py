"""One damaged run does not spoil the index of the others."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from fervit_lib import runs
from fervit_lib.report.index import write_index
from fervit_lib.system import atomic
from tests.evaluation_runs import RUNS

ROWS = [{**row, "trainable_parameters": 10} for row in RUNS.to_dict("records")]
LOST = {f"accuracy_lost{end}": [0.1] * 18 for end in ("", "_low", "_high")}
IOU = ("fg_iou", "fg_iou_low", "fg_iou_high", "miou", "boundary_iou", "teacher_agreement")
ARM = {"arm": "none", "seeds": 1, "test_images": 9} | dict.fromkeys(IOU, 0.5)
DIFFERENCE = {"what": "outputs - none", "difference": 0.1, "low": 0.0, "high": 0.2}
CURVE = {"kind": "fraction", "faces": 10, "runs": 1, "seen_faces": 20, "mean": 0.5}
POINT = CURVE | {"recipe": "r", "share": 0.1, "low": 0.4, "high": 0.6}
SEEDS = {"recipe": "full", "seeds": 2, "accuracy": 0.75, "accuracy_sd": 0.1, "macro_f1": 0.7}
RESULTS: dict[str, dict[str, Any]] = {
    "encode": {"latents": "data/latents/toy/autoencoder", "num_codes": {"train": 3}},
    "train": {"approach": "scratch", "strategy": "full", "seed": 0, "train_seconds": 1.0},
    "distill": {"arms": [ARM], "shipped": {"arm": "none"}, "differences": [DIFFERENCE]},
    "evaluate": {"majority_accuracy": 0.25, "on_parts": ["p"], "pooled": [], "runs": ROWS},
    "explain": {"runs": ["a"], "num_faces": 10, **LOST},
}
# What the index cannot show a run without.
NEEDED = {
    "distill": {"arms"},
    "evaluate": {"majority_accuracy", "on_parts", "runs"},
    "explain": {"runs", "num_faces", *LOST},
}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """One run of each step, and another run of training."""
    for step, result in (*RESULTS.items(), ("train", RESULTS["train"])):
        variant = "whole" if (tmp_path / "demo" / step).exists() else "damaged"
        options = {"parameters": {"lr": 0.1}, "seed": 0, "device": "cpu"}
        run = runs.start_run(tmp_path, "demo", step, variant, **options)
        if step == "evaluate":
            tables = {"curves": [POINT], "over_seeds": [SEEDS]}
            atomic.write_json(run.folder / "evaluation_results.json", tables)
        run.write_result(**result)
    return tmp_path / "demo"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the pages are filled with, instead of pages."""
    filled: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "fervit_lib.report.index.write_html", lambda *_, **page: filled.append(page)
    )
    monkeypatch.setattr("fervit_lib.report.index.figure_div", lambda _: "")
    return filled


@pytest.mark.parametrize("step", NEEDED)
def test_a_needed_value_is_missing_or_null(
    step: str, experiment: Path, pages: list[dict[str, Any]]
) -> None:
    file = experiment / step / "damaged" / "result.json"
    content = atomic.read_json(file)  # without the checksum, as another version wrote it
    for key in NEEDED[step]:
        without = {name: value for name, value in content.items() if name != key}
        for damaged in (without, content | {key: None}):
            file.write_text(json.dumps(damaged), encoding="utf-8")
            write_index(experiment)
            [problem] = pages[-1]["problems"]
            assert f"{step}/damaged" in problem and file.name in problem
            assert "whole" in [run.variant for run in pages[-1]["runs"]]


@pytest.mark.slow
@pytest.mark.parametrize("step", RESULTS)
def test_any_value_is_missing_or_of_another_type(
    step: str, experiment: Path, pages: list[dict[str, Any]]
) -> None:
    for file in sorted((experiment / step / "damaged").glob("*.json")):
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
        for key in content:
            without = {name: value for name, value in content.items() if name != key}
            values = (None, math.nan, "text", [], [None], {}, 10**400)
            for damaged in (without, *(content | {key: value} for value in values)):
                file.write_text(json.dumps(damaged), encoding="utf-8")
                write_index(experiment)
                if key != "checksum":
                    [problem] = pages[-1]["problems"]
                    assert f"{step}/damaged/{file.name}" in problem
                damaged.pop("checksum", None)  # as another version wrote it
                file.write_text(json.dumps(damaged), encoding="utf-8")
                write_index(experiment)
                assert "whole" in [run.variant for run in pages[-1]["runs"]]
        file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b"\xff\xfe{}", b"3", b'"text"'])
def test_a_file_is_no_object(content: bytes, experiment: Path) -> None:
    files = [
        experiment / "evaluate" / "damaged" / "evaluation_results.json",
        experiment / "train" / "damaged" / "result.json",
        experiment / "explain" / "damaged" / "config.json",
    ]
    for file in files:
        file.write_bytes(content)
    page = write_index(experiment).read_text(encoding="utf-8")
    for file in files:
        assert f"{file.parent.parent.name}/damaged/{file.name}" in page


def test_a_file_is_missing(experiment: Path) -> None:
    (experiment / "train" / "damaged" / "config.json").unlink()
    (experiment / "distill" / "damaged" / "result.json").unlink()
    shutil.rmtree(experiment / "explain" / "damaged")
    (experiment / "explain" / "damaged").mkdir()
    page = write_index(experiment).read_text(encoding="utf-8")
    assert "train/damaged: config.json" in page
    assert "incomplete (distill/damaged, explain/damaged)" in page
