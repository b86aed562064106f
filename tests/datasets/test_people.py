from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import load_people, resize_image_and_mask


def write_pair(folder: Path, name: str, mask: Image.Image, size: tuple[int, int] = (8, 6)) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(folder / "images" / f"{name}.png")
    mask.save(folder / "masks" / f"{name}.png")


def test_masks_in_every_form_that_people_store(tmp_path: Path) -> None:
    truth = np.zeros((6, 8), np.uint8)
    truth[1:4, 2:5] = 1
    alpha = np.dstack([np.zeros((6, 8, 3), np.uint8), 255 * truth])
    palette = Image.fromarray(np.where(truth, 15, 0).astype(np.uint8))
    palette.putpalette(bytes(768))
    palette.putpixel((7, 5), 255)
    forms = {
        "255": Image.fromarray(255 * truth),
        "1": Image.fromarray(truth),
        "alpha": Image.fromarray(alpha, "RGBA"),
        "palette": palette,
    }
    for name, mask in forms.items():
        folder = tmp_path / name
        write_pair(folder / "train", "one", mask)
        image, found = load_people(folder, "train")[0]
        assert image.size == (8, 6)
        expected = truth.copy()
        if name == "palette":
            expected[5, 7] = 255
        assert np.array_equal(found, expected), name


# Pascal VOC's first colours and its void, from the devkit's VOClabelcolormap.
VOC = bytes(3 * 256)
VOC = bytes([0, 0, 0, 128, 0, 0, 0, 128, 0]) + VOC[9:45] + bytes([192, 128, 128]) + VOC[48:765]
VOC += bytes([224, 224, 192])
GREYS = bytes(value for level in range(256) for value in (level,) * 3)


@pytest.mark.parametrize(
    ("palette", "indices", "expected"),
    [
        (VOC, (0, 15, 255), (0, 1, 255)),
        (VOC, (0, 1, 2), (0, 1, 1)),  # one number for each person
        (VOC, (15, 15, 15), (1, 1, 1)),
        (GREYS, (0, 255, 255), (0, 1, 1)),
        (GREYS, (0, 1, 255), (0, 1, 255)),
        (GREYS, (3, 250, 255), (0, 1, 1)),
        (bytes([255] * 3 + [0] * 3), (1, 0, 0), (0, 1, 1)),  # white comes first
        (bytes([0] * 3 + [255] * 3), (0, 1, 1), (0, 1, 1)),
        (bytes([255, 0, 0, 0, 0, 0]), (1, 0, 0), (0, 1, 1)),  # red on black
        (bytes(768), (0, 15, 255), (0, 1, 255)),
    ],
)
def test_a_palette_is_read_by_its_colours(
    tmp_path: Path, palette: bytes, indices: tuple, expected: tuple
) -> None:
    mask = Image.fromarray(np.repeat(np.array(indices, np.uint8)[None], 6, 0))
    mask.putpalette(palette)
    write_pair(tmp_path / "train", "one", mask, (3, 6))
    assert (load_people(tmp_path, "train")[0][1] == expected).all()


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 65535), (200, 65000)])
def test_a_mask_of_16_bits(tmp_path: Path, values: tuple[int, int]) -> None:
    mask = Image.fromarray(np.array([values] * 6, np.uint16))
    write_pair(tmp_path / "train", "one", mask, (2, 6))
    assert (load_people(tmp_path, "train")[0][1] == (0, 1)).all()


def test_a_mask_of_one_bit_or_turned_by_exif(tmp_path: Path) -> None:
    truth = np.zeros((6, 8), bool)
    truth[0, :3] = True
    write_pair(tmp_path / "bit" / "train", "one", Image.fromarray(truth))
    assert np.array_equal(load_people(tmp_path / "bit", "train")[0][1], truth)
    write_pair(tmp_path / "turned" / "train", "one", Image.new("L", (1, 1)))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(truth[::-1, ::-1]).save(
        tmp_path / "turned" / "train" / "masks" / "one.png", exif=exif
    )
    assert np.array_equal(load_people(tmp_path / "turned", "train")[0][1], truth)


