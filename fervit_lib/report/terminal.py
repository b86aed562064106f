"""What the terminal shows of an experiment: a line for each step that ends, and the main results.

Nothing slow is imported here: Snakemake waits for it.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from fervit_lib.system.identity import check_checksum


def step_name(logs: Iterable[str]) -> str:
    """`train/scratch-full-seed0` from the log files of a Snakemake job; empty if it has none."""
    return "/".join(Path(next(iter(logs), "")).parts[-3:-1])


class StepLines(logging.Handler):
    """Print a line when a step ends, from the records of Snakemake's logger.

    Attributes:
        waiting: names of the steps that have not ended.
        failed: names of the steps that have failed.
        seconds: {step: duration}; those of an earlier call, if known, give the time left.
    """

    def __init__(self, steps: Iterable[str], seconds: Mapping[str, float]) -> None:
        super().__init__()
        self.waiting = list(steps)
        self.failed: list[str] = []
        self.seconds = dict(seconds)
        self._expected = {step: seconds.get(step, math.nan) for step in self.waiting}
        self._running: dict[int, tuple[str, float]] = {}
        self._start = time.monotonic()

    def emit(self, record: Any) -> None:
        # Beside Snakemake's own lines, or in a file, there is no last line to replace.
        live = sys.stdout.isatty() and not sys.stderr.isatty()
        if live:
            print(end="\r\033[K")
        event = getattr(record, "event", "")
        if event == "job_info" and (step := step_name(record.log)):
            self._running[record.jobid] = step, time.monotonic()
            if step in self.failed:  # Snakemake tries it again
                self.failed.remove(step)
                self.waiting.append(step)
        elif event == "job_finished" and record.job_id in self._running:
            self._end(record.job_id, "done")
        elif event == "job_error" and record.jobid in self._running:
            self._end(record.jobid, "failed")
        if live:
            print(", ".join(step for step, _ in self._running.values())[:79], end="", flush=True)

    def _end(self, job: int, state: str) -> None:
        step, start = self._running.pop(job)
        self.waiting.remove(step)
        if state == "failed":
            self.failed.append(step)
        now = time.monotonic()
        self.seconds[step] = now - start
        done = len(self._expected) - len(self.waiting)
        line = f"{step:<55} {state:<6} {_clock(now - start)}, {done} of {len(self._expected)}"
        ahead = sum(self._expected[step] for step in self.waiting)
        left = (now - self._start) * ahead / (sum(self._expected.values()) - ahead)
        if left > 0 and not self.failed:  # not if it is NaN
            line += f", about {_clock(left)} left"
        print(line, flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def headlines(results: Iterable[Path]) -> list[str]:
    """The main results in words: the best model, what pretraining adds, the student that ships.

    Args:
        results: `result.json` of 04_evaluate and of 03_distill; those that are missing are left
            out, as Snakemake runs only some steps with `--until`.
    """
    lines = []
    for path in filter(Path.is_file, results):
        try:
            check_checksum(path, required=False)
            result = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            lines.append(f"{path}: damaged ({error}); delete it, then run the same command again")
            continue
        if "arms" in result:
            [arm] = [arm for arm in result["arms"] if arm["arm"] == result["shipped"]["arm"]]
            lines.append(f"Student: {arm['arm']}, {_with_interval(arm, 'fg_iou')}")
            continue
        runs = {run["variant"]: run for run in result["runs"]}
        ranked = sorted(runs, key=lambda name: -runs[name]["accuracy"])
        lines.append(f"Best model: {ranked[0]}, {_with_interval(runs[ranked[0]], 'accuracy')}")
        for name in ranked:
            control = runs.get(name.replace("=mae", "=random"))
            if control and "=mae" in name:
                scores = [_with_interval(run, "accuracy") for run in (runs[name], control)]
                lines.append(f"Pretraining: {name}, {scores[0]}; random weights: {scores[1]}")
                break
    return lines


def _with_interval(row: Mapping, score: str) -> str:
    low, high = (f"{row[score + end]:.1%}" for end in ("_low", "_high"))
    return f"{score.replace('fg_iou', 'foreground IoU')} {row[score]:.1%} [{low}, {high}]"
