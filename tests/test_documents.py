"""What the documents say, tried: every command, snippet, link and table."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import papermill
import pytest
import yaml
from test_pt_codes import write
from tiny import SMALL

from fervit_lib.system.runtime import PROJECT_ROOT

DOCUMENTS = sorted([*PROJECT_ROOT.glob("*.md"), *PROJECT_ROOT.glob("*/README.md")])
README, JAPANESE = PROJECT_ROOT / "README.md", PROJECT_ROOT / "README.ja.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
COPIED = (
    "configs",
    "notebooks",
    "fervit_lib",
    "profiles",
    "Makefile",
    "Snakefile",
    "pyproject.toml",
    "requirements.lock",
)
# What the placeholders of a command stand for here.
MEANT = {
    "<folder with train/ val/ test/>": "pt",
    "<folder>": "out",
    "<dataset>": "mine",
    "<faces>": "faces",
}


def fences(path: Path, language: str) -> list[str]:
    return [
        text for kind, text in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language
    ]


def fenced_commands(path: Path) -> list[str]:
    lines = "\n".join(fences(path, "sh")).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def inline_code(path: Path) -> list[str]:
    return CODE.findall(FENCE.sub("", path.read_text(encoding="utf-8")))


def commands(path: Path) -> list[str]:
    """Every command of a document, once: in its fences, and within a line."""
    within = [code for code in inline_code(path) if code.startswith(("make ", ".venv/bin/"))]
    return list(dict.fromkeys([*fenced_commands(path), *within]))


ALL_COMMANDS = list(dict.fromkeys(itertools.chain(*map(commands, DOCUMENTS))))


def run(command: list[str] | str, folder: Path) -> str:
    """What a command says, in a copy of the project; it has to end well."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to run commands in, with this Python as its `.venv`."""
    folder = tmp_path_factory.mktemp("lab")
    for name in COPIED:
        copy = shutil.copytree if (PROJECT_ROOT / name).is_dir() else shutil.copy
        copy(PROJECT_ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copy(folder / "configs" / "fer2013_small.yaml", folder / "configs" / "mine.yaml")
    return folder


def check_parameters(words: list[str]) -> None:
    """A notebook of a command has the parameters that the command sets."""
    [notebook] = [word for word in words if word.startswith("notebooks/")]
    known = papermill.inspect_notebook(PROJECT_ROOT / notebook)
    assert {words[i + 1] for i, word in enumerate(words) if word == "-p"} <= set(known)


def check_make(words: list[str], lab: Path) -> None:
    run(["make", "-n", "-o", ".venv/installed", *words[1:]], lab)


def check_snakemake(words: list[str], lab: Path) -> None:
    profile = words[words.index("--profile") + 1]
    assert (lab / profile / "config.yaml").is_file() or list((lab / profile).glob("config.*yaml"))
    if (
        "slurm" not in profile and "kubernetes" not in profile
    ):  # those executors are no part of every installation
        assert "train:" in run([*words, "--dry-run", "--nolock"], lab)


def check_papermill(words: list[str], lab: Path) -> None:
    if "--help-notebook" in words:
        assert "--help-notebook" in words and "embed_dim" in run(words, lab)
    else:
        check_parameters(words)  # and `test_by_hand` runs it


def check_module(words: list[str], lab: Path) -> None:
    module = words[words.index("-m") + 1]
    told = run([".venv/bin/python", "-m", module, "--help"], lab)
    if module == "fervit_lib.pt_codes":
        assert words[words.index("-m") + 2] in told  # and `test_codes_of_earlier_tools` runs it
    assert all(
        word in told for word in words if word.startswith("--") and module == "fervit_lib.sweep"
    )


def check_launch(words: list[str], lab: Path) -> None:
    check_module(words, lab)
    command, notebook, _, parameters = words[words.index("-m") + 2 :]
    assert command == "run"  # and test_launched_notebooks runs it
    assert set(json.loads(parameters)) <= set(papermill.inspect_notebook(PROJECT_ROOT / notebook))


def check_copy(words: list[str], lab: Path) -> None:
    run(words, lab)


CHECKS = {
    "make": check_make,
    "cp": check_copy,
    ".venv/bin/snakemake": check_snakemake,
    ".venv/bin/papermill": check_papermill,
    ".venv/bin/python": check_module,
    ".venv/bin/torchrun": check_launch,
}


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_a_command_does_what_it_is_said_to(command: str, lab: Path) -> None:
    for placeholder, meant in MEANT.items():
        command = command.replace(placeholder, meant)
    words = shlex.split(command)
    assert words[0] in CHECKS, "a command of a new kind: say above how it is tried"
    CHECKS[words[0]](words, lab)


@pytest.mark.slow
@pytest.mark.notebooks
def test_by_hand(lab: Path) -> None:
    """The way by papermill and Python alone: codes, a training, a reading of a face."""
    small = {"toy_faces": 140, "num_views": 1, "img_size": 32}
    options = " ".join(f"-p {name} {value}" for name, value in small.items())
    run(f".venv/bin/papermill notebooks/01_encode.ipynb codes.ipynb -k python3 {options}", lab)
    [by_hand] = [
        c for c in commands(README) if c.startswith(".venv/bin/papermill notebooks/02_train")
    ]
    run(
        f"{by_hand} -k python3 " + " ".join(f"-p {name} {value}" for name, value in SMALL.items()),
        lab,
    )
    face = next((lab / "data" / "toy" / "test").rglob("*.png"))
    shutil.copy(face, lab / "face.png")
    snippet = "\n".join(fences(README, "python"))
    snippet = snippet.replace("reports/demo/", "reports/mine/")  # the run of the command above
    told = run(
        [
            ".venv/bin/python",
            "-c",
            f"{snippet}\nprint(list(prediction.table), tuple(prediction.codes.shape))\n"
            "print(tuple(directions.shape), tuple(happier.shape), len(pictures))",
        ],
        lab,
    )
    assert "['emotion', 'confidence', 'angry'" in told and "(1, 18, 512)" in told
    assert "(7, 18, 512) (10, 18, 512) 10" in told


def test_codes_of_earlier_tools(lab: Path) -> None:
    for split in ("train", "val", "test"):
        write(lab / "pt", split)
    for command in (c for c in commands(README) if "pt_codes" in c):
        for placeholder, meant in MEANT.items():
            command = command.replace(placeholder, meant)
        run(command, lab)
    assert len(list((lab / "out").rglob("*.pt"))) == 3 * 28


@pytest.mark.parametrize("block", fences(README, "yaml"))
def test_a_piece_of_a_config_makes_a_plan(block: str, lab: Path) -> None:
    config = {"experiment": "piece", "encode": {}} | yaml.safe_load(block)
    (lab / "piece.yaml").write_text(yaml.safe_dump(config))
    told = run(
        [
            ".venv/bin/snakemake",
            "--configfile",
            "piece.yaml",
            "--dry-run",
            "--cores",
            "1",
            "--nolock",
        ],
        lab,
    )
    assert "encode:" in told


def test_both_languages_have_the_same_commands() -> None:
    assert fenced_commands(JAPANESE) == fenced_commands(README)
    for language in ("yaml", "python"):
        assert fences(JAPANESE, language) == fences(README, language)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
class TestDocument:
    def test_every_fence_says_what_it_holds(self, path: Path) -> None:
        kinds = {kind for kind, _ in FENCE.findall(path.read_text(encoding="utf-8"))}
        assert kinds <= {"sh", "yaml", "python", "text"}

    def test_every_link_leads_somewhere(self, path: Path) -> None:
        for target in links(path):
            file, _, anchor = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            assert place.exists(), target
            assert not anchor or anchor in anchors(place), target

    def test_every_file_that_it_names_is_there(self, path: Path) -> None:
        ours = re.compile(r"(?:configs|notebooks|fervit_lib|tests|benchmarks|profiles)/[\w./-]+")
        named = {name for name in inline_code(path) if ours.fullmatch(name)} - {"configs/mine.yaml"}
        assert not [name for name in named if not (PROJECT_ROOT / name).exists()]


def links(path: Path) -> Iterator[str]:
    """Where the links and pictures of a document lead, but for those to the network."""
    text = CODE.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        if not re.match(r"https?://", address := "".join(target)):
            yield address


def anchors(path: Path) -> set[str]:
    headings = re.findall(
        r"^#+ +(.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("folder", "suffix"), [("notebooks", ".ipynb"), ("configs", ".yaml"), ("profiles", "")]
)
def test_the_readmes_tables_name_all_there_is(folder: str, suffix: str) -> None:
    there = {
        path.stem
        for path in (PROJECT_ROOT / folder).glob(f"*{suffix}")
        if not path.stem.endswith("_winner")
    }
    rows = [
        line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    first = {CODE.search(row)[1] for row in rows}  # type: ignore[index]
    assert there - {"mine"} <= {Path(name).stem for name in first}


@pytest.mark.parametrize("name", ["data", "pretrained_models"])
def test_terms_are_said_where_weights_and_data_are_named(name: str) -> None:
    text = (PROJECT_ROOT / name / "README.md").read_text(encoding="utf-8")
    head, _, *rows = [
        line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")
    ]
    place = [cell.strip() for cell in head].index("licence")
    assert all(row[place].strip() for row in rows)


def test_the_project_can_be_cited() -> None:
    cited = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert {"cff-version", "message", "title", "authors"} <= set(
        cited
    )  # those that the format asks for
    assert cited["cff-version"] == "1.2.0" and all(
        "name" in a or "family-names" in a for a in cited["authors"]
    )
    assert (
        str(cited["version"]) == project["version"]
        and cited["license"] == project["license"] == "MIT"
    )
    assert (PROJECT_ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
