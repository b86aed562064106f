from collections.abc import Callable
from pathlib import Path

import pytest

from fervit_lib import runs
from fervit_lib.evaluation import runs_to_compare
from fervit_lib.system import atomic


def test_a_run_that_cannot_be_compared_is_skipped_with_a_reason(
    make_store: Callable[..., Path], finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    reports = tmp_path / "reports"
    with pytest.raises(FileNotFoundError, match="run 02_train"):
        runs_to_compare(reports, "tiny")
    finish_run(reports, store)
    finish_run(reports, store, "scratch-classes", classes=("a", "h", "s"))
    (finish_run(reports, store, "scratch-killed").folder / "result.json").unlink()
    runs.Run(reports, "tiny", "train", "scratch-no_config").write_result(accuracy=1.0)
    older = finish_run(reports, store, "scratch-older")
    older.write_result(**{k: v for k, v in older.result.items() if k != "train_seconds"})
    truncated = finish_run(reports, store, "scratch-truncated").best_checkpoint
    truncated.write_bytes(truncated.read_bytes()[:100])
    finish_run(reports, store, "scratch-lost").best_checkpoint.unlink()
    finish_run(reports, tmp_path / "elsewhere", "scratch-elsewhere")
    (finish_run(reports, store, "scratch-damaged").folder / "result.json").write_text("{")
    comparison = runs_to_compare(reports, "tiny")
    assert [run.variant for run in comparison.runs] == ["scratch-full-seed0"]
    expected = {
        "scratch-classes": "a, h, s",
        "scratch-killed": "result.json",
        "scratch-no_config": "config.json",
        "scratch-older": "train_seconds",
        "scratch-truncated": "best.safetensors",
        "scratch-lost": "best.safetensors",
        "scratch-elsewhere": "elsewhere",
        "scratch-damaged": "result.json",
    }
    assert set(comparison.skipped) == set(expected)
    for variant, named in expected.items():
        assert named in comparison.skipped[variant], variant


@pytest.mark.parametrize("value", [None, float("nan"), "text", [], {}])
def test_a_run_with_a_value_of_another_type_is_skipped_by_the_name_of_its_file(
    value: object,
    make_store: Callable[..., Path],
    finish_run: Callable[..., runs.Run],
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path / "store")
    reports = tmp_path / "reports"
    finish_run(reports, store)
    damaged = finish_run(reports, store, "scratch-damaged")
    for file, keys in (
        ("config.json", ("parameters", "data_fraction", "shots", "epoch_faces")),
        ("result.json", ("seed", "trainable_parameters", "train_seconds", "val_macro_f1")),
    ):
        before = atomic.read_json(damaged.folder / file)
        for key in keys:
            if file == "config.json" and key != "parameters":
                content = before | {"parameters": before["parameters"] | {key: value}}
            else:
                content = before | {key: value}
            atomic.write_json(damaged.folder / file, content)
            skipped = runs_to_compare(reports, "tiny").skipped
            assert f"scratch-damaged/{file}" in skipped["scratch-damaged"], key
        atomic.write_json(damaged.folder / file, before)


def test_runs_on_other_codes_of_the_same_faces_are_compared(
    make_store: Callable[..., Path], finish_run: Callable[..., runs.Run], tmp_path: Path
) -> None:
    for seed in (0, 1):
        finish_run(tmp_path, make_store(tmp_path / "a"), f"scratch-full-seed{seed}")
    finish_run(tmp_path, make_store(tmp_path / "b"), "scratch-other")
    few = make_store(tmp_path / "few", {"train": 96, "val": 30, "test": 27})
    finish_run(tmp_path, few, "scratch-on_few")
    comparison = runs_to_compare(tmp_path, "tiny")
    variants = ["scratch-full-seed0", "scratch-full-seed1", "scratch-other"]
    assert [run.variant for run in comparison.runs] == variants
    assert comparison.stores == (tmp_path / "a",)
    assert list(comparison.skipped) == ["scratch-on_few"]
    assert "few" in comparison.skipped["scratch-on_few"]
    assert [run.variant for run in comparison.single_runs] == [*variants, "scratch-on_few"]
