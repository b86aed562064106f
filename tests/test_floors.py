"""The floors of the library: an import goes down, or sideways where `SIDEWAYS` names the pair."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fervit_lib

LIBRARY = Path(fervit_lib.__file__).parent
FLOORS = {
    "notebook": 6,
    "evaluation": 5,
    "explain": 5,
    "sweep": 5,
    "training": 4,
    "distillation": 4,
    "inputs": 3,
    "report": 3,
    "pipeline": 3,
    "models": 2,
    "encoders": 2,
    "figures": 2,
    "datasets": 1,
    "latents": 1,
    "pt_codes": 1,
    "runs": 1,
    "system": 0,
}
# Pairs on one floor that may import each other's public names, in this direction only.
SIDEWAYS = {
    ("distillation", "training"),
    ("explain", "evaluation"),
    ("report", "pipeline"),
    ("pt_codes", "datasets"),
    ("pt_codes", "latents"),
}
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py")


def name_of(path: Path) -> str:
    parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    return module.split(".")[1]


PATHS = {name_of(path): path for path in MODULES}


@cache
def imported_names(module: str) -> dict[str, str]:
    """Local name → what it stands for (`fervit_lib.unit.module` or `….module.name`)."""
    names = {}
    for node in ast.walk(ast.parse(PATHS[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports from the root of the package"
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name for a in node.names}
    return {name: full for name, full in names.items() if full.startswith("fervit_lib.")}


def defining_module(full: str) -> str:
    """The module that defines an imported name, followed through every `__init__` on the way."""
    if full in PATHS:
        return full
    module, name = full.rsplit(".", 1)
    through = imported_names(module).get(name)
    return defining_module(through) if through else module


@cache
def imported_modules(module: str) -> frozenset[str]:
    return frozenset(map(defining_module, imported_names(module).values())) - {module}


@pytest.mark.parametrize("module", PATHS)
def test_imports_go_down(module: str) -> None:
    unit = unit_of(module)
    assert unit in FLOORS, f"{unit} has no floor yet: add it to FLOORS"
    for other in {unit_of(imported) for imported in imported_modules(module)} - {unit}:
        down = FLOORS[other] < FLOORS[unit]
        assert down or (unit, other) in SIDEWAYS, f"{module} imports {other}, which is not below"


def test_every_sideways_pair_is_used() -> None:
    pairs = {(unit_of(m), unit_of(other)) for m in PATHS for other in imported_modules(m)}
    assert pairs >= SIDEWAYS


def test_modules_form_no_circle() -> None:
    # A package's `__init__` gathers its modules; they import one another directly.
    graph = {m: imported_modules(m) for m in PATHS if PATHS[m].name != "__init__.py"}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", PATHS)
def test_a_module_is_one_sitting(module: str) -> None:
    assert len(PATHS[module].read_text().splitlines()) <= 350
