"""Files as they may be: damaged, made to fill the memory or to lead elsewhere, and on a disk that is full."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError

from fervit_lib.system.runtime import display_path

MAX_PIXELS = 100_000_000  # of one picture, 300 MB in RGB; a small file can claim any number


@contextmanager
def explain_read_error(path: Path, trouble: str, remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into a ValueError: `path: trouble (reason); remedy`.

    This project's own errors, which name the file already, pass as they are, and so do the system's.
    """
    try:
        yield
    except (
        Exception
    ) as error:  # readers of every format have errors of their own for every kind of damage
        own = type(error) in (ValueError, FileNotFoundError) and display_path(path) in str(error)
        if own or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ValueError(
            f"{display_path(path)}: {trouble} ({describe_error(error)}); {remedy}"
        ) from error


@contextmanager
def explain_write_error(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into an OSError that says what to do: full, read-only, not allowed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if (
            isinstance(error, OSError) and error.errno is None
        ):  # this project's own, which says it already
            raise
        there = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(there).free / 1e6
        raise OSError(
            f"{display_path(path)}: could not be written ({describe_error(error)}); {free:,.0f} MB are free there. What was "
            f"whole stays: make room, or let it be written to, or name another folder, and run the same again: it goes "
            f"on there"
        ) from error


def describe_error(error: BaseException, limit: int = 300) -> str:
    """An error in a line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[:limit] + " …"


def check_image_size(image: Image.Image) -> Image.Image:
    """Return an opened picture that is not read yet, or raise a ValueError if reading it would fill the memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels, expected at most {MAX_PIXELS:,}; make it smaller"
        )
    return image


def check_symlink(path: Path, root: Path) -> Path:
    """Return `path`, or raise a ValueError if it is a symbolic link that leads out of the folder `root`.

    A set of faces that came from elsewhere shall not bring other files of this machine into a report. `root` itself may
    be a link, to a larger disk.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{path}: a link that leads out of {root}, expected files within it; copy what it leads to, or give the "
            f"folder where that lies"
        )
    return path
