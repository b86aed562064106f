"""A notebook worked on by hand: a training cell that is interrupted, run again, and the cells after it."""

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


async def run_by_hand(
    notebook: NotebookNode, marker: str, interrupt_when: Callable[[], bool]
) -> None:
    """Run cell after cell; the one with `marker` is interrupted at that moment, as by Jupyter's button, and rerun."""
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


@pytest.mark.notebooks
def test_an_interrupted_training_cell_is_run_again_and_the_rest_after_it(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    """That the weights are those of a run that was left alone: see tests/training/test_interrupt.py."""
    store = make_store(tmp_path / "store")
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mixup": 0.4}
    small |= {
        "epochs": 2,
        "epoch_faces": 1600,
        "batch_size": 16,
    }  # epochs long enough to be met half-way
    parameters = {"latents": str(store), "reports": str(tmp_path), "variant": "by_hand"} | small
    notebook = load_notebook_node(str(PROJECT_ROOT / "notebooks" / "02_train.ipynb"))
    folder = tmp_path / "demo" / "train" / "by_hand"

    def epochs_told() -> list[str]:
        metrics = folder / "metrics.csv"
        return (
            [line.split(",")[0] for line in metrics.read_text().splitlines()[1:]]
            if metrics.is_file()
            else []
        )

    by_hand = run_by_hand(
        parameterize_notebook(notebook, parameters), "training.fit(", lambda: epochs_told() == ["0"]
    )
    asyncio.run(by_hand)
    assert (folder / "result.json").is_file()
    assert epochs_told() == ["0", "1"]
