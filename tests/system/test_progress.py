"""The bar as it is seen on a terminal, and as it is not in a log."""

import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from fervit_lib.system.runtime import PROJECT_ROOT

LOOP = """
import sys, time
from fervit_lib.system.progress import progress
for _ in progress(range(40), desc="read", unit=" faces"):
    time.sleep(float(sys.argv[1]))
"""
FIT = """
import sys, time, torch
from pathlib import Path
from fastai.callback.core import Callback
from fervit_lib import models, training
class Slow(Callback):
    def after_batch(self):
        time.sleep(0.1)
        if self.epoch == 1 and len(sys.argv) > 3: raise KeyboardInterrupt
folder = Path(sys.argv[2])
model = models.create_model("scratch", 3, embed_dim=16, depth=1, num_heads=2)
dls = training.face_dls(model, Path(sys.argv[1]), batch_size=8, device=torch.device("cpu"))
plan = training.get_strategy("full")
learn = training.build_learner(model, dls, plan, folder=folder, cbs=[Slow()])
training.fit(learn, plan, epochs=3, lr=1e-3, state=folder / "last.safetensors")
"""


def seen(code: str, *arguments: object, terminal: bool = True) -> str:
    """What a program writes to its error stream, which is a terminal or a file."""
    leader, follower = os.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(leader, (24, 200))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen(command, stderr=follower, env=environment)
    os.close(follower)
    said = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # how a terminal ends
            break
        if not part:
            break
        said += part
    process.wait()
    os.close(leader)
    return said.decode()


BAR = r"read: +\d+%\|.*?\| \d+/40 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ faces/s\]"


@pytest.mark.parametrize(
    ("seconds", "terminal", "shown"), [(0.06, True, True), (0.0, True, False), (0.06, False, False)]
)
def test_what_takes_long_has_a_bar_with_rate_and_time_left(
    seconds: float, terminal: bool, shown: bool
) -> None:
    assert bool(re.search(BAR, seen(LOOP, seconds, terminal=terminal))) == shown


def test_a_fit_has_one_bar_that_goes_on_where_an_interrupted_one_stood(
    make_store, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store", {"train": 64, "val": 16, "test": 16})
    first = seen(FIT, store, tmp_path / "run", "interrupt")
    assert "KeyboardInterrupt" in first and "epoch 1 of 3: train_loss" in first
    second = seen(FIT, store, tmp_path / "run")
    shares = [int(share) for share in re.findall(r"train: +(\d+)%", second)]
    assert shares == sorted(shares) and shares[0] >= 33 and shares[-1] == 100
    assert "192/192" in second and "epoch 3 of 3: train_loss" in second and " faces/s" in second
