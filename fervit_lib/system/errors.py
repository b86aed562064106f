"""Error messages for damaged files, full memory and disks, oversized images and symbolic links."""

import re
import shutil
import tempfile
import textwrap
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fervit_lib.system.names import escape
from fervit_lib.system.runtime import PROJECT_ROOT, display_path, host_peak_memory

# Limit for one image: 300 MB in RGB. The header of a small file can claim any number of pixels.
MAX_PIXELS = 100_000_000
# Parameters of the notebooks that decide how much memory is needed, and what libraries write where
# memory or space ran out, each in its own words.
_MEMORY = re.compile(
    r"\b(?:batch_size|img_size|image_size|embed_dim|cache_gb|num_workers|workers|"
    r"robust_faces|num_faces)\b"
)
_NO_MEMORY = re.compile("MemoryError|out of memory|allocate|bad_alloc|ALLOC_FAILED")
_NO_SPACE = re.compile(
    "No space left|quota exceeded|Read-only file system|disk is full|unexpected pos|failed writing"
)


@contextmanager
def explain_read_error(path: Path | str, problem: str, remedy: str) -> Iterator[None]:
    """Turn any error of a file reader into a ValueError: `path: problem (error); remedy`.

    Errors of this project that already name the file pass unchanged, and so do errors of the
    operating system and of memory.

    Args:
        path: the file, or the name of an argument that stands for what is read.
    """
    try:
        yield
    except Exception as error:  # each format raises errors of its own for each kind of damage
        if type(error) in (ValueError, FileNotFoundError) and display_path(path) in str(error):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if explain_system_error(error, "") is not error:
            raise
        raise ValueError(
            f"{display_path(path)}: {problem} ({describe_error(error)}); {remedy}"
        ) from error


@contextmanager
def explain_write_error(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while writing `path` into an OSError with a remedy.

    The disk is full or read-only, or the folder is not writable.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:  # explained already
            raise
        # `path.parent` itself may not exist yet.
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(
            f"{display_path(path)}: could not be written ({describe_error(error)}); {free:,.0f} MB "
            f"are free there. Complete files are kept: make room, or make the folder writable, or "
            f"choose another folder, then run the same command again; it resumes from there"
        ) from error


def explain_system_error(error: Exception, parameters: str) -> Exception:
    """`error`; if no memory or no space was left, an error with what was asked and the remedy.

    Args:
        parameters: see `lower`.
    """
    text = re.sub(
        r"(\d{8,}) bytes", lambda size: f"{int(size[1]) / 1e9:,.1f} GB", describe_error(error)
    )
    if isinstance(error, ValueError):  # explained already
        return error
    if _NO_MEMORY.search(text):
        return MemoryError(
            f"no memory left ({text}) where this process has used {host_peak_memory():.1f} GB. "
            f"{lower(parameters)}"
        )
    if _NO_SPACE.search(text) and getattr(error, "errno", 0) is not None:
        temporary = tempfile.gettempdir()
        return OSError(
            f"no space left ({text}): {shutil.disk_usage(temporary).free / 1e6:,.0f} MB are free "
            f"in {temporary}, {shutil.disk_usage(PROJECT_ROOT).free / 1e6:,.0f} MB in the project. "
            f"Make room, or choose another folder by the parameters reports and data_dir or by "
            f"TMPDIR and XDG_CACHE_HOME in the environment"
        )
    return error


def lower(parameters: str) -> str:
    """Which of the parameters of a notebook, named in a text, lower the memory that it needs."""
    names = " or ".join(dict.fromkeys(_MEMORY.findall(parameters)))
    return f"Lower {names}" if names else ""


def explain_in_ipython(shell: Any, parameters: str) -> None:
    """Let IPython show errors of all cells as `explain_system_error`."""

    def show(
        shell: Any, kind: type, error: Exception, trace: Any, tb_offset: int | None = None
    ) -> None:
        shown = explain_system_error(error, parameters)
        shell.showtraceback((type(shown), shown, trace), tb_offset=tb_offset)

    shell.set_custom_exc((Exception,), show)


def describe_error(error: BaseException) -> str:
    """Type and message of an error on one line, at most 300 characters."""
    return escape(textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …"))


def check_unpacked_size(path: Path) -> None:
    """Check that a file of weights or codes, if it is a zip archive, is not compressed.

    torch reads whole members into memory, and never writes compressed ones itself.

    Raises:
        ValueError: it unpacks to more than twice its size.
    """
    if zipfile.is_zipfile(path):
        packed = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > 2 * packed:
            raise ValueError(
                f"{display_path(path)}: expected at most {2 * packed:,} bytes when unpacked, twice "
                f"its size, got {unpacked:,}; save it again by torch.save"
            )


def check_symlink(path: Path, root: Path) -> Path:
    """Return `path` unless it is a symbolic link to a file outside the folder `root`.

    A data set from elsewhere must not bring other files of this machine into a report. `root`
    itself may be a link, for instance to a larger disk.

    Raises:
        ValueError: `path` links to a file outside `root`.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{path}: expected files within {root}, got a symbolic link to a file outside it; copy "
            f"that file into the folder"
        )
    return path


def check_file_names(root: Path, names: Iterable[Path | str]) -> None:
    """Check that the names of files below `root` are text, so that all steps can write them.

    Python reads the bytes of other names as surrogates, which no file in UTF-8 can hold.

    Raises:
        ValueError: some are not in UTF-8; lists the first of them, escaped.
    """
    if wrong := [name for name in map(str, (root, *names)) if re.search("[\ud800-\udfff]", name)]:
        shown = ", ".join(wrong[:3])
        message = (
            f"{root}: expected file names in UTF-8, got {len(wrong):,} in another encoding: {shown}"
            f"{', …' if len(wrong) > 3 else ''}; rename them, or convert all, for instance by "
            f"`convmv -f shift_jis -t utf-8 -r --notest` and the folder"
        )
        raise ValueError(escape(message))
