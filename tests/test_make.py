"""`make run` where the project, or the configuration, has a path that a shell would split."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fervit_lib.system.runtime import PROJECT_ROOT
from tests.tiny import write_config

FOLDERS = ["plain", "my project", "表情 プロジェクト", "it's $HOME & more"]


@pytest.fixture(params=FOLDERS)
def project(request: pytest.FixtureRequest, make_project: Callable[[str], Path]) -> Path:
    return make_project(request.param)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: write_project(tmp_path / name)


def write_project(folder: Path) -> Path:
    """The Makefile in `folder`, with a Snakemake that notes how it is called."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "Makefile", folder)
    for file in ("requirements.lock", "pyproject.toml", ".venv/installed"):
        (folder / file).touch()
    scripts = {
        "python": f'PYTHONPATH={shlex.quote(str(PROJECT_ROOT))} exec {sys.executable} "$@"',
        "snakemake": """printf "%s\\n" "$@" >> called
            while [ -f wait ]; do sleep 0.1; done
            [ ! -f fail ]""",
    }
    for name, script in scripts.items():
        (folder / ".venv" / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / ".venv" / "bin" / name).chmod(0o755)
    (folder / "configs").mkdir()
    return folder


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=project, capture_output=True, text=True, timeout=60
    )


NAMES = [
    "mine",
    "my exp",
    "実験 1",
    'a\'b "c" & (d)',
    "a;touch ran;#",
    "b$$(touch ran)",
    "c`touch ran`",
]


def content_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_of_any_name_is_run(project: Path, name: str) -> None:
    given = f"configs/{name}.yaml"
    config = given.replace("$$", "$")
    (project / config).write_text("experiment: mine\n")
    done = make(project, "run", f"CONFIG={given}")
    assert done.returncode == 0, done.stderr
    called = (project / "called").read_text().splitlines()
    assert called[called.index("--configfile") + 1] == config
    files = {path.suffix for path in (project / ".snakemake").glob("mine-*")}
    assert files == {".lock", ".log"}
    (project / "fail").touch()
    failed = make(project, "run", f"CONFIG={given}")
    assert failed.returncode != 0
    again = next(line for line in failed.stdout.splitlines() if "make run" in line)
    assert shlex.split(again.split("with: ")[1]) == ["make", "run", f"CONFIG={config}"]
    assert not list(project.rglob("ran"))


@pytest.mark.parametrize("name", ["it's", NAMES[-3], NAMES[-1]])
@pytest.mark.parametrize(
    "content",
    {
        "no YAML": "x: [",
        "a key twice": "experiment: mine\ntrain: {lr: 0.1}\ntrain: {lr: 0.2}\n",
        "no name": "experiment: 12\n",
        "a path as a name": "experiment: ../mine\n",
        "nothing": "",
    }.values(),
)
def test_a_configuration_that_is_no_experiment_is_named(
    make_project: Callable[[str], Path], name: str, content: str
) -> None:
    project = make_project("plain")
    config = f"configs/{name}.yaml".replace("$$", "$")
    (project / config).write_text(content)
    before = content_of(project)
    done = make(project, "run", f"CONFIG=configs/{name}.yaml")
    assert done.returncode != 0
    assert config in done.stdout
    assert content_of(project) - {".snakemake"} == before


@pytest.fixture
def running(make_project: Callable[[str], Path]) -> Iterator[Path]:
    """A project in which `make run` of the experiment `one` waits in Snakemake."""
    project = make_project("plain")
    for name, experiment in {"a": "one", "b": "one", "c": "two"}.items():
        (project / f"{name}.yaml").write_text(f"experiment: {experiment}\n")
    (project / "again").mkdir()
    (project / "again" / "a.yaml").write_text("experiment: two\n")
    (project / "linked").symlink_to("reports")
    (project / "d.yaml").write_text("experiment: one\nreports: linked\n")
    (project / "wait").touch()
    first = subprocess.Popen(["make", "run", "CONFIG=a.yaml"], cwd=project)
    try:
        while not (project / "called").exists():
            assert first.poll() is None
            time.sleep(0.05)
        yield project
    finally:
        (project / "wait").unlink(missing_ok=True)
        assert first.wait() == 0


@pytest.mark.parametrize("config", ["a.yaml", "b.yaml", "d.yaml"])
def test_an_experiment_runs_once_at_a_time(running: Path, config: str) -> None:
    before = content_of(running)
    second = make(running, "run", f"CONFIG={config}")
    assert second.returncode != 0
    assert f"{config}: " in second.stdout and "already running" in second.stdout
    assert content_of(running) == before


def test_experiments_whose_configs_share_a_name_run_beside_each_other(running: Path) -> None:
    (running / "called").unlink()
    second = subprocess.Popen(["make", "run", "CONFIG=again/a.yaml"], cwd=running)
    while not (running / "called").exists():
        assert second.poll() is None
        time.sleep(0.05)
    assert len({path.stem for path in (running / ".snakemake").glob("*.log")}) == 2
    (running / "wait").unlink()
    assert second.wait() == 0


def test_a_missing_configuration_is_named(project: Path) -> None:
    done = make(project, "run", "CONFIG=configs/no such.yaml")
    assert done.returncode != 0
    assert "configs/no such.yaml" in done.stdout
    assert not (project / "called").exists()


def test_a_workspace_runs_beside_a_project_that_cannot_be_written(
    make_project: Callable[[str], Path], tmp_path: Path
) -> None:
    shared = make_project("shared one")
    (shared / ".snakemake").touch()  # instead of a read-only disk: root could write elsewhere
    (shared / "configs" / "mine.yaml").write_text("experiment: mine\n")
    (shared / "notebooks").mkdir()
    refused = make(shared, "run", "CONFIG=configs/mine.yaml")
    assert refused.returncode != 0 and "make workspace" in refused.stdout
    own = tmp_path / "my own"
    for _ in range(2):  # the second time, what the user has changed is kept
        assert make(shared, "workspace", f"DIR={own}").returncode == 0
        with (own / "configs" / "mine.yaml").open("a") as file:
            file.write("# changed")
    assert (own / "configs" / "mine.yaml").read_text().count("# changed") == 2
    done = make(own, "run", "CONFIG=configs/mine.yaml")
    assert done.returncode == 0, done.stderr
    assert (own / "called").is_file() and not (shared / "called").exists()


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
