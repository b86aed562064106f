"""A page with the network off, and the explorer in JupyterLab, in a real browser."""

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
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fervit_lib.figures.explain import plot_attention
from fervit_lib.report.page import write_page
from fervit_lib.system.runtime import PROJECT_ROOT
from tests.browser import CHROMIUM, check_page, open_browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

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
codes = torch.randn(4, 18, 512)
faces = (codes, np.arange(4) % 3, torch.zeros(18, 512), None, np.arange(4), None)
Explorer([ExaminedRun("run", model, ("angry", "happy", "sad"), *faces)], range(4))
"""
WHAT_IF = """
from fervit_lib.encoders import Autoencoder
from fervit_lib.notebook.what_if import WhatIf

decoder = Autoencoder(32).eval()
decoder.fit(torch.rand(60, 3, 32, 32))
run = ExaminedRun("run", model, ("angry", "happy", "sad"), *faces)
WhatIf(run, decoder, dict(enumerate(torch.randn(3, 18, 512))), range(4))
"""
# Sum of squares of the last visible heat map; plotly stores its numbers as arrays or typed arrays.
SUM_OF_SQUARES = """(() => {
  const traces = [...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p._fullData || []);
  const maps = traces.filter(t => t.type === 'heatmap' && t.visible === true);
  const values = maps.length && [...maps.at(-1).z].flatMap(row => [...row]);
  return values && values.reduce((sum, v) => sum + v * v, 0)
})()"""
FIRST_X = "document.querySelector('.js-plotly-plot').layout.xaxis.range[0]"


def rail(slider: int) -> str:
    """JavaScript for the part of a plotly slider that can be clicked."""
    group = f"document.querySelectorAll('.slider-group')[{slider}]"
    return f"{group}.querySelector('.slider-rail-touch-rect')"


def test_a_page_works_with_the_network_off(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((2, 3, 2, 19, 19))
    names = ["all faces", "face 1"]
    half_width = np.full(maps.shape[:-1], np.nan)
    figure = json.loads(plot_attention(maps, names, half_width, "run").to_json())
    output = new_output("display_data", {"application/vnd.plotly.v1+json": figure})
    cell = new_code_cell("", outputs=[output], execution_count=1)
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "notebook.ipynb")
    file = write_page(tmp_path / "notebook.ipynb", tmp_path / "notebook.html")
    percent = 100 * np.concatenate([maps.mean(2, keepdims=True), maps], axis=2)

    def wait_for_map(block: int, head: int) -> None:
        expected = (percent[:, block, head] ** 2).sum()
        page.wait_for(f"Math.abs({SUM_OF_SQUARES} - {expected}) < 1000", seconds=10)

    with open_browser(tmp_path / "browser") as page:
        check_page(page, file)
        page.show_as(1366, 768)
        page.open(file.as_uri())
        page.wait_for(SUM_OF_SQUARES)
        wait_for_map(block=0, head=0)
        page.click(rail(0), 0.99)
        wait_for_map(block=2, head=0)
        page.click(rail(1), 0.5)
        wait_for_map(block=2, head=1)
        page.evaluate("document.querySelectorAll('.slider-group')[0].focus()")
        page.press("ArrowLeft", 37)
        wait_for_map(block=1, head=1)
        page.press("ArrowLeft", 37)  # the redraw has not moved the focus
        wait_for_map(block=0, head=1)
        page.evaluate("document.querySelector('.updatemenu-header').focus()")
        page.press("ArrowDown", 40)
        page.wait_for(f"Math.abs({FIRST_X} - 18.5) < 1e-9", seconds=10)


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """Start a JupyterLab on `folder`; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.port={port}",
        "--IdentityProvider.token=",
    ]
    # Not the settings of the person who runs the tests.
    folders = {
        f"JUPYTER_{kind}_DIR": str(folder / f".{kind.lower()}") for kind in ("CONFIG", "RUNTIME")
    }
    environment = os.environ | folders | {"PYTHONPATH": str(PROJECT_ROOT)}
    log = folder / "lab.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        end = time.monotonic() + 60
        while True:
            running = process.poll() is None and time.monotonic() < end
            assert running, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api").close()
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.notebooks
def test_the_explorer_in_jupyterlab_by_keyboard_and_mouse(tmp_path: Path) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(
        cells=[*map(new_code_cell, (EXPLORER, WHAT_IF))], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, tmp_path / "explorer.ipynb")
    with jupyter_lab(tmp_path) as url, open_browser(tmp_path / "browser") as page:
        page.open(f"{url}/lab/tree/explorer.ipynb")
        widget = "window.jupyterapp?.shell.currentWidget"
        page.wait_for(f"{widget}?.sessionContext?.session?.kernel?.status === 'idle'")
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => 1)")
        first = page.wait_for(SUM_OF_SQUARES)
        handle = "document.querySelectorAll('.widget-slider .noUi-handle')[0]"
        page.wait_for(f"!!{handle}")
        page.evaluate(f"{handle}.focus()")
        page.press("ArrowRight", 39)
        page.wait_for(f"Math.abs({SUM_OF_SQUARES} - {first}) > 1e-9", seconds=20)
        second = page.evaluate(SUM_OF_SQUARES)
        page.click("[...document.querySelectorAll('button')].find(b => b.textContent === 'fine')")
        page.wait_for(f"Math.abs({SUM_OF_SQUARES} - {second}) > 1e-9", seconds=20)

        def picture(alt: str) -> str:
            return f"document.querySelector('img[alt=\"{alt}\"]')?.src"

        face = page.wait_for(picture("the face"))
        assert page.evaluate(picture("the changed face")) == face
        sliders = "[...document.querySelectorAll('.widget-slider')]"
        emotion = f"{sliders}.find(slider => slider.innerText.includes('happy'))"
        page.evaluate(f"{emotion}.querySelector('.noUi-handle').focus()")
        page.press("ArrowRight", 39)
        page.wait_for(f"{picture('the changed face')} !== {picture('the face')}", seconds=20)
        assert page.evaluate(picture("the face")) == face
