"""Experiments with several stores, run as users run them: two data sets, and cross-validation."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fervit_lib.latents import find_store, store_identity
from fervit_lib.system.atomic import read_json
from fervit_lib.system.runtime import PROJECT_ROOT
from tests.datasets.published_sets import ck_48, raf_db

SMALL = {"num_views": 1, "img_size": 32}
LINEAR = {"approach": "image", "model_name": "pixel_linear", "epochs": 1, "batch_size": 16}
SCRATCH = {
    "approach": "scratch",
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "epochs": 1,
    "batch_size": 16,
}

pytestmark = [pytest.mark.slow, pytest.mark.notebooks]


def run(folder: Path, **blocks: Any) -> Path:
    """Run an experiment with two cores, and return its folder."""
    places = {"reports": str(folder / "reports"), "data_dir": str(folder / "data")}
    config = folder / "sets.yaml"
    config.write_text(yaml.safe_dump({"experiment": "sets", "explain": []} | places | blocks))
    command = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "2"]
    done = subprocess.run(
        [*command, "--configfile", config], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "reports" / "sets"


def test_runs_are_tested_on_both_data_sets(tmp_path: Path) -> None:
    toy = SMALL | {"dataset": "toy", "toy_faces": 84}
    raf = SMALL | {"dataset": "raf_db", "faces": str(raf_db(tmp_path / "raf", train=6))}
    sets = ["raf_db", "toy-autoencoder"]
    experiment = run(
        tmp_path,
        encode=[raf, toy, toy | {"encoder": "autoencoder@raf_db"}],
        train=[LINEAR | {"encode": sets}, SCRATCH | {"encode": sets}],
        evaluate={"test_on": "raf_db, toy", "robust_faces": 7},
    )
    latents = tmp_path / "data" / "latents"
    encodings = [
        store_identity(find_store(latents / name))["encoding"]
        for name in ("raf_db/autoencoder", "toy/autoencoder@raf_db", "toy/autoencoder")
    ]
    assert encodings[0] == encodings[1] != encodings[2]
    result = read_json(experiment / "evaluate" / "all" / "result.json")
    cells = {(c["run"].split("-")[0], c["trained_on"], c["tested_on"]): c for c in result["cross"]}
    assert len(cells) == 2 * 2 * 2
    # Codes of raf_db by toy's encoder are not there.
    assert [key for key, cell in cells.items() if cell["reason"]] == [("scratch", "toy", "raf_db")]
    assert {c["num_test"] for c in cells.values() if c["tested_on"] == "raf_db"} == {14, None}
    assert "Accuracy, trained on" in (experiment / "index.html").read_text(encoding="utf-8")
    page = (experiment / "evaluate" / "all" / "notebook.html").read_text(encoding="utf-8")
    assert "<h2>Across data sets" in page


def test_cross_validation_by_subject_is_one_row(tmp_path: Path) -> None:
    encode = SMALL | {"dataset": "ck_plus", "faces": str(ck_48(tmp_path / "CK+48")), "folds": 3}
    experiment = run(tmp_path, encode=encode, train=LINEAR, evaluate={"robust_faces": 7})
    result = read_json(experiment / "evaluate" / "all" / "result.json")
    [row] = result["runs"]
    assert row["variant"] == "image-full-seed0" and row["interval_over"] == "8 subjects"
    assert row["num_test"] == 8 * 7 * 3
    assert result["pooled"] == [f"image-full-seed0-fold={i}" for i in range(3)]
    assert result["cross"] == [] and not result["skipped"]
    page = (experiment / "evaluate" / "all" / "notebook.html").read_text(encoding="utf-8")
    assert "3 folds, 168 faces of 8 subjects" in page and "<h2>Across data sets" not in page
