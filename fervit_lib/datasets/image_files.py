"""Image files: which are read, and one error for everything that can be wrong with one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from fervit_lib.system.errors import check_image_size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@contextmanager
def open_image(path: Path, kind: str = "an image") -> Iterator[Image.Image]:
    """Open an image whose pixels are not decoded yet; decode and convert them within the block.

    Raises:
        OSError: the file is missing, truncated, too large or no image; the message names it as
            what it should be, `kind`.
    """
    try:
        with Image.open(path) as image:
            yield check_image_size(image)
    # On damaged bytes Pillow raises anything from SyntaxError to struct.error.
    except Exception as error:
        raise OSError(f"{path}: cannot be read as {kind} ({error})") from error
