"""Which steps of an experiment failed, and why. Snakemake waits for this module's imports."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Files of a run directory.
LOG = "log.txt"
NOTEBOOK = "notebook.ipynb"
PAGE = "notebook.html"


def describe_failure(folder: Path) -> str:
    """In which cell a step failed, and why; one line or a few."""
    from fervit_lib.report.page import find_failure  # slow to import

    with suppress(ValueError):  # papermill was killed while it wrote the file
        executed = folder / NOTEBOOK
        if executed.is_file() and (failure := find_failure(executed)):
            return f"failed in cell {failure.number} of {failure.notebook}: {failure.message}"
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip()
    last_line = f": {text.splitlines()[-1]}" if text else ""
    return f"stopped from outside, or before its first cell{last_line}"


def forget_failures(experiment: Path, runs: Sequence[tuple[str, str]]) -> None:
    """Remove the logs of runs without a result: a log found later is of the call that follows."""
    for step, variant in runs:
        if not (experiment / step / variant / "result.json").is_file():
            (experiment / step / variant / LOG).unlink(missing_ok=True)


def describe_failures(experiment: Path, runs: Sequence[tuple[str, str]]) -> str:
    """Describe the failures of an experiment.

    Each failed run with its cell, reason and page, then the runs that were not started.

    Args:
        experiment: `reports/<experiment>`.
        runs: (step, variant) of all runs; one with a log but without a result has failed, one
            with neither has not started.
    """
    failed = []
    waiting = []
    for step, variant in runs:
        folder = experiment / step / variant
        if (folder / "result.json").is_file():
            continue
        if not (folder / LOG).is_file():
            waiting.append(f"{step}/{variant}")
            continue
        reason = describe_failure(folder).replace("\n", "\n  ")
        page = folder / PAGE if (folder / PAGE).is_file() else folder / LOG
        failed.append(f"{step}/{variant} {reason}\n  See {page}")
    if failed and waiting:
        failed.append(f"Not run yet: {', '.join(waiting)}")
    return "\n".join(failed)
