"""The checksum in each file that a later step reads, and short hashes that identify settings.

They guard against accidents, such as a flipped bit or an incomplete copy, not against intent.
"""

import json
import re
from pathlib import Path
from typing import Any

from xxhash import xxh3_128, xxh3_128_hexdigest

# A writer leaves this text in a file, for `write_checksum` to replace.
NO_CHECKSUM = "xxh3:" + 32 * "0"
_CHECKSUM = re.compile(rb"xxh3:[0-9a-f]{32}")
# The checksum is in the first block: in the header of a safetensors file, and JSON is short.
_BLOCK = 1 << 24
_checked: set[tuple[str, int, int, int, int]] = (
    set()
)  # states of files that this process has checked


def digest(*parts: Any) -> str:
    """Hash of JSON values, 32 hex digits."""
    return xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())


def write_checksum(path: Path) -> None:
    """Replace the `NO_CHECKSUM` in a file by the XXH3-128 of the whole file with that text."""
    position, _, checksum = _read_checksum(path)
    with path.open("r+b") as file:
        file.seek(position)
        file.write(checksum)


def check_checksum(path: Path, required: bool = True) -> None:
    """Check that a file is as it was written, once per process and state of the file.

    Args:
        required: False: a file without a checksum, such as one that a person wrote, is accepted.

    Raises:
        ValueError: it has changed since; see `explain_read_error`, which names the file.
        OSError: it cannot be read.
    """
    stat = path.stat()
    state = (str(path), stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
    if state in _checked:
        return
    position, written, checksum = _read_checksum(path)
    if position < 0 and not required:
        return
    if written != checksum:
        raise ValueError("it has no checksum" if position < 0 else "its checksum does not match")
    _checked.add(state)


def _read_checksum(path: Path) -> tuple[int, bytes, bytes]:
    """Position (-1 if there is none) and value of the checksum in a file, and what it should be."""
    content = xxh3_128()
    with path.open("rb") as file:
        block = file.read(_BLOCK)
        match = _CHECKSUM.search(block)
        if match:
            block = block[: match.start()] + NO_CHECKSUM.encode() + block[match.end() :]
        while block:
            content.update(block)
            block = file.read(_BLOCK)
    checksum = f"xxh3:{content.hexdigest()}".encode()
    return (match.start(), match[0], checksum) if match else (-1, b"", checksum)
