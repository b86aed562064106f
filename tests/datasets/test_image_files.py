import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import load_faces, load_people
from fervit_lib.datasets.image_files import FORMATS, SUFFIXES, is_ignored, read_image
from fervit_lib.evaluation.predict import open_image
from fervit_lib.notebook import upload

# Bright above, dark below, brightest on the left: no turn leaves it as it is.
SHOWN = np.zeros((40, 60), np.uint8)
SHOWN[:20] = 200
SHOWN[:, :15] += 50
# How the pixels are stored for each EXIF orientation, by EXIF 2.32, table 6.
STORED = {
    1: SHOWN,
    2: SHOWN[:, ::-1],
    3: SHOWN[::-1, ::-1],
    4: SHOWN[::-1],
    5: SHOWN.T,
    6: np.rot90(SHOWN),
    7: SHOWN[::-1, ::-1].T,
    8: np.rot90(SHOWN, -1),
}


def readers(folder: Path, monkeypatch) -> dict:
    """Every way in which a picture comes into the project, as a function of its file."""

    def face(path: Path) -> Image.Image:
        for name in ("happy", "sad"):
            (folder / "train" / name).mkdir(parents=True, exist_ok=True)
            (folder / "train" / name / path.name).write_bytes(path.read_bytes())
        (folder / "val").mkdir(exist_ok=True)
        for name in ("happy", "sad"):
            (folder / "val" / name).mkdir(exist_ok=True)
            (folder / "val" / name / path.name).write_bytes(path.read_bytes())
        return load_faces(folder, "train")[0][0]

    def person(path: Path) -> Image.Image:
        for kind in ("images", "masks"):
            (folder / "test" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "test" / "images" / path.name).write_bytes(path.read_bytes())
        Image.new("L", (60, 40), 255).save(folder / "test" / "masks" / f"{path.stem}.png")
        return load_people(folder, "test")[0][0]

    def uploaded(path: Path) -> Image.Image:
        images = []
        monkeypatch.setattr(upload, "contact_sheet", lambda *_, **__: None)
        monkeypatch.setattr(upload, "table_of_predictions", lambda _: None)

        def predict(given):
            images.extend(given)
            return upload.pd.DataFrame({"emotion": ["happy"]})

        upload.show_predictions([{"name": path.name, "content": path.read_bytes()}], predict)
        return images[0]

    return {"face": face, "person": person, "predict": open_image, "upload": uploaded}


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(int)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_every_reader_turns_what_a_camera_stores(
    tmp_path: Path, monkeypatch, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(STORED[orientation]).convert("RGB").save(path, exif=exif, quality=95)
    for name, read in readers(tmp_path / "set", monkeypatch).items():
        image = read(path)
        assert np.abs(grey(image) - SHOWN).mean() < 3, name
        assert image.getexif().get(0x0112, 1) == 1, name


def test_damaged_exif_does_not_lose_the_pixels(tmp_path: Path) -> None:
    Image.fromarray(SHOWN).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 9
    )
    assert read_image(tmp_path / "a.jpg").size == (60, 40)


DEEP = SHOWN.astype(np.uint16) * 257
PALETTE = Image.fromarray(SHOWN // 50)
PALETTE.putpalette([value for level in range(6) for value in (50 * level,) * 3])


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_tiff(values: np.ndarray, byte_order: str = "<", bits: int = 16, white: int = 1) -> bytes:
    """A grey TIFF of one strip, by TIFF 6.0, section 4; of 12 bits two values in three bytes."""
    height, width = values.shape
    pixels = values.astype(f"{byte_order}u2").tobytes()
    if bits == 12:
        first, second = values.reshape(-1, 2).astype(int).T
        triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
        pixels = triples.astype(np.uint8).tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, white)]
    tags += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, height), (279, len(pixels))]
    order = "little" if byte_order == "<" else "big"
    head = (
        (b"II" if byte_order == "<" else b"MM") + (42).to_bytes(2, order) + (8).to_bytes(4, order)
    )
    entries = len(tags).to_bytes(2, order)
    for tag, value in tags:
        # Type 3, two bytes, left in its field of four; type 4, four bytes.
        field = value.to_bytes(2, order) + b"\0\0" if tag in (258, 259, 262, 277) else b""
        kind = 3 if field else 4
        entries += tag.to_bytes(2, order) + kind.to_bytes(2, order) + (1).to_bytes(4, order)
        entries += field or value.to_bytes(4, order)
    return head + entries + bytes(4) + pixels


