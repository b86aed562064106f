"""The progress bar as it appears on a terminal, and as it does not in a log."""

import os
import re
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback

from fervit_lib import models, training
from fervit_lib.system.progress import progress
from tests.faults.notebooks import FORK


def output_of(work: Callable[[], None], is_terminal: bool = True) -> str:
    """What `work`, in a process of its own, writes to its output: a terminal, or a file."""
    leader, follower = os.openpty() if is_terminal else os.pipe()
    if is_terminal:
        termios.tcsetwinsize(leader, (24, 200))

    def begin() -> None:
        os.close(leader)
        # Pytest may have captured both without a file descriptor.
        sys.stdout = sys.stderr = os.fdopen(follower, "w", buffering=1)
        torch.set_num_threads(1)
        work()

    process = FORK.Process(target=begin)
    process.start()
    os.close(follower)
    output = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # how a terminal ends
            break
        if not part:
            break
        output += part
    process.join()
    os.close(leader)
    return output.decode()


BAR = r"read: +\d+%\|.*?\| \d+/40 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ faces/s\]"


@pytest.mark.parametrize(
    ("seconds", "is_terminal", "is_shown"),
    [(0.06, True, True), (0.0, True, False), (0.06, False, False)],
    ids=["slow", "quick", "log file"],
)
def test_a_slow_loop_has_a_bar_with_rate_and_time_left(
    seconds: float, is_terminal: bool, is_shown: bool
) -> None:
    def loop() -> None:
        for _ in progress(range(40), desc="read", unit=" faces"):
            time.sleep(seconds)

    assert bool(re.search(BAR, output_of(loop, is_terminal))) == is_shown


class Slow(Callback):
    def __init__(self, interrupt_at: int | None) -> None:
        self.interrupt_at = interrupt_at

    def after_batch(self) -> None:
        time.sleep(0.1)
        if self.epoch == self.interrupt_at:
            raise KeyboardInterrupt


def test_a_resumed_fit_resumes_its_bar(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"train": 64, "val": 16, "test": 16})

    def fit(interrupt_at: int | None = None) -> None:
        model = models.create_model("scratch", 3, embed_dim=16, depth=1, num_heads=2)
        dls = training.face_dls(model, store, batch_size=8, device=torch.device("cpu"))
        strategy = training.get_strategy("full")
        learn = training.build_learner(
            model, dls, strategy, folder=tmp_path / "run", cbs=[Slow(interrupt_at)]
        )
        state = tmp_path / "run" / "last.safetensors"
        training.fit(learn, strategy, epochs=3, lr=1e-3, state=state)

    first = output_of(lambda: fit(interrupt_at=1))
    assert "KeyboardInterrupt" in first and "epoch 1 of 3: train_loss" in first
    second = output_of(fit)
    percentages = [int(percentage) for percentage in re.findall(r"train: +(\d+)%", second)]
    assert percentages == sorted(percentages)
    assert percentages[0] >= 33 and percentages[-1] == 100
    assert "192/192" in second and "epoch 3 of 3: train_loss" in second and " faces/s" in second
