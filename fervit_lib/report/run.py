"""One step of an experiment: a notebook executed, its page, and, where it failed, what to say of it."""

import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import papermill

from fervit_lib.report.page import find_failure, write_page
from fervit_lib.system import distributed

LOG, NOTEBOOK, PAGE = "log.txt", "notebook.ipynb", "notebook.html"
GRACE = 10.0  # seconds in which the first process of a launch, whose page is kept, may fail as another one did


def run_notebook(notebook: Path, folder: Path, parameters: Mapping[str, Any]) -> bool:
    """Execute `notebook` into `folder`, and make its page, failed or not; whether it ran to its end.

    What papermill and the kernel say goes to `log.txt` there. In a launch every process executes the notebook, see
    `ranks`; what the first one's shows is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    executed, ended = folder / NOTEBOOK, True
    if distributed.rank():
        executed = Path(os.devnull)
    else:
        executed.unlink(missing_ok=True)  # an older one would tell of an older failure
        (folder / LOG).write_text(
            ""
        )  # not removed: another process of the launch may have opened it
    with _errors_to(folder / LOG) as log:
        try:
            papermill.execute_notebook(
                notebook, executed, parameters, kernel_name="python3", progress_bar=False
            )
        except Exception:
            ended = False
            traceback.print_exc(file=log)
            if distributed.rank():
                time.sleep(GRACE)
        if executed.is_file():
            write_page(executed, folder / PAGE)
    return ended


@contextmanager
def _errors_to(path: Path) -> Iterator[TextIO]:
    """Send the error stream of this process, and of those it starts, to a file."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with path.open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 2)
            yield log
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def describe_failure(folder: Path) -> str:
    """In a line or a few: in which cell a step failed, and why."""
    executed = folder / NOTEBOOK
    with suppress(ValueError):  # ended while papermill wrote it
        if executed.is_file() and (failure := find_failure(executed)):
            return f"failed in cell {failure.number} of {failure.notebook}: {failure.message}"
    log = folder / LOG
    said = [
        line
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return f"stopped from outside, or before its first cell{f': {said[-1]}' if said else ''}"


def forget_failures(experiment: Path, runs: Sequence[tuple[str, str]]) -> None:
    """Remove the logs of runs without a result: one there tells of this call then, whatever the clock says."""
    for step, variant in runs:
        if not (experiment / step / variant / "result.json").is_file():
            (experiment / step / variant / LOG).unlink(missing_ok=True)


def describe_failures(experiment: Path, runs: Sequence[tuple[str, str]]) -> str:
    """What went wrong in an experiment: every failed run with its cell, the reason and the page, and what waits for it.

    Args:
        experiment: `reports/<experiment>`.
        runs: step and variant of all; one with a log and without a result has failed, one without both was not run.
    """
    told, waiting = [], []
    for step, variant in runs:
        folder = experiment / step / variant
        if (folder / "result.json").is_file():
            continue
        log = folder / LOG
        if log.is_file():
            reason = describe_failure(folder).replace("\n", "\n  ")
            place = folder / PAGE if (folder / PAGE).is_file() else log
            told.append(f"{step}/{variant} {reason}\n  See {place}")
        else:
            waiting.append(f"{step}/{variant}")
    if told and waiting:
        told.append(f"Not run yet: {', '.join(waiting)}")
    return "\n".join(told)
