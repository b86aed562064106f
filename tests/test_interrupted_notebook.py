"""A notebook worked on by hand: a cell that is interrupted, and run again."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from safetensors.torch import load_file

from fervit_lib.runs import load_checkpoint
from fervit_lib.runtime import PROJECT_ROOT


async def run_by_hand(notebook: NotebookNode, marker: str, interrupt_when: Callable[[], bool] | None) -> None:
    """Run cell after cell; the one with `marker` is interrupted at a moment, and then run again."""
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True)
    client.create_kernel_manager()
    async with client.async_setup_kernel(cwd=str(PROJECT_ROOT)):
        for index, cell in enumerate(notebook.cells):
            if marker in cell.source and interrupt_when:
                running = asyncio.create_task(client.async_execute_cell(cell, index))
                while not interrupt_when():
                    assert not running.done(), "the cell ended before it was interrupted"
                    await asyncio.sleep(0.01)
                await client.km.interrupt_kernel()
                await running
                assert [o.ename for o in cell.outputs if o.output_type == "error"] == ["KeyboardInterrupt"]
            await client.async_execute_cell(cell, index)
            errors = [o for o in cell.get("outputs", []) if o.output_type == "error"]
            assert not errors, errors[0].evalue


def read_parameters(name: str, **parameters: object) -> NotebookNode:
    return parameterize_notebook(load_notebook_node(str(PROJECT_ROOT / "notebooks" / f"{name}.ipynb")), parameters)


def last_epoch(state: Path) -> int:
    return load_checkpoint(state)[1]["epoch"] if state.is_file() else -2


@pytest.mark.notebooks
def test_an_interrupted_training_cell_run_again_ends_like_one_that_was_not(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store", {"train": 900, "val": 30, "test": 30}, noise=4.0)
    small = {"embed_dim": 64, "depth": 2, "num_heads": 2, "epochs": 3, "batch_size": 16, "mixup": 0.4, "ema": 0.9}
    told = {"latents": str(store), "reports": str(tmp_path), "lr": 1e-3} | small
    weights = {}
    for name, over in (("whole", None), ("at_once", -1), ("later", 0)):
        folder = tmp_path / "demo" / "train" / name
        state = folder / "checkpoints" / "last.safetensors"

        def begun(state: Path = state, over: int | None = over) -> bool:
            """Whether a moment has passed since the end of that epoch."""
            return over is not None and last_epoch(state) >= over and time.time() > state.stat().st_mtime + 0.15

        notebook = read_parameters("02_train", variant=name, **told)
        asyncio.run(run_by_hand(notebook, "training.fit(", None if over is None else begun))
        assert (folder / "result.json").is_file()
        assert len((folder / "metrics.csv").read_text().splitlines()) == 4
        weights[name] = load_file(folder / "checkpoints" / "best.safetensors")
    for name in ("at_once", "later"):
        assert all(torch.equal(weights["whole"][key], weights[name][key]) for key in weights["whole"]), name
