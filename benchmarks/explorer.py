"""How fast the attention explorer updates on a CPU, and whether browsing many faces leaks memory.

    .venv/bin/python benchmarks/explorer.py [--updates 30]

An update is everything between a click on a layer's button and the new numbers of the figures:
replacing the layer, the prediction and the attention, for one and for two runs. Drawing in the
browser is not included.
"""

import argparse
import time

import numpy as np
import psutil
import torch

from fervit_lib import explain, models
from fervit_lib.notebook import explorer

SIZES = {
    "the demo's scratch (3 blocks, embed_dim 192)": {"embed_dim": 192, "depth": 3, "num_heads": 3},
    "default (6 blocks, embed_dim 512)": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=30)
    num_updates = parser.parse_args().updates
    for name, options in SIZES.items():
        model = models.create_model("scratch", **options).eval()
        runs = [examined_run(run, model, num_updates) for run in ("one", "two")]
        for shown in (runs[:1], runs):
            controls = explorer.Explorer(shown, range(num_updates))
            seconds = []
            for update in range(num_updates):
                started = time.perf_counter()
                controls.layers[update % 18].value ^= True
                seconds.append(time.perf_counter() - started)
            print(
                f"{name}, {len(shown)} run(s): update p50 {1e3 * np.median(seconds):.0f} ms, "
                f"maximum {1e3 * max(seconds):.0f} ms"
            )
        before = psutil.Process().memory_info().rss
        for _ in range(10):
            for face in range(num_updates):
                controls.face.value = face
        growth = (psutil.Process().memory_info().rss - before) / 2**20
        print(f"{name}: memory after {10 * num_updates} faces {growth:+.0f} MB")


def examined_run(name: str, model: torch.nn.Module, num_faces: int) -> explain.ExaminedRun:
    """A run of `model` with random codes."""
    return explain.ExaminedRun(
        name=name,
        model=model,
        classes=tuple("abcdefg"),
        codes=torch.randn(num_faces, 18, 512),
        labels=np.arange(num_faces) % 7,
        mean_code=torch.zeros(18, 512),
        store=None,
        indices=np.arange(num_faces),
        run=None,
    )


if __name__ == "__main__":
    main()
