"""Read YAML files: configurations, sweeps, adapters. Imports nothing heavy: the Snakefile uses it.

PyYAML takes the last of two equal keys, and aliases of few lines stand for more values than fit
into memory, which nothing shows before they are printed or copied.
"""

from pathlib import Path
from typing import Any, NoReturn

import yaml

from fervit_lib.system.names import show

MAX_VALUES = 10_000
_MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """The safe loader, without duplicate keys and large expansions."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.sizes: dict[yaml.Node, int] = {}  # values in each node, aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and node not in self.sizes:
            _refuse(node, "an alias of what it is part of")
        if is_alias:
            return node
        if isinstance(node, yaml.ScalarNode):
            size = 1 + len(node.value) // 100  # a long text takes as much memory as several values
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    _refuse(key, "a list or a mapping as a key")
                if len(key.value) > 200:
                    _refuse(key, f"a key of {len(key.value):,} characters")
                if (key.tag, key.value) in keys:
                    _refuse(key, f"the key {show(key.value)} a second time; one would be lost")
                keys.add((key.tag, key.value))
            size = sum(self.sizes[value] for _, value in node.value)
        else:
            size = sum(self.sizes[value] for value in node.value)
        self.sizes[node] = max(1, size)
        if size > MAX_VALUES or len(self.sizes) > 4 * MAX_VALUES:  # keys and lists are nodes, too
            _refuse(node, f"more than {MAX_VALUES:,} values, with aliases expanded")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # of a date without a 13th month, a number of 5,000 digits, …
            _refuse(node, f"{show(node.value)} ({error})")


def _refuse(node: Any, got: str) -> NoReturn:
    raise yaml.constructor.ConstructorError(problem=f"got {got}", problem_mark=node.start_mark)


def read_yaml(path: Path) -> dict:
    """Read a YAML file with `key: value` at its top.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, and the line where one is wrong: no YAML, a key twice, more than
            `MAX_VALUES` values, no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected YAML")
    content = path.read_bytes()
    if len(content) > _MAX_BYTES:
        raise ValueError(
            f"{path}: expected at most {_MAX_BYTES:,} bytes of YAML, got {len(content):,}"
        )
    place = str(path)
    try:
        loaded = _Loader(content).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if mark := getattr(error, "problem_mark", None):
            place += f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or str(error)
        raise ValueError(f"{place}: expected YAML, {reason[:500]}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected `key: value`, got {show(loaded)}")
    return loaded
