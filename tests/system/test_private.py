"""A shared report tells nothing of the machine on which it was made."""

import base64
import getpass
import json
import platform
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import yaml
from tiny import SMALL, TINY

from fervit_lib.system.private import hide_machine
from fervit_lib.system.runtime import PROJECT_ROOT

HOME, USER, HOST = "zwiebelhome", "quittenuser", "rhabarberhost"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, a user and a host of names found nowhere else."""
    home = tmp_path / HOME
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.example.org")
    return home


TEXTS = [
    "{root}/notebooks/a.ipynb",
    'File "{root}/fervit_lib/a.py", line 3',
    "\x1b[32m{home}/lib/a.py:12\x1b[39m",
    "faces = '{home}/my faces'",
    "one\n{home}/b\n{root}/c\n/usr/lib/a.py:3",
    "process 3 on {host} since today, {host}.example.org",
    "/tmp/pytest-of-{user}/a",
    "({home})",
    "{root}",
]


@pytest.mark.parametrize("form", [str, lambda text: json.dumps(text, ensure_ascii=False)])
@pytest.mark.parametrize("text", TEXTS)
def test_paths_and_names_are_hidden(elsewhere: Path, text: str, form: type) -> None:
    text = form(text.format(root=PROJECT_ROOT, home=elsewhere, host=HOST, user=USER))
    hidden = hide_machine(text, "")
    for secret in (HOME, USER, HOST, str(PROJECT_ROOT)):
        assert secret not in hidden
    assert not re.search(r"(?<![\w.~…])/\w", hidden)
    assert hide_machine(hidden, "") == hidden


@pytest.mark.parametrize(
    "text",
    [
        "</div> <br/>",
        "https://arxiv.org/abs/1",
        "a/b or accuracy/loss",
        "~/data",
        "1 / 2",
        "/9j/4A",
    ],
)
def test_other_texts_stay(elsewhere: Path, text: str) -> None:
    assert hide_machine(text, "") == text


def test_a_name_that_means_something_else_stays(elsewhere: Path) -> None:
    assert hide_machine(f"run {HOST}", public=f"experiment {HOST}") == f"run {HOST}"


def unpacked(content: bytes) -> bytes:
    """A file with all that is packed in it: gzip in base64, as pages hold plotly.js, and zlib."""
    parts = [content]
    for packed in re.findall(rb"[A-Za-z0-9+/]{60,}={0,2}", content):
        try:
            parts.append(zlib.decompress(base64.b64decode(packed), 47))
        except (ValueError, zlib.error):
            continue
    return b"\n".join(parts)


@pytest.mark.slow
@pytest.mark.notebooks
def test_an_experiment_under_names_found_nowhere_else(tmp_path: Path) -> None:
    """One of its steps fails, by a folder where a file is to be."""
    project = tmp_path / HOME / USER / "lab"
    project.mkdir(parents=True)
    for name in ("fervit_lib", "notebooks", "profiles"):
        shutil.copytree(PROJECT_ROOT / name, project / name)
    shutil.copy(PROJECT_ROOT / "Snakefile", project)
    wandb = SMALL | {"wandb": "offline"}
    config = TINY | {"explain": [], "train": wandb | {"seed": [0, 1]}}
    (project / "c.yaml").write_text(yaml.safe_dump(config))
    experiment = project / "reports" / "tiny"
    failing = experiment / "train" / "scratch-full-seed0" / "metrics.csv"
    failing.mkdir(parents=True)
    call = ["-m", "snakemake", "--profile", "profiles/local", "--cores", "2", "--nolock"]
    call += ["--configfile", "c.yaml"]
    rename = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c"]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin",
        "HOME": str(tmp_path / HOME),
        "USER": USER,
        "LOGNAME": USER,
        "PYTHONPATH": str(project),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*rename, f'hostname {HOST} && exec "$@"', "sh", sys.executable, *call],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "IsADirectoryError" in (failing.parent / "notebook.html").read_text(), done.stderr
    assert (experiment / "train" / "scratch-full-seed1" / "result.json").is_file(), done.stderr
    leaks = []
    for path in (project / "reports").rglob("*"):
        content = unpacked(path.read_bytes()) if path.is_file() else b""
        for secret in (HOME, USER, HOST, str(tmp_path)):
            place = content.find(secret.encode())
            if place >= 0 or secret in path.name:
                leaks.append((str(path.relative_to(project)), content[max(0, place - 80) :][:160]))
    assert not leaks
