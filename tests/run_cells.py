"""Run the code cells of notebooks in one process: its imports take as long as many small notebooks.

`python -m tests.run_cells STEPS` takes a JSON list of [notebook, parameters]; its last line is a
JSON list with the error of each, null where there was none.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fervit_lib.system.runtime import PROJECT_ROOT
from tests.faults.notebooks import execute

Step = tuple[str, Mapping[str, Any]]


def run_cells(steps: Sequence[Step]) -> tuple[list[str | None], str]:
    """Run (notebook, parameters) one after another; their errors, and all that they printed."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.run_cells", json.dumps(steps)]
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed, errors = done.stdout.rstrip().rsplit("\n", 1)
    return json.loads(errors), printed


def main() -> None:
    errors: list[str | None] = []
    for name, parameters in json.loads(sys.argv[1]):
        try:
            execute(name, parameters)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        else:
            errors.append(None)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