def test_a_rotated_photograph_is_rotated_like_its_mask(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    folder = tmp_path / "train"
    mask = np.zeros((6, 8), np.uint8)
    mask[0, 0] = 255
    write_pair(folder, "one", Image.fromarray(mask))
    Image.fromarray(pixels).save(folder / "images" / "one.png", exif=exif)
    image, found = load_people(tmp_path, "train")[0]
    assert image.size == (6, 8)
    assert np.array_equal(np.asarray(image)[..., 0] == 255, found == 1)


def test_letterbox_keeps_proportions_and_ignores_its_padding() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    mask = np.ones((20, 40), np.uint8)
    pixels, values = resize_image_and_mask(image, mask, 32, "letterbox")
    assert pixels.shape == (32, 32, 3)
    assert (values == 1).sum() == 32 * 16
    assert (values == 255).sum() == 32 * 16
    assert (pixels[values == 1] == (255, 0, 0)).all()
    assert (pixels[values == 255] == (124, 116, 104)).all()
    assert (resize_image_and_mask(image, mask, 32, "stretch")[1] == 1).all()
    with pytest.raises(ValueError, match="resize: expected one of"):
        resize_image_and_mask(image, mask, 32, "crop")


def test_a_smaller_part_is_a_subset_of_a_larger_one(tmp_path: Path) -> None:
    for number in range(10):
        write_pair(tmp_path / "train", str(number), Image.new("L", (8, 6), 255))
    people = load_people(tmp_path, "train")
    assert set(people.part(0.3, 0).images) < set(people.part(0.6, 0).images) < set(people.images)
    assert len(people.part(0.01, 0)) == 1
    with pytest.raises(ValueError, match="fraction: expected"):
        people.part(0, 0)


def test_a_set_without_splits_is_split_70_10_20(tmp_path: Path) -> None:
    for number in range(10):
        write_pair(tmp_path, str(number), Image.new("L", (8, 6), 255))
    people = {split: load_people(tmp_path, split) for split in ("train", "val", "test")}
    assert [len(images) for images in people.values()] == [7, 1, 2]
    assert len({path for images in people.values() for path in images.images}) == 10


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda train: (train / "images" / "one.png").unlink(),
            "masks/one.png: mask without image",
        ),
        (
            lambda train: (train / "masks" / "one.png").unlink(),
            "images/one.png: image without mask",
        ),
    ],
)
def test_an_image_or_a_mask_alone_is_named(tmp_path: Path, spoil, message: str) -> None:
    for name in ("one", "two"):
        write_pair(tmp_path / "train", name, Image.new("L", (8, 6), 255))
    spoil(tmp_path / "train")
    with pytest.raises(ValueError, match=f"{message}, one of 1"):
        load_people(tmp_path, "train")


def test_a_mask_that_does_not_fit_its_image_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "size" / "train", "one", Image.new("L", (9, 6), 255))
    with pytest.raises(ValueError, match="one.png: 9x6 pixels, expected 8x6"):
        load_people(tmp_path / "size", "train")[0]
    write_pair(tmp_path / "empty" / "train", "one", Image.new("L", (8, 6), 0))
    with pytest.raises(ValueError, match="no pixel of a person in it"):
        load_people(tmp_path / "empty", "train")[0]
    assert not load_people(tmp_path / "empty", "train", allow_empty=True)[0][1].any()


def test_masks_count_where_other_files_lie_beside_them(tmp_path: Path) -> None:
    for number in range(10):
        write_pair(tmp_path, str(number), Image.new("L", (8, 6), 255))
    (tmp_path / "labels.json").write_text("[]")
    (tmp_path / "images" / "._0.png").write_bytes(b"of macOS")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    people = load_people(tmp_path, "train")
    assert len(people) == 7
    assert [row.path for row in people.skipped] == ["images/notes.txt"]
    Image.new("L", (8, 6)).save(tmp_path / "images" / "0.jpg")
    with pytest.raises(ValueError, match="0.png: expected one file"):
        load_people(tmp_path, "train")


def test_unknown_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_people(tmp_path / "none", "train")
    with pytest.raises(ValueError, match="split: expected one of"):
        load_people(tmp_path, "dev")
