"""`python -m fervit_lib.report index|run`: the index or one step of an experiment."""

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from fervit_lib.report import warm
from fervit_lib.report.failures import PAGE, describe_failure


def main(arguments: list[str] | None = None) -> int:
    """Execute the command in this process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fervit_lib.report", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="write index.html of an experiment")
    index.add_argument("experiment_dir", type=Path)
    index.add_argument(
        "--config", type=Path, nargs="?", help="its configuration, which is copied beside the index"
    )
    run = commands.add_parser("run", help="execute a notebook into a folder and write its page")
    run.add_argument("--gpus", type=int, default=0, help="free GPUs to reserve (default: none)")
    run.add_argument(
        "--launch", action="store_true", help="with several GPUs: one process for each, by torchrun"
    )
    run.add_argument("notebook", type=Path)
    run.add_argument("folder", type=Path)
    run.add_argument("parameters", type=json.loads, help="as JSON")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            from fervit_lib.report.run import reserve_gpus

            with reserve_gpus(options.gpus):
                return _run(options)
        from fervit_lib.report.index import write_index

        write_index(options.experiment_dir, options.config)
    except (ValueError, OSError) as error:  # a name that is no parameter, or a full disk
        from fervit_lib.system.errors import explain_system_error

        sys.exit(str(explain_system_error(error, "")))
    return 0


def _run(options: argparse.Namespace) -> int:
    from fervit_lib.report.run import run_notebook
    from fervit_lib.system import distributed

    if options.launch and options.gpus > 1:
        from torch.distributed.run import main as torchrun

        # In this process, so that whatever ends the launch releases its GPUs, too.
        command = ["--standalone", "--nproc-per-node", str(options.gpus), "-m", "fervit_lib.report"]
        step = [str(options.notebook), str(options.folder), json.dumps(options.parameters)]
        torchrun([*command, "run", *step])
        return 0
    if not run_notebook(options.notebook, options.folder, options.parameters):
        if distributed.rank() == 0:  # it describes the failure for all
            page = options.folder / PAGE
            message = f"{options.folder} {describe_failure(options.folder)}\n  See {page}"
            print(message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ[warm.STARTED] = datetime.now(UTC).isoformat()
    code = warm.request(sys.argv[1:])
    sys.exit(main() if code is None else code)
