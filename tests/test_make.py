"""`make run` where the project, or the configuration, has a path that a shell would split."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fervit_lib.system.runtime import PROJECT_ROOT
from tests.tiny import write_config

FOLDERS = ["plain", "my project", "表情 プロジェクト", "it's $HOME & more"]


@pytest.fixture(params=FOLDERS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The Makefile in a folder of that name, with a Snakemake that notes how it is called."""
    folder = tmp_path / request.param
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "Makefile", folder)
    for file in ("requirements.lock", "pyproject.toml", ".venv/installed"):
        (folder / file).touch()
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    snakemake = folder / ".venv" / "bin" / "snakemake"
    snakemake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > called\n[ ! -f fail ]\n')
    snakemake.chmod(0o755)
    (folder / "configs").mkdir()
    return folder


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=project, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["mine", "my exp", "実験 1", 'a\'b "c" & (d)'])
def test_a_configuration_of_any_name_is_run(project: Path, name: str) -> None:
    config = f"configs/{name}.yaml"
    (project / config).write_text("experiment: mine\n")
    done = make(project, "run", f"CONFIG={config}")
    assert done.returncode == 0, done.stderr
    called = (project / "called").read_text().splitlines()
    assert called[called.index("--configfile") + 1] == config
    files = {path.name for path in (project / ".snakemake").iterdir()}
    assert files == {f"{name}.yaml.lock", f"{name}.yaml.log"}
    (project / "fail").touch()
    failed = make(project, "run", f"CONFIG={config}")
    assert failed.returncode != 0
    again = next(line for line in failed.stdout.splitlines() if "make run" in line)
    assert shlex.split(again.split("with: ")[1]) == ["make", "run", f"CONFIG={config}"]


def test_a_missing_configuration_is_named(project: Path) -> None:
    done = make(project, "run", "CONFIG=configs/no such.yaml")
    assert done.returncode != 0
    assert "configs/no such.yaml" in done.stdout
    assert not (project / "called").exists()


@pytest.mark.slow
def test_snakemakes_commands_start_a_python_in_any_folder(tmp_path: Path) -> None:
    environment = tmp_path / "表情 プロジェクト" / ".venv"
    environment.mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != "bin":
            (environment / path.name).symlink_to(path)
    (environment / "bin").mkdir()
    python = environment / "bin" / "python"
    python.symlink_to(sys.executable)
    config = write_config(tmp_path)
    done = subprocess.run(
        [python, "-m", "snakemake", "--cores", "1", "--nolock", "--dry-run"]
        + ["--configfile", config, "--forceall", "--printshellcmds"],
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [line for line in done.stdout.splitlines() if "-m fervit_lib.report" in line]
    assert commands
    assert all(str(python) in shlex.split(command) for command in commands)
