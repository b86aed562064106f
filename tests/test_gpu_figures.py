"""`make gpu-figures` on a CPU: it runs through, continues after a kill, and counts right."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from browser import check_page, open_browser
from torch import nn

from fervit_lib.system.runtime import PROJECT_ROOT

BENCHMARKS = PROJECT_ROOT / "benchmarks"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("card")


class TestCost:
    def test_a_forward_pass_reads_weights_and_inputs_and_writes_outputs(
        self, card: ModuleType
    ) -> None:
        layer = nn.Linear(30, 20)
        with torch.no_grad(), card.CountCost(5) as count:
            layer(torch.ones(5, 30))
        inputs, weights, outputs = 5 * 30, 30 * 20 + 20, 5 * 20
        ones = inputs  # `torch.ones` writes them
        assert count.cost.flops == 2 * 30 * 20
        assert count.cost.bytes == 4 * (ones + inputs + weights + outputs) / 5

    def test_a_training_step_computes_three_times_as_much(self, card: ModuleType) -> None:
        inputs = torch.ones(5, 30, requires_grad=True)
        layer = nn.Linear(30, 20, bias=False)
        with card.CountCost(5) as count:
            layer(inputs).sum().backward()
        assert count.cost.flops == 3 * 2 * 30 * 20

    @pytest.mark.parametrize("groups", [1, 16])
    def test_so_does_one_of_a_convolution_in_groups(self, card: ModuleType, groups: int) -> None:
        conv = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        images = torch.ones(2, 16, 8, 8, requires_grad=True)
        with card.CountCost(2) as count:
            conv(images).sum().backward()
        assert count.cost.flops == 3 * 2 * 8 * 8 * 16 * 9 * 16 / groups

    def test_a_fused_optimiser_reads_and_writes_its_state(self, card: ModuleType) -> None:
        weight = nn.Parameter(torch.ones(1000))
        optimiser = torch.optim.AdamW([weight], fused=True)
        weight.grad = torch.ones(1000)
        optimiser.step()
        with card.CountCost(1) as count:
            optimiser.step()
        # Weight, gradient and two moments are read; all but the gradient are written.
        assert 4 * 7000 <= count.cost.bytes < 4 * 8100

    def test_views_and_empty_tensors_move_nothing(self, card: ModuleType) -> None:
        x = torch.ones(4, 6)
        with card.CountCost(1) as count:
            x.t().reshape(6, 2, 2)[0].expand(3, 2, 2)
            torch.empty(100), torch.empty_like(x)
        assert count.cost.bytes == 0

    def test_attention_is_two_products(self, card: ModuleType) -> None:
        query = torch.ones(2, 4, 8, 16)
        with card.CountCost(2) as count:
            F.softmax(query @ query.mT, -1) @ query
        assert count.cost.flops == 2 * 2 * 4 * 8 * 8 * 16

    def test_the_limit_is_the_longer_time(self, card: ModuleType) -> None:
        device = card.Card(flops={"bf16": 100.0}, bandwidth=10.0)
        assert card.Cost(flops=300.0, bytes=20.0).least_seconds(device, "bf16") == (3.0, 2.0)


@dataclass(frozen=True)
class Calls:
    """`make gpu-figures`, killed after its first figures, then called twice more."""

    folder: Path
    killed: dict[str, Any]  # figures.json after each call
    finished: dict[str, Any]
    again: dict[str, Any]
    printed_again: str


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu_figures.py")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(
        [*command, "--folder", str(folder)],
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.launched
class TestCalls:
    @pytest.fixture(scope="class")
    def calls(self, tmp_path_factory: pytest.TempPathFactory) -> Calls:
        folder = tmp_path_factory.mktemp("gpu")
        process = start(folder)
        end = time.monotonic() + 240
        while not (folder / "index.html").is_file():
            assert process.poll() is None and time.monotonic() < end, "no figure was written"
            time.sleep(0.05)
        process.kill()
        process.communicate()
        contents = [read(folder)]
        for _ in range(2):
            process = start(folder)
            printed, _ = process.communicate()
            assert process.returncode == 0, read(folder)["missing"]
            contents.append(read(folder))
        return Calls(folder, *contents, printed)

    def test_what_was_measured_before_a_kill_is_kept(self, calls: Calls) -> None:
        assert 1 <= len(calls.killed["figures"]) < len(calls.finished["figures"])
        for name, row in calls.killed["figures"].items():
            assert calls.finished["figures"][name] == row

    def test_a_call_after_the_last_figure_measures_nothing(self, calls: Calls) -> None:
        assert calls.again == calls.finished
        assert " of the limit by " not in calls.printed_again

    def test_every_kind_of_figure_has_a_value_and_a_limit(self, calls: Calls) -> None:
        rows = calls.finished["figures"].values()
        assert calls.finished["missing"] == {}
        assert {row["group"] for row in rows} == {"encode", "train", "distil", "latency"}
        for row in rows:
            assert min(row["value"], row["limit"], row["gflop"], row["megabytes"]) > 0
            share = max(row["of_peak"], row["of_bandwidth"])
            ratio = row["value"] / row["limit"]
            assert share == pytest.approx(1 / ratio if row["unit"] == "ms" else ratio)

    @pytest.mark.browser
    def test_the_page_says_that_these_are_no_figures_of_a_gpu(
        self, calls: Calls, tmp_path: Path
    ) -> None:
        assert not calls.finished["is_gpu"]
        with open_browser(tmp_path) as page:
            check_page(page, calls.folder / "index.html")
            banner = page.evaluate("document.querySelector('.synthetic').innerText")
            rows = page.evaluate("document.querySelectorAll('tbody tr').length")
        assert "no figures of a GPU" in banner
        assert rows == len(calls.finished["figures"])
