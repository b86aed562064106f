"""Names and paths of this machine, which a shared report should not tell."""

import getpass
import json
import os
import platform
import re
from pathlib import Path

from fervit_lib.system.runtime import PROJECT_ROOT

# At the start of a text or a line, or after a space, a quote, a bracket or a terminal's colour.
_START = r"(?:(?<![\w/.:~+<>&;)\]-])|(?<=\\n)|(?<=\dm))"
_ABSOLUTE = re.compile(_START + r"/([\w.@+-]+)/[^\s\"'<>,;:()|\\]+")


def hide_machine(text: str, public: str) -> str:
    """`text`, plain or JSON, with paths as `hide_paths` and without the names of host and user.

    Args:
        public: a name that occurs in this text is kept: it also means something else.
    """
    text = hide_paths(text)
    for name in {platform.node(), platform.node().split(".")[0], getpass.getuser()}:
        if len(name) > 3 and name not in public:  # images as text hold any three letters
            text = re.sub(rf"\b{re.escape(name)}\b", "…", text)
    return text


def hide_paths(text: str) -> str:
    """`text`, plain or JSON, with paths relative to the project, or to the home folder as `~`."""
    home = Path.home()
    folders = {str(PROJECT_ROOT): ".", str(home): "~", str(home.resolve()): "~"}
    if PROJECT_ROOT.is_relative_to(home.resolve()):
        folders[f"~/{PROJECT_ROOT.relative_to(home.resolve())}"] = "."  # as IPython writes it
    for folder, short in folders.items():
        for form in {folder, json.dumps(folder, ensure_ascii=False)[1:-1]}:
            if len(form) > 1:
                text = re.sub(rf"{_START}{re.escape(form)}(?![\w.-])", short, text)
    roots = {path.name for path in Path("/").iterdir()}
    return _ABSOLUTE.sub(
        lambda path: os.path.relpath(path[0], PROJECT_ROOT) if path[1] in roots else path[0], text
    )
