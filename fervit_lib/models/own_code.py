"""Classes that a notebook defines: their source as text, and the class from that text again."""

import ast
import inspect
import linecache
import symtable
import sys
from collections.abc import Iterator
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


class OwnCode:
    """The source of classes and functions of a notebook, with all that they need.

    Attributes:
        unsaved: reasons why the text is not complete; empty if it is.
    """

    def __init__(self, *definitions: type | FunctionType) -> None:
        self.imports: set[str] = set()
        self.lines: list[str] = []  # constants and definitions, each after those that it needs
        self.unsaved: list[str] = []
        self._added: set[str] = set()
        for definition in definitions:
            self._add(definition.__name__, definition)

    @property
    def text(self) -> str:
        return "\n".join([HEADER, *sorted(self.imports), "\n", *self.lines])

    def _add(self, name: str, definition: type | FunctionType) -> None:
        if name in self._added:
            return
        self._added.add(name)
        # inspect.getsource does not find the classes of notebooks before Python 3.13.
        source = _find_source(definition)
        if not source:
            self.unsaved.append(f"{name} is not defined by `class` or `def` in a cell")
            return
        namespace = _namespace(definition)
        for used in sorted(_global_names(source)):
            if used in namespace:
                self._add_used(used, namespace[used], name)
        self.lines.append(source)
        if name != definition.__name__:
            self.lines.append(f"{name} = {definition.__name__}\n")

    def _add_used(self, name: str, value: Any, user: str) -> None:
        """Add the global `name` that the source of `user` mentions."""
        home = sys.modules.get(getattr(value, "__module__", None) or "")
        qualified = getattr(value, "__qualname__", name)
        if isinstance(value, ModuleType):
            self.imports.add(f"import {value.__name__} as {name}")
        elif is_own(value):
            self._add(name, value)
        elif home and getattr(home, qualified, None) is value:
            self.imports.add(f"from {home.__name__} import {qualified} as {name}")
        elif _is_constant(value):
            self.lines.append(f"{name} = {value!r}\n")
        else:
            self.unsaved.append(
                f"{user} uses the variable {name} of the notebook, a {type(value).__name__}"
            )


def code_of(class_: type) -> str:
    """The text of an own class.

    Raises:
        ValueError: it needs what cannot be saved as text, such as a variable of the notebook.
    """
    code = OwnCode(class_)
    if code.unsaved:
        raise ValueError(
            f"model: expected code that can be saved, but {'; '.join(code.unsaved)}; pass values "
            f"as arguments of __init__, or define them in the class"
        )
    return code.text


def describe_own(*objects: Any) -> list[str]:
    """The code and plain attributes of those objects and functions that a notebook defines.

    A fit that was interrupted with others does not resume.
    """
    described = []
    for item in objects:
        definition = item if isinstance(item, FunctionType) else type(item)
        if is_own(definition):
            attributes = {name: value for name, value in vars(item).items() if _is_constant(value)}
            described.append(f"{OwnCode(definition).text}{attributes}")
    return described


def load_own_class(text: str, file: str, name: str) -> Any:
    """Run the saved `text` in a module of its own, and return what it defines as `name`."""
    module = ModuleType("own_code")
    exec(compile(text, file, "exec"), vars(module))
    return getattr(module, name, None)


def _functions(definition: type | FunctionType) -> Iterator[FunctionType]:
    members = vars(definition).values() if isinstance(definition, type) else [definition]
    for member in members:
        # Of a classmethod or staticmethod, and of a property.
        function = getattr(member, "__func__", getattr(member, "fget", member))
        function = inspect.unwrap(function) if callable(function) else function
        name = getattr(function, "__qualname__", "")
        if isinstance(function, FunctionType) and f"{name}.".startswith(definition.__qualname__):
            yield function


def _namespace(definition: type | FunctionType) -> dict[str, Any]:
    for function in _functions(definition):
        return function.__globals__
    return vars(sys.modules["__main__"])


def _find_source(definition: type | FunctionType) -> str:
    """The text of a class or function at the top level of a cell or file; empty if not found."""
    # Its code names the cell; a class without methods is sought in all cells, the latest first.
    files = [function.__code__.co_filename for function in _functions(definition)]
    for file in files or reversed(list(linecache.cache)):
        lines = linecache.getlines(file)
        with suppress(SyntaxError):
            for node in reversed(ast.parse("".join(lines)).body):
                if (
                    isinstance(node, ast.ClassDef | ast.FunctionDef)
                    and node.name == definition.__qualname__
                ):
                    first = min(part.lineno for part in [node, *node.decorator_list])
                    return "".join(lines[first - 1 : node.end_lineno])
    return ""


def _global_names(source: str) -> set[str]:
    """The names in a definition that are neither local to it nor attributes."""
    names = set()
    tables = [symtable.symtable(source, "definition", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        at_top = table.get_type() == "module"
        names |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (at_top or symbol.is_global())
        }
    return names


def _is_constant(value: object) -> bool:
    with suppress(ValueError, SyntaxError):
        return bool(ast.literal_eval(repr(value)) == value)
    return False
