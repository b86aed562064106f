"""Classes that a notebook defines: their source as text, and the class from that text again."""

import ast
import linecache
import sys
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

HEADER = (
    "# Code of the notebook that trained the model beside this file. Nothing runs it unless a\n"
    "# reader passes trust_code=True.\n"
)


def is_own(value: object) -> bool:
    """Whether a class or function comes from a notebook, a script or a saved text.

    The others belong to modules, which a reader imports.
    """
    module = getattr(value, "__module__", None)
    is_definition = isinstance(value, type | FunctionType)
    return is_definition and (module == "__main__" or module not in sys.modules)


def code_of(definition: type | FunctionType) -> str:
    """The source of an own class or function, after the source of what it uses, without comments.

    What is used is found by name among the imports, classes, functions and constants of all cells.
    Anything else is left out; `describe_model` checks that the text is complete.
    """
    if code := vars(definition).get("own_code"):
        return code
    main = vars(sys.modules["__main__"])
    definitions = _definitions(main)
    sources = [HEADER]

    def add(name: str) -> None:
        if node := definitions.pop(name, None):
            # Sorted, so that equal code gives equal texts.
            for used in sorted(_global_names(node)):
                add(used)
            sources.append(ast.unparse(node))
        elif name in main and _is_constant(main[name]):
            sources.append(f"{name} = {main[name]!r}")

    add(definition.__qualname__)
    return "\n".join(dict.fromkeys(sources)) + "\n"


def describe_own(*objects: Any) -> list[str]:
    """The code and plain attributes of those objects and functions that a notebook defines.

    A fit that was interrupted with others does not resume.
    """
    described = []
    for item in objects:
        definition = item if isinstance(item, FunctionType) else type(item)
        if is_own(definition):
            attributes = {name: value for name, value in vars(item).items() if _is_constant(value)}
            described.append(f"{code_of(definition)}{attributes}")
    return described


def load_own_class(text: str, file: str, name: str) -> Any:
    """Run the saved `text` in a module of its own, and return what it defines as `name`."""
    module = ModuleType("own_code")
    exec(compile(text, file, "exec"), vars(module))
    class_: Any = vars(module).get(name)
    if class_ is not None:
        class_.own_code = text  # no cell holds it
    return class_


def _definitions(main: dict[str, Any]) -> dict[str, ast.stmt]:
    """The latest statement of a notebook that imports, defines or renames each name."""
    # A script has no cells.
    cells = main.get("In") or ["".join(linecache.getlines(main.get("__file__", "")))]
    definitions: dict[str, ast.stmt] = {}
    for cell in cells:
        with suppress(SyntaxError):  # of a cell that did not run
            for node in ast.parse(cell).body:
                names: list[Any] = []
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [(alias.asname or alias.name).split(".")[0] for alias in node.names]
                elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                    names = [node.name]
                elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                    names = [ast.unparse(target) for target in node.targets]
                definitions |= dict.fromkeys(names, node)
    return definitions


def _global_names(node: ast.stmt) -> set[str]:
    """The names that a statement uses, without its arguments and variables."""
    parts = list(ast.walk(node))
    local = {part.arg for part in parts if isinstance(part, ast.arg)}
    names = [part for part in parts if isinstance(part, ast.Name)]
    local |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names} - local


def _is_constant(value: object) -> bool:
    with suppress(ValueError, SyntaxError):
        return bool(ast.literal_eval(repr(value)) == value)
    return False
