"""The explorer as a person meets it: an exported page with the network off, and JupyterLab."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest

from fervit_lib.figures.explain import plot_attention
from fervit_lib.report import write_page
from fervit_lib.system.runtime import PROJECT_ROOT
from tests.browser import CHROMIUM, open_browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

EXPLORER = """
import numpy as np
import torch

from fervit_lib import figures
from fervit_lib.explain import ExaminedRun
from fervit_lib.notebook.explorer import Explorer
from fervit_lib.models import LatentViT

figures.use_theme()
torch.manual_seed(0)
model = LatentViT(3, embed_dim=32, depth=3, num_heads=2).eval()
arguments = torch.randn(4, 18, 512), np.arange(4) % 3, torch.zeros(18, 512), None, np.arange(4), None
Explorer([ExaminedRun("run", model, ("angry", "happy", "sad"), *arguments)], range(4))
"""
# Sum of squares of the last heat map on the page, whichever way its numbers are held.
SHOWN = """(() => {
  const plots = document.querySelectorAll('.js-plotly-plot');
  const maps = [...plots].flatMap(p => p._fullData || []).filter(t => t.type === 'heatmap' && t.visible === true);
  return maps.length && [...maps.at(-1).z].flatMap(row => [...row]).reduce((sum, v) => sum + v * v, 0)
})()"""

WINDOW = "document.querySelector('.js-plotly-plot').layout.xaxis.range[0]"


def rail(slider: int) -> str:
    """Where one of plotly's sliders can be clicked."""
    return f"document.querySelectorAll('.slider-group')[{slider}].querySelector('.slider-rail-touch-rect')"


def test_an_exported_page_answers_with_the_network_off(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((2, 3, 2, 19, 19))
    figure = json.loads(plot_attention(maps, ["all faces", "face 1"]).to_json())
    output = nbformat.v4.new_output("display_data", {"application/vnd.plotly.v1+json": figure})
    cell = nbformat.v4.new_code_cell("", outputs=[output], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebook.ipynb")
    page_file = write_page(tmp_path / "notebook.ipynb", tmp_path / "notebook.html")
    shown = 100 * np.concatenate([maps.mean(2, keepdims=True), maps], axis=2)  # in percent
    with open_browser(tmp_path / "browser") as page:
        page.go_offline()
        page.open(page_file.as_uri())
        first = page.wait_for(SHOWN)
        assert first == pytest.approx((shown[:, 0, 0] ** 2).sum(), rel=1e-2)
        page.click(rail(0), 0.99)
        page.wait_for(f"Math.abs({SHOWN} - {(shown[:, 2, 0] ** 2).sum()}) < 1000", seconds=10)
        page.click(rail(1), 0.5)
        page.wait_for(f"Math.abs({SHOWN} - {(shown[:, 2, 1] ** 2).sum()}) < 1000", seconds=10)
        page.evaluate("document.querySelectorAll('.slider-group')[0].focus()")
        page.press("ArrowLeft", 37)
        page.wait_for(f"Math.abs({SHOWN} - {(shown[:, 1, 1] ** 2).sum()}) < 1000", seconds=10)
        page.press("ArrowLeft", 37)  # the focus is still there
        page.wait_for(f"Math.abs({SHOWN} - {(shown[:, 0, 1] ** 2).sum()}) < 1000", seconds=10)
        page.evaluate("document.querySelector('.updatemenu-header').focus()")
        page.press("ArrowDown", 40)
        page.wait_for(f"Math.abs({WINDOW} - 18.5) < 1e-9", seconds=10)
        assert all(address.startswith(("file:", "data:", "blob:")) for address in page.requested), (
            page.requested
        )


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A JupyterLab on `folder`, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.port={port}",
        "--IdentityProvider.token=",
    ]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        *options,
    ]
    places = {
        f"JUPYTER_{kind}_DIR": str(folder / f".{kind.lower()}") for kind in ("CONFIG", "RUNTIME")
    }
    environment = os.environ | places | {"PYTHONPATH": str(PROJECT_ROOT)}
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < end, (
                folder / "lab.log"
            ).read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api").close()
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.notebooks
def test_a_slider_in_jupyterlab_changes_the_figure_by_keyboard(tmp_path: Path) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(EXPLORER)], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, tmp_path / "explorer.ipynb")
    with jupyter_lab(tmp_path) as address, open_browser(tmp_path / "browser") as page:
        page.open(f"{address}/lab/tree/explorer.ipynb")
        widget = "window.jupyterapp?.shell.currentWidget"
        page.wait_for(f"{widget}?.sessionContext?.session?.kernel?.status === 'idle'")
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => 1)")
        first = page.wait_for(SHOWN)
        handle = "document.querySelectorAll('.widget-slider .noUi-handle')[0]"
        page.wait_for(f"!!{handle}")
        page.evaluate(f"{handle}.focus()")
        page.press("ArrowRight", 39)
        page.wait_for(f"Math.abs({SHOWN} - {first}) > 1e-9", seconds=20)
        second = page.evaluate(SHOWN)
        button = "[...document.querySelectorAll('button')].find(b => b.textContent === 'fine')"
        page.click(button)
        page.wait_for(f"Math.abs({SHOWN} - {second}) > 1e-9", seconds=20)
