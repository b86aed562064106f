"""Image files: which are read, how their pixels become 8-bit grey or RGB, and one error for all.

Faces, people, masks, `predict` and the upload of a notebook read every file here:

- The format is recognised by the content, whatever the suffix says: JPEG (and MPO, which many
  phones save as .jpg), PNG, BMP, WebP, TIFF, GIF; of several pictures the first. No other decoder
  is called.
- The image is turned as its EXIF says.
- 16-bit grey is scaled by 255 / 65,535 (12 bits by 255 / 4,095), not clipped. 32-bit grey has no
  such depth: the smallest of the ranges 0–1 (floats only), 0–255, 0–65,535 and 0–2³² that holds
  its values becomes 0–255.
- Alpha is dropped, and so is the transparency of a palette, as torchvision's and OpenCV's readers
  do it: the colour of a pixel is the one that is stored. A mask may be in the alpha (`people.py`).
- CMYK is converted without a colour profile; the inverted CMYK of a JPEG is recognised.
"""

import math
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from fervit_lib.system.errors import MAX_PIXELS
from fervit_lib.system.names import escape

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")  # for Pillow, whose JPEG includes MPO
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".jpe",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
    ".mpo",
)
# What is found under the name of an image, by the first bytes.
_OTHERS = {
    b"%!PS": "a PostScript file",
    b"%PDF": "a PDF file",
    b"version https://git-lfs": "a pointer of Git LFS; run `git lfs pull`",
    b"<": "a text in HTML or XML, such as the page of a failed download",
}
_END = b"\xff\xd9"  # of a JPEG
# Files that operating systems put beside others, in lower case.
_IGNORED = (".ds_store", "thumbs.db", "desktop.ini", "__macosx")


def is_ignored(path: Path) -> bool:
    """Whether a file, or a folder, is the work of an operating system: `._x`, `Thumbs.db`, …

    These are ignored without a word; everything else that is not read is listed.
    """
    return any(part.startswith("._") or part.lower() in _IGNORED for part in path.parts)


def read_image(
    source: Path | str | bytes, name: str = "", kind: str = "an image", as_stored: bool = False
) -> Image.Image:
    """An image file, or the content of one, upright, in mode L (grey) or RGB.

    The EXIF by which it was turned is its `.info["stored_exif"]`.

    Args:
        name: of the file whose content is given, for error messages.
        kind: what the file should be, for error messages.
        as_stored: leave the image in the mode of the file, such as P or RGBA.

    Raises:
        OSError: the file is missing (FileNotFoundError), truncated, too large or of another format;
            the message names it.
    """
    file = BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(file, formats=FORMATS) as image:
            if math.prod(image.size) > MAX_PIXELS:  # decoding it would fill the memory
                raise ValueError(
                    f"image size: expected at most {MAX_PIXELS:,} pixels, got {image.width}x"
                    f"{image.height}; resize it"
                )
            image.load()
            image.info["stored_exif"] = image.info.get("exif", b"")
            with suppress(Exception):  # of damaged EXIF: the pixels are fine
                ImageOps.exif_transpose(image, in_place=True)
            return image if as_stored else to_grey_or_rgb(image)
    except MemoryError:
        raise
    # On damaged bytes Pillow raises anything from SyntaxError to struct.error.
    except Exception as error:
        reason = str(error)
        if isinstance(error, Image.UnidentifiedImageError):
            reason = _describe(file.read_bytes() if isinstance(file, Path) else file.getvalue())
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror  # without the path, which is named already
        missing = isinstance(error, FileNotFoundError)
        raise (FileNotFoundError if missing else OSError)(
            f"{escape(name or file)}: cannot be read as {kind} ({reason})"
        ) from error


def is_whole_jpeg(path: Path) -> bool:
    """Whether a file starts and ends as a JPEG: it was not cut short. Few bytes are read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff" and file.seek(-2, 2) > 2 and file.read() == _END


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in mode L or RGB, without its alpha."""
    mode = image.mode
    if mode in ("L", "RGB"):
        return image
    if mode[0] in "IF":
        return _scale_to_8_bits(image)
    if mode == "1":
        return image.convert("L")
    if mode in ("LA", "La"):
        return image.convert("LA").convert("L")
    if mode in ("P", "PA", "RGBa"):  # straight to RGB Pillow warns of transparency, or fails
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode.startswith("I;16"):
        top = 2.0 ** tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - 1
        if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is 0
            values = top - values
    else:
        low, high = values.min(), values.max()
        if not 0 <= low <= high < 2**32:  # nor NaN
            raise ValueError(
                f"pixels: expected values from 0 to 2³², got {low} to {high}; save it with 8 bits"
            )
        tops = (1.0, 255.0, 2.0**16 - 1, 2.0**32 - 1)[image.mode == "I" :]
        top = next(top for top in tops if high <= top)
    return Image.fromarray((255 / top * values + 0.5).astype(np.uint8))


def _describe(content: bytes) -> str:
    """What a file is that is of no accepted format."""
    if not content:
        return "the file is empty"
    if content[4:8] == b"ftyp":
        return "a HEIC or AVIF image; convert it to JPEG"
    names = [name for start, name in _OTHERS.items() if content.startswith(start)]
    return f"{(*names, 'no known image')[0]}; accepted are {', '.join(FORMATS)}"
