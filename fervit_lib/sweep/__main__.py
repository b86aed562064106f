"""`python -m fervit_lib.sweep configs/sweep.yaml --workers 2`: run a sweep, and show what it found.

Run the same command again to go on; more processes, on other machines with the same files too, may join at any time.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fervit_lib.runs import Run
from fervit_lib.sweep.config import read_sweep
from fervit_lib.sweep.study import STORAGES
from fervit_lib.sweep.work import run_notebook, run_sweep, work
from fervit_lib.system.runtime import PROJECT_ROOT, display_path, resolve

SWEEP_NOTEBOOK = PROJECT_ROOT / "notebooks" / "06_sweep.ipynb"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fervit_lib.sweep", description=__doc__)
    parser.add_argument("file", type=Path, help="the sweep, in Weights & Biases' format")
    parser.add_argument("--workers", type=int, default=1, help="trials at once (default: 1)")
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), help="folder of all experiments"
    )
    parser.add_argument(
        "--storage", choices=STORAGES, help="default: sqlite; journal for a network file system"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument(
        "--wandb", action="store_true", help="let Weights & Biases draw the trials (needs a login)"
    )
    parser.add_argument(
        "--worker", action="store_true", help="run trials in this process, and show nothing"
    )
    parser.add_argument(
        "--trial", metavar="JSON", help="run one trial of these parameters, as W&B's agent calls it"
    )
    options = parser.parse_args(arguments)
    file, reports = resolve(options.file), resolve(options.reports)
    try:
        if options.trial or options.wandb:
            from fervit_lib.sweep.wandb_agent import run_agent, wandb_trial  # slow to import

        if options.trial:
            wandb_trial(read_sweep(file), json.loads(options.trial), reports)
        elif options.wandb:
            run_agent(file)
        elif options.worker:
            work(read_sweep(file), reports, seed=options.seed)
        else:
            run_sweep(
                file, reports, workers=options.workers, storage=options.storage, seed=options.seed
            )
            show(file, reports)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        sys.exit(f"sweep: {error}")


def show(file: Path, reports: Path) -> None:
    """Run 06_sweep over the trials, and write the pages."""
    run = Run(reports, read_sweep(file).name, "sweep", "all")
    run_notebook(
        SWEEP_NOTEBOOK, run.folder, {"config": display_path(file), "reports": str(reports)}
    )
    index = [sys.executable, "-m", "fervit_lib.report", "index", str(run.folder.parents[1])]
    subprocess.run(index, cwd=PROJECT_ROOT, check=True)
    print(f"Report: {display_path(run.folder / 'notebook.html')}\nBest: {run.result['winner']}")


if __name__ == "__main__":
    os.environ.setdefault("WANDB_SILENT", "true")
    main()
