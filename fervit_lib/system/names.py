"""Names that become folders. Imports nothing heavy: the Snakefile asks it, too."""

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{,199}")  # a file system takes 255


def check_name(argument: str, name: object) -> str:
    """Return `name` if it can name a folder on every system, else raise a ValueError that says what can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{argument}: expected letters, digits and . _ = -, 200 at most (a folder is named so), got {name!r}"
        )
    return name
