"""`make lab` starts JupyterLab with its safe defaults: this machine only, with a token."""

import shlex
import subprocess
from pathlib import Path

from fervit_lib.system.runtime import PROJECT_ROOT


def test_make_lab_changes_no_setting_of_jupyter() -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "lab"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    ).stdout
    [command] = [line for line in commands.splitlines() if "jupyter lab" in line]
    program, *arguments = shlex.split(command)
    assert Path(program).name == "jupyter"
    # Jupyter listens on localhost and asks for a token unless an option says otherwise.
    assert arguments == ["lab", "notebooks"]
