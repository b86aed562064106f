"""Run directories: `reports/<experiment>/<step>/<variant>/` with its config, metrics, result and checkpoints."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fervit_lib import ranks
from fervit_lib.files import naming, naming_disk
from fervit_lib.locks import holder, take_lock, try_lock
from fervit_lib.names import check_name
from fervit_lib.runtime import PROJECT_ROOT, display_path

REPORTED_PACKAGES = ("torch", "torchvision", "timm", "fastai", "numpy", "papermill", "plotly")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to; rename it to `path` if the block succeeds, leave `path` as it was if not.

    It lies in a folder of its own beside `path`, for whatever a library writes there; two writers of one file wait for
    each other. The folder that a killed writer leaves goes with the next one's, or by `remove_torn`.

    Raises:
        OSError: the disk is full, or not to be written to.
    """
    folder = path.with_name(f".{path.name}.tmp")
    with naming_disk(path):
        lock = take_lock(folder / "lock")
        try:
            yield folder / path.name
            (folder / path.name).replace(path)
        finally:
            _remove(folder, lock)


def remove_torn(folder: Path) -> None:
    """Remove what killed writers left half written in `folder` and below; nothing that somebody writes now."""
    for place, names, _ in os.walk(folder):  # which does not mind what goes meanwhile
        for name in names:
            if name.startswith(".") and name.endswith(".tmp") and (lock := try_lock(Path(place, name, "lock"))):
                _remove(Path(place, name), lock)


def _remove(folder: Path, lock: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
    with suppress(OSError):  # a network file system keeps the folder of an open file
        folder.rmdir()


def _plain(value: Any) -> Any:
    """Numpy and path values as JSON knows them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a run file cannot hold a {type(value).__name__}: {value!r}")


@ranks.once
def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` whole or not at all."""
    text = json.dumps(content, indent=2, default=_plain, ensure_ascii=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON object, but it does not parse ({error}); make it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(content).__name__}; make it anew")
    return content


@ranks.once
def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and `metadata` (kept as JSON in the header) to a safetensors file, whole or not at all."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"fervit": json.dumps(metadata, default=_plain)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: tensors on the CPU, and metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; run the notebook that writes it first")
    trouble = "expected a safetensors checkpoint written by this project, but it is truncated or something else"
    with naming(path, trouble, "train again, or restore the file"), safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {})["fervit"])
        if not isinstance(metadata, dict):
            raise TypeError(f"its metadata is a {type(metadata).__name__}")
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)


@dataclass(frozen=True)
class Run:
    """One run directory."""

    reports: Path
    experiment: str
    step: str
    variant: str
    lock: IO[str] | None = field(default=None, repr=False, compare=False)  # of who works on it, until its result

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
    return {name: value for name, value in namespace.items() if name[0] != "_" and isinstance(value, kinds)}


@ranks.once
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
    fits: str = "checkpoints/last.safetensors",
    together: bool = False,
) -> Run:
    """Open a run directory: an older result there is removed, and `config.json` says how this one is made.

    The state that an interrupted fit left there stays; that of a fit which ended, or any without `resume`, is removed.
    The directory is this process's own until the result is written, the process ends, or the run is let go of; the same
    process may open it again.

    Args:
        reports: the folder of all experiments.
        parameters: every parameter of the notebook, as it runs.
        device: what `runtime.describe_device` says.
        fits: pattern of files and folders in it that hold the state of a fit.
        together: several processes may work on it at once.

    Raises:
        RuntimeError: another process works on it, with who that is; nothing is changed.
        OSError: it cannot be written to.
    """
    for argument, name in (("experiment", experiment), ("step", step), ("variant", variant)):
        check_name(argument, name)
    folder = Run(reports, experiment, step, variant).folder
    run = Run(reports, experiment, step, variant, None if together else _hold(folder))
    if not resume or (folder / "result.json").exists():
        for left in folder.glob(fits):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (folder / "result.json").unlink(missing_ok=True)  # an interrupted run must not look complete
    remove_torn(folder)
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


_held: WeakValueDictionary[Path, IO[str]] = WeakValueDictionary()  # the locks of this process's runs


def _hold(folder: Path) -> IO[str]:
    """The lock of a run directory: this process's where it has it already, for instance as a cell is run again."""
    path = folder.resolve() / ".lock"
    own = _held.get(path)
    if own is None or own.closed:
        with naming_disk(path):
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
    return [Run(reports, experiment, step, path.parent.name) for path in sorted(folder.glob("*/result.json"))]
