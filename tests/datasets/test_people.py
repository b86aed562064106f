import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib.datasets import draw_toy_people, load_people, resize_picture
from fervit_lib.datasets.coco import decode_rle
from fervit_lib.distillation import Augment, people_dls


def write_pair(folder: Path, name: str, mask: Image.Image, size: tuple[int, int] = (8, 6)) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(folder / "images" / f"{name}.png")
    mask.save(folder / "masks" / f"{name}.png")


def pack(counts: list[int]) -> str:
    """COCO's text form of run lengths, written from its description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            digit, value = value & 31, value >> 5
            more = not (value == 0 and not digit & 16) and not (value == -1 and digit & 16)
            text += chr(48 + (digit | (32 if more else 0)))
            if not more:
                break
    return text


def write_coco(
    folder: Path, annotations: list[dict], categories: tuple[str, ...] = ("cat", "person")
) -> None:
    (folder / "annotations").mkdir(parents=True)
    images = []
    for number in range(8):
        for split in ("train2017", "val2017"):
            (folder / split).mkdir(exist_ok=True)
            Image.new("RGB", (20, 10)).save(folder / split / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 20, "height": 10})
    kinds = [{"id": i, "name": name} for i, name in enumerate(categories)]
    content = {"images": images, "categories": kinds, "annotations": annotations}
    for split in ("train2017", "val2017"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def annotation(image: int, shape: object, category: int = 1, crowd: int = 0) -> dict:
    return {
        "id": image,
        "image_id": image,
        "category_id": category,
        "segmentation": shape,
        "iscrowd": crowd,
    }


BOX = [[4, 2, 12, 2, 12, 8, 4, 8]]  # x 4 to 12, y 2 to 8


def test_coco_polygons_runs_and_crowds_by_the_name_person(tmp_path: Path) -> None:
    truth = np.zeros((10, 20), bool)
    truth[2:8, 4:12] = True
    flat = truth.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff(np.r_[0, edges, flat.size]).tolist()
    assert np.array_equal(decode_rle({"size": [10, 20], "counts": runs}, "x"), truth)
    assert np.array_equal(decode_rle({"size": [10, 20], "counts": pack(runs)}, "x"), truth)
    crowd = {"size": [10, 20], "counts": [0, 200]}
    write_coco(
        tmp_path,
        [
            annotation(0, BOX),
            annotation(1, {"size": [10, 20], "counts": pack(runs)}),
            annotation(2, BOX),
            annotation(2, crowd, crowd=1),
            annotation(3, BOX, category=0),
            annotation(4, crowd, crowd=1),
        ],
    )
    people = load_people(tmp_path, "test")
    assert [path.name for path in people.images] == ["0.jpg", "1.jpg", "2.jpg"]
    for index in (0, 1):
        assert np.array_equal(people[index][1], truth)
    assert np.array_equal(people[2][1], np.where(truth, 1, 255))


def test_a_broken_coco_file_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", [annotation(0, BOX)], categories=("cat", "dog"))
    with pytest.raises(ValueError, match=r"no category 'person', found cat, dog"):
        load_people(tmp_path / "a", "test")
    write_coco(tmp_path / "b", [annotation(0, {"size": [10, 20], "counts": [5, 5]})])
    with pytest.raises(ValueError, match="run lengths add up to 10 pixels, expected 200"):
        load_people(tmp_path / "b", "test")[0]
    (tmp_path / "b" / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(ValueError, match="does not parse"):
        load_people(tmp_path / "b", "test")


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


def test_a_turned_photograph_and_its_mask_lie_alike(tmp_path: Path) -> None:
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


def test_letterbox_keeps_proportions_and_ignores_what_it_adds() -> None:
    image, mask = Image.new("RGB", (40, 20), (255, 0, 0)), np.ones((20, 40), np.uint8)
    pixels, values = resize_picture(image, mask, 32, "letterbox")
    assert pixels.shape == (32, 32, 3)
    assert (values == 1).sum() == 32 * 16
    assert (values == 255).sum() == 32 * 16
    assert (pixels[values == 1] == (255, 0, 0)).all()
    assert (resize_picture(image, mask, 32, "stretch")[1] == 1).all()
    with pytest.raises(ValueError, match="resize: expected one of letterbox, stretch"):
        resize_picture(image, mask, 32, "crop")


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "a" / "train", "one", Image.new("L", (8, 6), 255))
    (tmp_path / "a" / "train" / "images" / "one.png").unlink()
    Image.new("RGB", (8, 6)).save(tmp_path / "a" / "train" / "images" / "two.png")
    with pytest.raises(ValueError, match=r"masks/one.png: mask without image"):
        load_people(tmp_path / "a", "train")
    write_pair(tmp_path / "e" / "train", "one", Image.new("L", (8, 6), 255))
    (tmp_path / "e" / "train" / "masks" / "one.png").unlink()
    with pytest.raises(ValueError, match=r"images/one.png: image without mask, one of 1"):
        load_people(tmp_path / "e", "train")
    write_pair(tmp_path / "b" / "train", "one", Image.new("L", (9, 6), 255))
    with pytest.raises(ValueError, match=r"one.png: 9x6 pixels, expected 8x6"):
        load_people(tmp_path / "b", "train")[0]
    write_pair(tmp_path / "c" / "train", "one", Image.new("L", (8, 6), 0))
    with pytest.raises(ValueError, match="no pixel of a person in it"):
        load_people(tmp_path / "c", "train")[0]
    assert not load_people(tmp_path / "c", "train", allow_empty=True)[0][1].any()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_people(tmp_path / "d", "train")
    with pytest.raises(ValueError, match="split: expected one of train, val, test"):
        load_people(tmp_path / "c", "dev")


def test_augmentation_is_the_same_for_image_and_mask_and_comes_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = (
        torch.from_numpy((rng.random((8, 8)) > 0.5).astype(np.uint8))
        .repeat_interleave(4, 0)
        .repeat_interleave(4, 1)
    )
    image = (255 * mask)[None].repeat(3, 1, 1)
    augment = Augment(strength=0.0)
    for view in range(6):
        changed, found = augment.change(image, mask, 0, view)
        assert torch.equal(changed[0] == 255, found == 1)
    strong = Augment(strength=2.0)
    first, again, other = (strong.change(image, mask, 1, view) for view in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert set(first[1].unique().tolist()) <= {0, 1, 255}
    with pytest.raises(ValueError, match="augment: expected"):
        Augment(strength=9)
    folder = draw_toy_people(tmp_path / "toy", 10, 32)
    with pytest.raises(ValueError, match="image_size: expected a multiple of 32, got 40"):
        people_dls(folder, size=40, batch_size=2, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="batch_size: expected 1 to 6"):
        people_dls(folder, size=32, batch_size=7, device=torch.device("cpu"))
