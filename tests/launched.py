"""Several processes of one launch, as users start them."""

import os
import subprocess
import sys
from pathlib import Path

from fervit_lib.runtime import PROJECT_ROOT


def launch(*arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` on this machine's cores, `gloo` between them; arguments: a script or `-m` and a module."""
    quiet = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    return subprocess.run(
        [*command, *quiet, *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
    )
