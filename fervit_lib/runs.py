"""Run directories: `reports/<experiment>/<step>/<variant>/`."""

import ast
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from fervit_lib.system import distributed
from fervit_lib.system.atomic import json_default, read_json, remove_partial_writes, write_json
from fervit_lib.system.errors import explain_in_ipython, explain_read_error
from fervit_lib.system.locks import lock_holder, try_lock
from fervit_lib.system.names import TYPES, check_name, check_value, near, show
from fervit_lib.system.private import hide_paths
from fervit_lib.system.runtime import display_path

SCRATCHPAD = "scratchpad"  # an experiment, or a run, that may always be replaced
# Parameters that name a run, or how it is started, and do not change what it computes.
NO_EFFECT = ("experiment", "variant", "reports", "data_dir", "resume", "overwrite", "interactive")
REPORTED_PACKAGES = ("torch", "torchvision", "timm", "fastai", "numpy", "papermill", "plotly")


@dataclass(frozen=True)
class Run:
    """One run directory, with its config, metrics, result and checkpoints.

    Attributes:
        lock: held by the process that works on the run, until it writes the result.
        trust_code: the reader allows to run code that is saved with the run's model.
    """

    reports: Path
    experiment: str
    step: str
    variant: str
    lock: FileLock | None = field(default=None, repr=False, compare=False)
    trust_code: bool = field(default=False, repr=False, compare=False)

    def __getstate__(self) -> dict:
        return vars(self) | {"lock": None}  # a lock belongs to its process

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
    def result(self) -> dict:
        """Content of `result.json`. Raises FileNotFoundError if the run is not complete."""
        return read_json(self.folder / "result.json")

    @property
    def config(self) -> dict:
        """Content of `config.json`."""
        return read_json(self.folder / "config.json")

    def write_result(self, **figures: Any) -> None:
        """Write `result.json`, which marks the run as complete, and release the run's lock.

        Args:
            figures: figures of merit and paths for the next notebook.
        """
        shared = json.loads(
            hide_paths(json.dumps(figures, default=json_default, ensure_ascii=False))
        )
        write_json(self.folder / "result.json", {**shared, "ended": _now()})
        if self.lock:
            self.lock.release(force=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str | None:
    # Of the code, which may belong to another user.
    command = ["git", "-c", "safe.directory=*", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # the project also runs from a copy without git


def notebook_parameters(namespace: Mapping) -> dict:
    """The parameters of a notebook in its `globals()`: the variables with a type annotation.

    Variables of later cells are none, so running all cells twice gives the same parameters. From
    here on, errors of memory and disk name the parameter to change.

    Raises:
        ValueError: a value has another type than annotated, as the text "false" that papermill
            makes of `-p flag false`; or papermill passed a name that the notebook does not have.
    """
    kinds = {
        name: kind.__name__ if isinstance(kind, type) else "Optional[bool]"
        for name, kind in namespace["__annotations__"].items()
    }
    parameters = {name: namespace[name] for name, kind in kinds.items() if kind in TYPES}
    if "get_ipython" in namespace:
        explain_in_ipython(namespace["get_ipython"](), " ".join(parameters))
    for name, value in parameters.items():
        check_value(name, value, kinds[name])
    for name in {"experiment", "dataset", "variant"} & parameters.keys():
        # An empty experiment or variant stands for a default; `start_run` checks what it becomes.
        if name == "dataset" or parameters[name]:
            check_name(name, parameters[name])
    for cell in namespace.get("In", ()):
        if not cell.startswith("# Parameters\n"):  # the cell that papermill adds
            continue
        for line in ast.parse(cell).body:
            name = ast.unparse(line).partition(" = ")[0]
            if name not in parameters:
                raise ValueError(f"{name}: no parameter of this notebook; {near(name, parameters)}")
    # Paths as others may see them; `resolve` finds the same files.
    return {
        name: hide_paths(value) if isinstance(value, str) else value
        for name, value in parameters.items()
    }


@distributed.rank_zero_only
def start_run(
    reports: Path,
    experiment: str,
    step: str,
    variant: str,
    *,
    parameters: Mapping,
    seed: int,
    device: str,
    codes: Mapping | None = None,
    resume: bool = True,
    overwrite: bool = False,
    state_files: str = "checkpoints/[!b]*.safetensors",
    exclusive: bool = True,
) -> Run:
    """Open a run directory: remove an earlier result and write `config.json`.

    The state of an interrupted fit is kept if `resume`; that of a completed fit is removed. This
    process holds the run's lock until it writes the result, exits or drops the returned object. It
    may open the same run again meanwhile.

    Args:
        reports: folder of all experiments.
        parameters: all parameters of the notebook, with the values of this run.
        device: see `runtime.describe_device`.
        codes: what a model is trained on, see `latents.store_identity`.
        overwrite: replace a finished run of other parameters; that of a scratchpad always is.
        state_files: glob pattern of the files and folders with the state of a fit; by default all
            weights but the best.
        exclusive: hold the run's lock; False: several processes may work on the run.

    Raises:
        RuntimeError: another process works on the run; names it. Nothing is changed.
        ValueError: a name cannot be the name of a folder, is a link to a folder elsewhere, or is
            that of a finished run of other parameters.
        OSError: the run directory is not writable.
    """
    for argument, name in (("experiment", experiment), ("step", step), ("variant", variant)):
        check_name(argument, name)
    folder = Run(reports, experiment, step, variant).folder
    if not folder.resolve().is_relative_to(reports.resolve()):
        raise ValueError(
            f"{folder}: expected a folder in {reports}, got a link to {folder.resolve()}; remove "
            f"the link"
        )
    is_complete = (folder / "result.json").exists()
    if is_complete and not overwrite and SCRATCHPAD not in (experiment, variant):
        _check_same(folder, parameters)
    lock = _lock_run(folder) if exclusive else None
    if is_complete or not resume:
        for path in folder.glob(state_files):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    # Without this, an interrupted run would look complete.
    (folder / "result.json").unlink(missing_ok=True)
    remove_partial_writes(folder)
    # By metadata, because importing these packages takes seconds.
    versions = {name: importlib.metadata.version(name) for name in REPORTED_PACKAGES}
    config = {
        "step": step,
        "experiment": experiment,
        "variant": variant,
        "parameters": dict(parameters),
        "codes": dict(codes or {}),
        "seed": seed,
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), **versions},
        "device": device,
        "started": _now(),
    }
    write_json(folder / "config.json", config)
    return Run(reports, experiment, step, variant, lock)


def _check_same(folder: Path, parameters: Mapping) -> None:
    config = folder / "config.json"
    remedy = "replace the run by overwrite=True"
    with explain_read_error(config, "not readable beside the result of a finished run", remedy):
        finished = dict(read_json(config)["parameters"])
    for name in sorted((set(finished) | set(parameters)) - set(NO_EFFECT)):
        if finished.get(name) != parameters.get(name):
            raise ValueError(
                f"{display_path(folder)}: a finished run with {name}="
                f"{show(finished.get(name))}; {show(parameters.get(name))} would replace it. "
                f"Choose another variant or experiment, or replace it by overwrite=True"
            )


def _lock_run(folder: Path) -> FileLock:
    path = folder / ".lock"
    # A singleton, because a cell that is run again must get the lock that its process holds.
    lock = try_lock(path, is_singleton=True)
    if lock is None:
        raise RuntimeError(
            f"{display_path(folder)}: {lock_holder(path)} works on this run; wait until it ends, "
            f"stop it (for a notebook: shut down its kernel), or choose another variant"
        )
    return lock
