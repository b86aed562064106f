"""`python -m fervit_lib.report page|index`: make a page of a notebook, or the index of an experiment."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fervit_lib.report.index import write_index
from fervit_lib.report.page import write_page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fervit_lib.report", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="an executed notebook as one HTML page")
    page.add_argument("notebook", type=Path)
    page.add_argument("page", type=Path)
    index = commands.add_parser("index", help="index.html of an experiment")
    index.add_argument("experiment_dir", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "page":
        write_page(options.notebook, options.page)
    else:
        write_index(options.experiment_dir)


if __name__ == "__main__":
    main()
