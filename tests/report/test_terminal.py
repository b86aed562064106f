"""What the terminal shows: lines of steps from Snakemake's records, and the main results."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fervit_lib.report import terminal
from fervit_lib.system.atomic import write_json

STEPS = ["encode/autoencoder", "train/a", "train/b", "evaluate/all"]


def start(lines: logging.Handler, job: int, step: str) -> None:
    log = [f"reports/x/{step}/notebook.ipynb", f"reports/x/{step}/log.txt"] if step else []
    lines.emit(SimpleNamespace(event="job_info", jobid=job, log=log))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    time = SimpleNamespace(now=0.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: time.now)
    return time


class TestStepLines:
    def test_a_line_for_each_step_that_ends(
        self, clock: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = terminal.StepLines(STEPS, {})
        start(lines, 1, STEPS[0])
        assert capsys.readouterr().out == ""
        clock.now = 61
        lines.emit(SimpleNamespace(event="job_finished", job_id=1))
        assert capsys.readouterr().out.split() == [STEPS[0], "done", "0:01:01,", "1", "of", "4"]
        assert lines.seconds == {STEPS[0]: 61}
        start(lines, 2, STEPS[1])
        start(lines, 3, STEPS[2])
        lines.emit(SimpleNamespace(event="job_error", jobid=2))
        assert capsys.readouterr().out.split()[:2] == [STEPS[1], "failed"]
        assert (lines.failed, lines.waiting) == (["train/a"], ["train/b", "evaluate/all"])

    def test_the_time_left_is_that_of_the_last_call_at_this_calls_speed(
        self, clock: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = terminal.StepLines(STEPS, {STEPS[0]: 10, STEPS[1]: 20, STEPS[2]: 20, STEPS[3]: 50})
        start(lines, 1, STEPS[0])
        clock.now = 20  # twice as slow
        lines.emit(SimpleNamespace(event="job_finished", job_id=1))
        assert "about 0:03:00 left" in capsys.readouterr().out

    @pytest.mark.parametrize("known", [{}, {STEPS[0]: 10.0}])
    def test_no_time_left_if_the_time_of_a_step_is_unknown(
        self, known: dict[str, float], clock: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = terminal.StepLines(STEPS, known)
        start(lines, 1, STEPS[0])
        clock.now = 5
        lines.emit(SimpleNamespace(event="job_finished", job_id=1))
        assert "left" not in capsys.readouterr().out

    def test_a_step_that_is_tried_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = terminal.StepLines(STEPS, {})
        start(lines, 1, STEPS[0])
        lines.emit(SimpleNamespace(event="job_error", jobid=1))
        assert lines.failed == [STEPS[0]] and STEPS[0] not in lines.waiting
        start(lines, 1, STEPS[0])
        lines.emit(SimpleNamespace(event="job_finished", job_id=1))
        assert not lines.failed and "done" in capsys.readouterr().out

    def test_other_records_and_jobs_are_not_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = terminal.StepLines(STEPS, {})
        start(lines, 0, "")  # the index
        lines.emit(SimpleNamespace(event="job_finished", job_id=0))
        lines.emit(logging.makeLogRecord({"msg": "Select jobs to execute"}))
        assert capsys.readouterr().out == ""


class TestHeadlines:
    def row(self, variant: str, accuracy: float) -> dict[str, Any]:
        interval = {"accuracy_low": accuracy - 0.05, "accuracy_high": accuracy + 0.05}
        return {"variant": variant, "accuracy": accuracy} | interval

    def test_best_model_best_pretrained_pair_and_student(self, tmp_path: Path) -> None:
        runs = [self.row("hybrid-pretrained=mae", 0.5), self.row("hybrid-pretrained=random", 0.4)]
        runs += [self.row("probe-pretrained=mae", 0.6), self.row("image", 0.7)]
        write_json(tmp_path / "evaluate" / "all" / "result.json", {"runs": runs})
        arms = [
            {"arm": name, "fg_iou": iou, "fg_iou_low": 0.0, "fg_iou_high": 1.0}
            for name, iou in (("none", 0.1), ("outputs", 0.2))
        ]
        result = {"arms": arms, "shipped": {"arm": "outputs"}}
        write_json(tmp_path / "distill" / "all" / "result.json", result)
        files = sorted(tmp_path.glob("*/*/result.json"), reverse=True)
        best, pair, student = terminal.headlines(files)
        assert "image" in best and "70.0% [65.0%, 75.0%]" in best
        assert "hybrid-pretrained=mae" in pair and "50.0%" in pair and "40.0%" in pair
        assert "outputs" in student and "20.0%" in student

    def test_steps_that_an_experiment_lacks(self, tmp_path: Path) -> None:
        assert terminal.headlines([]) == []
        assert terminal.headlines([tmp_path / "missing.json"]) == []  # `make sweep` only encodes
        write_json(tmp_path / "result.json", {"runs": [self.row("a", 0.5)]})
        assert len(terminal.headlines([tmp_path / "result.json"])) == 1

    @pytest.mark.parametrize(
        "old, new", [(b"0.5", b"0.7"), (b"accuracy", b"accurbcy"), (b"{", b"[")]
    )
    def test_a_changed_result_is_named_and_shown_by_no_figure(
        self, tmp_path: Path, old: bytes, new: bytes
    ) -> None:
        damaged, other = tmp_path / "damaged.json", tmp_path / "other.json"
        for path in (damaged, other):
            write_json(path, {"runs": [self.row("a", 0.5)]})
        damaged.write_bytes(damaged.read_bytes().replace(old, new, 1))
        line, best = terminal.headlines([damaged, other])
        assert str(damaged) in line and "%" not in line
        assert "50.0%" in best
