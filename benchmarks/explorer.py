"""How fast the attention explorer answers on a CPU, and whether looking at many faces costs memory.

    .venv/bin/python benchmarks/explorer.py [--answers 30]

An answer is everything between a click on a layer's button and the figures' new numbers: the code without that layer,
the prediction, the attention, for each of two runs side by side. The browser's drawing comes on top.
"""

import argparse
import time

import numpy as np
import psutil
import torch

from fervit_lib import explain, models
from fervit_lib.notebook import explorer

SIZES = {
    "demo's scratch (3 blocks of 192)": {"embed_dim": 192, "depth": 3, "num_heads": 3},
    "default (6 blocks of 512)": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=30)
    answers = parser.parse_args().answers
    codes, labels = torch.randn(answers, 18, 512), np.arange(answers) % 7
    for name, options in SIZES.items():
        model = models.create_model("scratch", **options).eval()
        shared = (
            tuple("abcdefg"),
            codes,
            labels,
            torch.zeros(18, 512),
            None,
            np.arange(answers),
            None,
        )
        one = explain.ExaminedRun("one", model, *shared)
        for subjects in ([one], [one, explain.ExaminedRun("two", model, *shared)]):
            controls = explorer.Explorer(subjects, range(answers))
            seconds = []
            for answer in range(answers):
                started = time.perf_counter()
                controls.layers[answer % 18].value ^= True
                seconds.append(time.perf_counter() - started)
            print(
                f"{name}, {len(subjects)} run(s): median {1e3 * np.median(seconds):.0f} ms, "
                f"worst {1e3 * max(seconds):.0f} ms"
            )
        started = psutil.Process().memory_info().rss
        for _ in range(10):
            for face in range(answers):
                controls.face.value = face
        grown = (psutil.Process().memory_info().rss - started) / 2**20
        print(f"{name}: memory after {10 * answers} faces {grown:+.0f} MB")


if __name__ == "__main__":
    main()
