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
    from fervit_lib.report.page import find_failure, read_notebook  # slow to import

    with suppress(ValueError):  # papermill was killed while it wrote the file
        executed = folder / NOTEBOOK
        if executed.is_file() and (failure := find_failure(read_notebook(executed))):
            return f"failed in cell {failure.number} of {failure.notebook}: {failure.message}"
    log = folder / LOG
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
    last_line = f": {text.splitlines()[-1]}" if text else ""
    return f"stopped from outside, or before its first cell{last_line}"


def describe_failures(experiment: Path, failed: Sequence[str], waiting: Sequence[str]) -> str:
    """Each failed run with its cell, reason and page, then the runs that were not started.

    Args:
        experiment: `reports/<experiment>`.
        failed, waiting: names of runs, such as train/scratch-full-seed0.
    """
    lines = []
    for run in failed:
        folder = experiment / run
        page = folder / PAGE if (folder / PAGE).is_file() else folder / LOG
        reason = describe_failure(folder).replace("\n", "\n  ")
        lines.append(f"{run} {reason}\n  See {page}")
    if lines and waiting:
        lines.append(f"Not run yet: {', '.join(sorted(waiting))}")
    return "\n".join(lines)
