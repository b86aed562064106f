"""`python -m fervit_lib.sweep configs/sweep.yaml --workers 2`: run a sweep and write its report.

Run the same command again to resume. More processes may join at any time, also on other machines
that share the files.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from fervit_lib.report.failures import describe_failure
from fervit_lib.report.index import write_index
from fervit_lib.report.run import run_notebook
from fervit_lib.runs import Run
from fervit_lib.sweep.config import read_sweep
from fervit_lib.sweep.study import STORAGES
from fervit_lib.sweep.work import run_sweep, train_wandb_trial, work
from fervit_lib.system.runtime import PROJECT_ROOT, display_path, resolve

SWEEP_NOTEBOOK = PROJECT_ROOT / "notebooks" / "06_sweep.ipynb"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fervit_lib.sweep", description=__doc__)
    parser.add_argument("file", type=Path, help="the sweep, in Weights & Biases' format")
    parser.add_argument("--workers", type=int, default=1, help="trials at once (default: 1)")
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), help="folder of all experiments"
    )
    parser.add_argument(
        "--storage",
        choices=STORAGES,
        help="of a new sweep: sqlite (default), or journal for a network file system",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the search (default: 0)")
    parser.add_argument(
        "--worker", action="store_true", help="run trials in this process, without a report"
    )
    parser.add_argument(
        "--trial",
        metavar="JSON",
        type=json.loads,
        help="run one trial with these parameters, for W&B's agent",
    )
    options = parser.parse_args(arguments)
    file = resolve(options.file)
    reports = resolve(options.reports)
    seed = options.seed
    try:
        if options.trial is not None:
            train_wandb_trial(read_sweep(file), options.trial, reports)
        elif options.worker:
            work(read_sweep(file), reports, seed=seed)
        else:
            run_sweep(file, reports, workers=options.workers, storage=options.storage, seed=seed)
            write_report(file, reports)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        sys.exit(f"sweep: {error}")


def write_report(file: Path, reports: Path) -> None:
    """Run 06_sweep over the trials and write the experiment's index.

    Raises:
        RuntimeError: the notebook failed.
    """
    run = Run(reports, read_sweep(file).name, "sweep", "all")
    parameters = {"config": display_path(file), "reports": str(reports)}
    if not run_notebook(SWEEP_NOTEBOOK, run.folder, parameters):
        raise RuntimeError(describe_failure(run.folder))
    write_index(run.folder.parents[1])
    print(f"Report: {display_path(run.folder / 'notebook.html')}\nBest: {run.result['winner']}")


if __name__ == "__main__":
    os.environ.setdefault("WANDB_SILENT", "true")
    main()
