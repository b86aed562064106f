"""Start several processes as users do."""

import os
import subprocess
import sys
from pathlib import Path

from fervit_lib.system.runtime import PROJECT_ROOT

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--main_process_port",
    "0",
)


def launch(
    *arguments: str | Path, by: tuple[str, ...] = TORCHRUN
) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m` and a module, in two processes on the CPU, connected by gloo."""
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *by, *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env=os.environ | environment | {"PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
    )
