"""One step of an experiment: reserve GPUs, execute a notebook and write its page."""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from fervit_lib.report.failures import LOG, NOTEBOOK, PAGE
from fervit_lib.report.page import write_page
from fervit_lib.report.warm import STARTED, list_gpus
from fervit_lib.system import distributed
from fervit_lib.system.atomic import write_text
from fervit_lib.system.locks import try_lock
from fervit_lib.system.names import near, show
from fervit_lib.system.private import hide_machine

# Seconds that a process of a launch waits after an error: an error of one ends the others, too, and
# the launcher kills all as soon as one ends. By then each has written its error, and the first its
# page.
GRACE = 10.0


def run_notebook(notebook: Path, folder: Path, parameters: Mapping) -> bool:
    """Execute `notebook` with papermill into `folder` and write its page, even if a cell fails.

    What papermill and the kernel write to stderr goes to `log.txt` in the folder. The
    notebook's metadata has, under `fervit`, when the command was started and the seconds that the
    page took. In a launch of several processes each of them executes the notebook; the first
    one's is kept.

    Returns:
        whether the notebook ran to its end; if not, see `failures.describe_failure`.

    Raises:
        ValueError: the notebook has no such parameter.
    """
    import papermill  # slow to import

    from fervit_lib.report.kernel import ENGINE, KernelManager

    # papermill writes names as code.
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ValueError(f"{show(name)}: no parameter of {notebook}; {near(name, known)}")
    started = os.environ.get(STARTED, datetime.now(UTC).isoformat())
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
                notebook,
                executed,
                parameters,
                engine_name=ENGINE,
                kernel_name="python3",
                kernel_manager_class=KernelManager,
                progress_bar=False,
            )
        except Exception:
            succeeded = False
            traceback.print_exc(file=log)
        public = notebook.read_text(encoding="utf-8") + f" {folder.parent.name} {folder.name}"
        if executed.is_file():
            page_start = time.perf_counter()
            shared = hide_machine(executed.read_text(encoding="utf-8"), public)
            write_text(executed, shared)
            write_page(executed, folder / PAGE)
            content = json.loads(executed.read_text(encoding="utf-8"))
            content["metadata"]["fervit"] = {
                "started": started,
                "page_seconds": time.perf_counter() - page_start,
            }
            # Not write_json, which waits for the other processes of a launch.
            write_text(executed, json.dumps(content))
            log.flush()
            text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
            (folder / LOG).write_text(hide_machine(text, public), encoding="utf-8")
        if not succeeded and distributed.world_size() > 1:
            log.flush()
            time.sleep(GRACE)
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
    reserved = []
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
