"""Execute a notebook's cells in a forked process: all imports are done already, so it is quick."""

import os
import re
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
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def execute(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run `notebooks/<name>.ipynb` in this process, with parameters injected as papermill does.

    With `<name>+examples`, the Python examples in its text are run, too, each at its place.
    Returns its variables. Raises what a cell raises.
    """
    name, _, examples = name.partition("+")
    notebook = load_notebook_node(str(PROJECT_ROOT / "notebooks" / f"{name}.ipynb"))
    notebook = parameterize_notebook(notebook, parameters, kernel_name="python3", language="python")
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.reset()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()
        for example in EXAMPLE.findall(cell.source) if examples else ():
            shell.run_cell(example, store_history=True).raise_error()
    return shell.user_ns


def fork(log: Path, work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in a process with one thread; its output is appended to `log`."""

    def begin() -> None:
        file = log.open("a", buffering=1)
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        # Pytest may have captured both without a file descriptor.
        sys.stdout = sys.stderr = file
        torch.set_num_threads(1)
        work(*arguments)

    process = FORK.Process(target=begin)
    process.start()
    return process
