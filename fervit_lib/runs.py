"""Run directories: `reports/<experiment>/<step>/<variant>/` with its config, metrics, result and checkpoints."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from fervit_lib.system import distributed
from fervit_lib.system.atomic import read_json, remove_partial_writes, write_json
from fervit_lib.system.errors import explain_write_error
from fervit_lib.system.locks import holder, try_lock
from fervit_lib.system.names import check_name
from fervit_lib.system.runtime import PROJECT_ROOT, display_path

REPORTED_PACKAGES = ("torch", "torchvision", "timm", "fastai", "numpy", "papermill", "plotly")


@dataclass(frozen=True)
class Run:
    """One run directory."""

    reports: Path
    experiment: str
    step: str
    variant: str
    lock: IO[str] | None = field(
        default=None, repr=False, compare=False
    )  # of who works on it, until its result

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"lock": None}  # which is its process's own

    @property
    def folder(self) -> Path:
        return self.reports / self.experiment / self.step / self.variant

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.safetensors"

    @property
    def last_checkpoint(self) -> Path:
        """The state of a fit after its last epoch, for an exact resume."""
        return self.folder / "checkpoints" / "last.safetensors"

    @property
    def result(self) -> dict[str, Any]:
        """What the run's notebook wrote last; FileNotFoundError where it has not ended."""
        return read_json(self.folder / "result.json")

    @property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json")

    def write_result(self, **figures: Any) -> None:
        """Write `result.json`: figures of merit and paths for the next notebook. Its presence says: run complete."""
        write_json(self.folder / "result.json", {**figures, "ended": _now()})
        if self.lock:
            self.lock.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(PROJECT_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # a copy without git is no reason to fail a run


def notebook_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The text, numbers and switches in a notebook's `globals()`: its parameters, if called first."""
    kinds = (str, int, float, bool)
    return {
        name: value
        for name, value in namespace.items()
        if name[0] != "_" and isinstance(value, kinds)
    }


@distributed.rank_zero_only
def start_run(
    reports: Path,
    experiment: str,
    step: str,
    variant: str,
    *,
    parameters: Mapping[str, Any],
    seed: int,
    device: str,
    resume: bool = True,
    state_files: str = "checkpoints/last.safetensors",
    exclusive: bool = True,
) -> Run:
    """Open a run directory: an older result there is removed, and `config.json` says how this one is made.

    The state that an interrupted fit left there stays; that of a fit which ended, or any without `resume`, is removed.
    The directory is this process's own until the result is written, the process ends, or the run is let go of; the same
    process may open it again.

    Args:
        reports: the folder of all experiments.
        parameters: every parameter of the notebook, as it runs.
        device: what `runtime.describe_device` says.
        state_files: glob pattern of the files and folders in it that hold the state of a fit.
        exclusive: this process alone works on it; False: several may at once.

    Raises:
        RuntimeError: another process works on it, with who that is; nothing is changed.
        OSError: it cannot be written to.
    """
    for argument, name in (("experiment", experiment), ("step", step), ("variant", variant)):
        check_name(argument, name)
    folder = Run(reports, experiment, step, variant).folder
    run = Run(reports, experiment, step, variant, _hold(folder) if exclusive else None)
    if not resume or (folder / "result.json").exists():
        for left in folder.glob(state_files):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (folder / "result.json").unlink(missing_ok=True)  # an interrupted run must not look complete
    remove_partial_writes(folder)
    versions = {name: importlib.metadata.version(name) for name in REPORTED_PACKAGES}
    config = {
        "step": step,
        "experiment": experiment,
        "variant": variant,
        "parameters": dict(parameters),
        "seed": seed,
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), **versions},
        "device": device,
        "started": _now(),
    }
    write_json(folder / "config.json", config)
    return run


_held: WeakValueDictionary[Path, IO[str]] = (
    WeakValueDictionary()
)  # the locks of this process's runs


def _hold(folder: Path) -> IO[str]:
    """The lock of a run directory: this process's where it has it already, for instance as a cell is run again."""
    path = folder.resolve() / ".lock"
    own = _held.get(path)
    if own is None or own.closed:
        with explain_write_error(path):
            own = try_lock(path)
        if own is None:
            raise RuntimeError(
                f"{display_path(folder)}: {holder(path)} works on this run, expected nobody; wait until it has ended, "
                f"or end it (of a notebook by hand: shut down its kernel), or give this run another variant"
            )
        _held[path] = own
    return own


def completed_runs(reports: Path, experiment: str, step: str) -> list[Run]:
    """The runs of one step that ended with a result, by variant name."""
    folder = reports / experiment / step
    return [
        Run(reports, experiment, step, path.parent.name)
        for path in sorted(folder.glob("*/result.json"))
    ]
