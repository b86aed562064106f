"""Classes that a notebook defines: their source as text, and the class from that text again."""

import ast
import dataclasses
import functools
import linecache
import symtable
import sys
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from fervit_lib.system.checkpoints import model_key

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


def describe_object(item: Any) -> str:
    """A loss, callback or function as text: its name, plain attributes, weights, and own code.

    An interrupted fit does not resume with objects of another description.

    Raises:
        ValueError: a lambda, which has no name.
    """
    if isinstance(item, functools.partial):
        return f"partial({describe_object(item.func)}, {item.args}, {item.keywords})"
    if isinstance(item, MethodType):
        return f"{describe_object(item.__self__)}.{describe_object(item.__func__)}"
    definition = item if isinstance(item, FunctionType) else type(item)
    if definition.__name__ == "<lambda>":
        raise ValueError(
            "loss_func, augment and callbacks: expected functions with a name, got a lambda; "
            "define it with def"
        )
    attributes = {name: _describe_value(value) for name, value in sorted(vars(item).items())}
    code = code_of(definition) if is_own(definition) else ""
    return f"{definition.__qualname__} {attributes} {_describe_value(item)}\n{code}"


def _describe_value(value: Any) -> str:
    """A constant, the fields of a dataclass or the hash of weights; empty for anything else."""
    if isinstance(value, nn.Module):
        return model_key(value)
    if _is_constant(value) or dataclasses.is_dataclass(value):
        return repr(value)
    return ""


def load_own_class(text: str, file: str, name: str) -> Any:
    """Run the saved `text` in a module of its own, and return what it defines as `name`."""
    module = ModuleType("own_code")
    exec(compile(text, file, "exec"), vars(module))
    class_ = vars(module).get(name)
    if class_ is not None:
        class_.own_code = text  # no cell holds it
    return class_


def _definitions(main: dict) -> dict[str, ast.stmt]:
    """The latest statement of a notebook that imports, defines or renames each name."""
    # A script has no cells.
    cells = main.get("In") or ["".join(linecache.getlines(main.get("__file__", "")))]
    definitions: dict[str, ast.stmt] = {}
    for cell in cells:
        with suppress(SyntaxError):  # of a cell that did not run
            for node in ast.parse(cell).body:
                names = []
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [(alias.asname or alias.name).split(".")[0] for alias in node.names]
                elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                    names = [node.name]
                elif isinstance(node, ast.Assign) and isinstance(
                    node.value, ast.Name | ast.Attribute
                ):
                    names = [ast.unparse(target) for target in node.targets]
                definitions |= dict.fromkeys(names, node)
    return definitions


def _global_names(node: ast.stmt) -> set[str]:
    """The names in a statement that are neither local to a function of it nor attributes."""
    top = symtable.symtable(ast.unparse(node), "cell", "exec")
    tables = [top]
    names = set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                names.add(symbol.get_name())
    return names


def _is_constant(value: object) -> bool:
    with suppress(ValueError, SyntaxError):
        return bool(ast.literal_eval(repr(value)) == value)
    return False
