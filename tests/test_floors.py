"""An import goes down a floor, never up, and never between the encoders and the models."""

import ast
from pathlib import Path

import pytest

import fervit_lib

LIBRARY = Path(fervit_lib.__file__).parent
FLOORS = {
    "system": 0,
    "datasets": 1,
    "latents": 1,
    "pt_codes": 1,
    "runs": 1,
    "encoders": 2,
    "figures": 2,
    "models": 2,
    "inputs": 3,
    "pipeline": 3,
    "report": 3,
    "distillation": 4,
    "training": 4,
    "evaluation": 5,
    "explain": 5,
    "sweep": 5,
    "notebook": 6,
}
MODULES = sorted(
    path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY or path.name != "__init__.py"
)


def unit_of(module: str) -> str:
    return module.split(".")[1]


def imported_units(path: Path) -> set[str]:
    """The units of the library that a module imports, anywhere in its body."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are written from the package's root"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {unit_of(name) for name in names if name.startswith("fervit_lib.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_go_down(path: Path) -> None:
    unit = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    assert unit in FLOORS, f"{unit} has no floor yet: give it one here"
    for other in imported_units(path) - {unit}:
        assert FLOORS[other] <= FLOORS[unit], f"{path.name} imports {other}, a floor up"
        assert {unit, other} != {"encoders", "models"}


def test_ground_modules_have_no_circle() -> None:
    edges = {unit: set() for unit in FLOORS}
    for path in MODULES:
        unit = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        edges[unit] |= imported_units(path) - {unit}
    remaining = dict(edges)
    while remaining:
        free = [unit for unit, needs in remaining.items() if not needs & set(remaining)]
        assert free, f"a circle among {sorted(remaining)}"
        for unit in free:
            del remaining[unit]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_module_is_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 380
