"""One step of an experiment: reserve GPUs, execute a notebook, write its page, explain failures."""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from fervit_lib.report.page import find_failure, write_page
from fervit_lib.system import distributed
from fervit_lib.system.locks import try_lock

LOG = "log.txt"
NOTEBOOK = "notebook.ipynb"
PAGE = "notebook.html"
# Seconds that another process of a launch waits after an error: the same error may end the first
# process, whose page is kept, and the launcher kills all processes as soon as one ends.
GRACE = 10.0


def run_notebook(notebook: Path, folder: Path, parameters: Mapping[str, Any]) -> bool:
    """Execute `notebook` with papermill into `folder` and write its page, even if a cell fails.

    What papermill and the kernel write to stderr goes to `log.txt` in the folder. In a launch of
    several processes each of them executes the notebook; the first one's is kept.

    Returns:
        whether the notebook ran to its end; if not, see `describe_failure`.
    """
    import papermill  # slow to import

    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / NOTEBOOK
    succeeded = True
    if distributed.rank():
        executed = Path(os.devnull)
    else:
        executed.unlink(missing_ok=True)  # it may show an earlier failure
        # Emptied rather than removed: another process of the launch may have opened it already.
        (folder / LOG).write_text("")
    with _stderr_to(folder / LOG) as log:
        try:
            papermill.execute_notebook(
                notebook, executed, parameters, kernel_name="python3", progress_bar=False
            )
        except Exception:
            succeeded = False
            traceback.print_exc(file=log)
            if distributed.rank():
                time.sleep(GRACE)
        if executed.is_file():
            write_page(executed, folder / PAGE)
    return succeeded


@contextmanager
def _stderr_to(path: Path) -> Iterator[TextIO]:
    """Redirect stderr of this process, and of those that it starts, to the end of a file."""
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with path.open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 2)
            yield log
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)


@contextmanager
def reserve_gpus(count: int) -> Iterator[None]:
    """Reserve `count` GPUs of this machine; processes that are started within see only these.

    A GPU is free if no other step of this user has reserved it. The locks are files in the user's
    cache folder (`$XDG_CACHE_HOME/fervit/gpus`, by default under ~/.cache), and the operating
    system releases them when this process ends, even if it is killed. Nothing is reserved if
    CUDA_VISIBLE_DEVICES is set, as a scheduler sets it, or if fewer than `count` GPUs are free:
    then the step sees all GPUs.
    """
    use_all = count == 0 or "CUDA_VISIBLE_DEVICES" in os.environ
    gpus = [] if use_all else list_gpus()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    reserved: list[str] = []
    with ExitStack() as locks:
        for gpu in gpus:
            file = cache / "fervit" / "gpus" / f"{gpu}.lock"
            # A home folder may be shared by machines: the ID of a GPU is unique among them.
            if lock := try_lock(file):
                locks.callback(lock.release)
                reserved.append(gpu)
            if len(reserved) == count:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(reserved)
                locks.callback(os.environ.pop, "CUDA_VISIBLE_DEVICES")
                break
        yield


def list_gpus() -> list[str]:
    """The IDs of this machine's NVIDIA GPUs, such as GPU-1a2b…; this does not initialize CUDA."""
    try:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):  # no driver, or no GPU
        return []


def describe_failure(folder: Path) -> str:
    """In which cell a step failed, and why; one line or a few."""
    executed = folder / NOTEBOOK
    with suppress(ValueError):  # papermill was killed while it wrote the file
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
