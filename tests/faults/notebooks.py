"""A notebook's own cells in a process that is forked from one with every import done: it begins to work at once."""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from fervit_lib.system.runtime import PROJECT_ROOT

FORK = get_context("fork")


def execute(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run `notebooks/<name>.ipynb` in this process, with parameters put in as papermill does, and give its names.

    Raises what a cell raises.
    """
    notebook = load_notebook_node(str(PROJECT_ROOT / "notebooks" / f"{name}.ipynb"))
    notebook = parameterize_notebook(notebook, parameters, kernel_name="python3", language="python")
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.reset()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()
    return shell.user_ns


def fork(log: Path, work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Begin `work(*arguments)` in a process of its own, one thread, what it says at the end of `log`."""

    def begin() -> None:
        file = log.open("a", buffering=1)
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file  # a test may have captured both, without a descriptor
        torch.set_num_threads(1)
        work(*arguments)

    process = FORK.Process(target=begin)
    process.start()
    return process
