"""A short list of wordings and names that the project does not use."""

import ast
import json
import re
from pathlib import Path

import pytest

from fervit_lib.system.runtime import PROJECT_ROOT

PATTERNS = ("fervit_lib/**/*.py", "benchmarks/*.py", "notebooks/*.ipynb", "configs/*.yaml", "*.md")
FILES = sorted(
    path
    for pattern in (*PATTERNS, "fervit_lib/templates/*", "Snakefile", "Makefile")
    for path in PROJECT_ROOT.glob(pattern)
)
# Wording → what to write instead.
WORDINGS = {
    r"\banew\b": "again, recreated",
    r"\bsays so\b": "reports it",
    r"\breads? rightly\b|\bread_rightly\b": "correct predictions",
    r"\ba (number|row|dot|column|folder|process|GPU|minute|second|face) a [a-z]+": "one … per …",
    r"\bis dear\b|\bdear,": "expensive",
    r"\bby hand\b": "in JupyterLab, from the command line",
    r"\bno number any more\b": "NaN or inf",
    r"\bmakes? sense ends\b|\bholds up neither\b": "plain words",
}
VARIABLES = {"told", "asked", "found", "kept", "said", "made"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_wording(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    odd = {
        match.group(): instead
        for wording, instead in WORDINGS.items()
        for match in re.finditer(wording, text)
    }
    assert not odd, odd


def assigned_names(source: str) -> set[str]:
    nodes = ast.walk(ast.parse(source))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.suffix in (".py", ".ipynb")],
    ids=lambda path: str(path.relative_to(PROJECT_ROOT)),
)
def test_variables_say_what_they_hold(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(source)["cells"]
        source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert not assigned_names(source) & VARIABLES
