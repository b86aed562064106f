"""`python -m fervit_lib.report page|index|run`: a page of a notebook, the index of an experiment, a step of one."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fervit_lib.report.index import write_index
from fervit_lib.report.page import write_page
from fervit_lib.report.run import PAGE, describe_failure, run_notebook
from fervit_lib.system import distributed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fervit_lib.report", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="an executed notebook as one HTML page")
    page.add_argument("notebook", type=Path)
    page.add_argument("page", type=Path)
    index = commands.add_parser("index", help="index.html of an experiment")
    index.add_argument("experiment_dir", type=Path)
    index.add_argument(
        "--config", type=Path, nargs="?", help="its configuration, to be kept with it"
    )
    run = commands.add_parser("run", help="execute a notebook into a folder, and make its page")
    run.add_argument("notebook", type=Path)
    run.add_argument("folder", type=Path)
    run.add_argument("parameters", type=json.loads, help="as JSON")
    options = parser.parse_args(arguments)
    if options.command == "page":
        write_page(options.notebook, options.page)
    elif options.command == "index":
        write_index(options.experiment_dir, options.config)
    elif not run_notebook(options.notebook, options.folder, options.parameters):
        sys.exit(
            1
            if distributed.rank()
            else f"{options.folder} {describe_failure(options.folder)}\n  See {options.folder / PAGE}"
        )


if __name__ == "__main__":
    main()