ALPHA = Image.merge("RGBA", [*[Image.fromarray(SHOWN)] * 3, Image.new("L", (60, 40), 90)])
FORMS = {
    "16-bit PNG": save(Image.fromarray(DEEP), "PNG"),
    "16-bit TIFF": save(Image.fromarray(DEEP), "TIFF"),
    "16-bit TIFF, big-endian": deep_tiff(DEEP, ">"),
    "16-bit TIFF, white is 0": deep_tiff(65535 - DEEP, white=0),
    "12-bit TIFF": deep_tiff((SHOWN * 16.0 + SHOWN // 16).astype(np.uint16), bits=12),
    "32-bit, of 16": save(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
    "32-bit, of 8": save(Image.fromarray(SHOWN.astype(np.int32)), "TIFF"),
    "float to 1": save(Image.fromarray((SHOWN / 255).astype(np.float32)), "TIFF"),
    "float to 255": save(Image.fromarray(SHOWN.astype(np.float32)), "TIFF"),
    "palette": save(PALETTE, "PNG"),
    "palette with transparency": save(PALETTE, "PNG", transparency=b"\0\x80\xff\xff\xff\xff"),
    "GIF": save(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", (60, 40))]),
    "transparent GIF": save(PALETTE, "GIF", transparency=0),
    "grey and alpha": save(ALPHA.convert("LA"), "PNG"),
    "colour and alpha": save(ALPHA, "PNG"),
    "CMYK JPEG": save(Image.fromarray(SHOWN).convert("RGB").convert("CMYK"), "JPEG", quality=98),
    "CMYK TIFF": save(Image.fromarray(SHOWN).convert("RGB").convert("CMYK"), "TIFF"),
    "MPO": save(
        Image.fromarray(SHOWN), "MPO", save_all=True, append_images=[Image.new("L", (60, 40))]
    ),
    "BMP": save(Image.fromarray(SHOWN), "BMP"),
    "WebP": save(Image.fromarray(SHOWN), "WEBP", lossless=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_pixels_is_read_alike_by_every_reader(
    tmp_path: Path, monkeypatch, form: str
) -> None:
    path = tmp_path / "a.jpg"  # the content decides
    path.write_bytes(FORMS[form])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = {name: read(path) for name, read in readers(tmp_path / "set", monkeypatch).items()}
    for name, image in images.items():
        assert image.mode in ("L", "RGB"), name
        assert np.abs(grey(image) - SHOWN).max() <= (6 if form in ("MPO", "CMYK JPEG") else 1), name


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(SHOWN > 100).save(tmp_path / "a.png")
    assert np.array_equal(grey(read_image(tmp_path / "a.png")), 255 * (SHOWN > 100))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_that_are_no_grey_are_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"a\.tif: .*pixels"):
        read_image(tmp_path / "a.tif")


OTHERS = {
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "PDF": b"%PDF-1.7\n",
    "HTML": b"<!DOCTYPE html><html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "empty": b"",
    "no known image": b"\1\2\3\4\5\6\7\x08",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_content_is_named_and_reaches_no_decoder(
    tmp_path: Path, monkeypatch, kind: str
) -> None:
    called = tmp_path / "called"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {called}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / "a.png"
    path.write_bytes(OTHERS[kind])
    for name, read in readers(tmp_path / "set", monkeypatch).items():
        with pytest.raises((OSError, ValueError), match=f"a.png.*{kind}") as error:
            read(path)
        assert str(error.value).count("a.png") == 1, name
    assert not called.exists()


@pytest.mark.parametrize("kind", ["DDS", "ICO", "PCX", "PPM", "SGI", "TGA", "JPEG2000", "AVIF"])
def test_pillows_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    try:
        content = save(Image.new("RGB", (16, 16)), kind)
    except (KeyError, OSError):  # this build of Pillow cannot write it
        content = b"\0\0\0\x18ftypavif" + bytes(40)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError, match=FORMATS[0]):
        read_image(tmp_path / "a.png")


def test_a_truncated_image_and_a_missing_one_are_named_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(save(Image.effect_noise((64, 64), 50), "JPEG")[:900])
    with pytest.raises(OSError, match="truncated") as error:
        read_image(path)
    assert str(error.value).count("a.jpg") == 1
    with pytest.raises(FileNotFoundError) as error:
        read_image(tmp_path / "b.jpg")
    assert str(error.value).count("b.jpg") == 1


def test_suffixes_are_those_of_the_formats() -> None:
    known = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in (*FORMATS, "MPO")
    }
    assert set(SUFFIXES) <= known


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("._x.png", True),
        (".DS_Store", True),
        ("Thumbs.db", True),
        ("Desktop.ini", True),
        ("__MACOSX/train/1.png", True),
        ("x.png", False),
        (".hidden.png", False),
        ("thumbs.png", False),
    ],
)
def test_what_operating_systems_leave_is_ignored(name: str, ignored: bool) -> None:
    assert is_ignored(Path(name)) == ignored
