"""A notebook used interactively: its training cell is interrupted and run again."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from fervit_lib.system.runtime import PROJECT_ROOT


def errors(cell: NotebookNode) -> list[str]:
    return [output.ename for output in cell.get("outputs", []) if output.output_type == "error"]


async def run_interactively(
    notebook: NotebookNode, marker: str, interrupt_when: Callable[[], bool]
) -> None:
    """Run all cells; the one with `marker` is interrupted, as in Jupyter, and run again."""
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=True)
    async with client.async_setup_kernel(cwd=str(PROJECT_ROOT)):
        for index, cell in enumerate(notebook.cells):
            if marker in cell.source:
                running = asyncio.create_task(client.async_execute_cell(cell, index))
                while not interrupt_when():
                    assert not running.done(), (
                        f"the cell ended before it was interrupted: {cell.outputs}"
                    )
                    await asyncio.sleep(0.05)
                await client.km.interrupt_kernel()
                await running
                assert errors(cell) == ["KeyboardInterrupt"]
            await client.async_execute_cell(cell, index)
            assert not errors(cell), cell.outputs


@pytest.mark.slow
@pytest.mark.notebooks
@pytest.mark.launched
def test_an_interrupted_training_cell_is_run_again_and_the_rest_after_it(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    """tests/training/test_interrupt.py compares the weights with those of a whole fit."""
    store = make_store(tmp_path / "store")
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mixup": 0.4}
    # Epochs long enough to be interrupted.
    small |= {"epochs": 2, "epoch_faces": 1600, "batch_size": 16}
    parameters = {"latents": str(store), "reports": str(tmp_path), "variant": "interactive"} | small
    notebook = load_notebook_node(str(PROJECT_ROOT / "notebooks" / "02_train.ipynb"))
    folder = tmp_path / "scratchpad" / "train" / "interactive"

    def logged_epochs() -> list[str]:
        metrics = folder / "metrics.csv"
        return (
            [line.split(",")[0] for line in metrics.read_text().splitlines()[1:]]
            if metrics.is_file()
            else []
        )

    cells = run_interactively(
        parameterize_notebook(notebook, parameters),
        "training.fit(",
        lambda: logged_epochs() == ["0"],
    )
    asyncio.run(cells)
    assert (folder / "result.json").is_file()
    assert logged_epochs() == ["0", "1"]
