"""papermill in every process of a launch: one notebook and one run, on several GPUs or machines.

    accelerate launch --num_processes 4 -m fervit_lib.papermill notebooks/02_train.ipynb out.ipynb -p approach scratch

Every process executes the notebook in a kernel of its own; what the first one's shows is kept. See `ranks`.
"""

import os
import sys

from papermill.__main__ import papermill

from fervit_lib import ranks


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1].startswith("-") or sys.argv[2].startswith("-"):
        raise SystemExit("expected: fervit_lib.papermill <notebook> <output> [options of papermill]")
    if ranks.index() > 0:
        sys.argv[2] = os.devnull
    papermill()


if __name__ == "__main__":
    main()
