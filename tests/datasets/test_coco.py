import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import load_people
from fervit_lib.datasets.coco import decode_segmentation


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
TRUTH = np.zeros((10, 20), bool)
TRUTH[2:8, 4:12] = True
RUNS = [42, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 82]  # of TRUTH, down the columns
TEXT = "Z1640000000000000^2"  # RUNS as COCO's tools compress them


@pytest.mark.parametrize(
    "segmentation",
    [
        BOX,
        [[4, 2, 8, 2, 8, 8, 4, 8], [8, 2, 12, 2, 12, 8, 8, 8], [1, 1]],
        {"size": [10, 20], "counts": RUNS},
        {"size": [10, 20], "counts": TEXT},
    ],
    ids=["polygon", "two polygons and a point", "runs", "compressed runs"],
)
def test_every_form_of_an_area(segmentation: object) -> None:
    assert np.array_equal(decode_segmentation(segmentation, (20, 10)), TRUTH)


def test_a_polygon_covers_its_area_up_to_the_border() -> None:
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    corners = np.stack([50 + 30 * np.cos(angle), 40 + 20 * np.sin(angle)], 1)
    area = decode_segmentation([corners.ravel().tolist()], (100, 80))
    y, x = np.mgrid[:80, :100] + 0.5
    distance = np.hypot((x - 50) / 30, (y - 40) / 20)
    assert area[distance < 0.95].all()
    assert not area[distance > 1.05].any()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [20, 10], "counts": RUNS},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [10, 20], "counts": []},
        {"size": [10, 20], "counts": [5, 5]},
        {"size": [10, 20], "counts": [-5, 205]},
        {"size": [10, 20], "counts": [2**63, 2**63, 200]},
        {"size": [10, 20], "counts": ""},
        {"size": [10, 20], "counts": TEXT[:-1]},  # ends within a number
        {"size": [10, 20], "counts": TEXT[:-2]},  # too few pixels
        {"size": [10, 20], "counts": TEXT + "1"},
        {"size": [10, 20], "counts": "ü"},
        {"size": [10, 20], "counts": TEXT[:4] + "\0" + TEXT[4:]},
        {"size": [10, 20]},
        [["a"] * 6],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, float("inf")]],
        7,
    ],
    ids=str,
)
def test_a_damaged_area_is_refused_before_it_is_decoded(tmp_path: Path, segmentation) -> None:
    write_coco(tmp_path, [annotation(0, segmentation)])
    with pytest.raises(ValueError, match="0.jpg: annotation 0 .* is damaged"):
        load_people(tmp_path, "test")[0]


def test_an_outline_that_would_fill_the_memory_is_refused() -> None:
    zigzag = [[0, 0, 10_000, 10_000] * 1000]
    with pytest.raises(ValueError, match="segmentation: expected an outline of at most"):
        decode_segmentation(zigzag, (10_000, 10_000))


def test_corners_outside_the_image_are_moved_to_its_edge() -> None:
    area = decode_segmentation([[4, -1e30, 12, -1e30, 12, 1e30, 4, 1e30]], (20, 10))
    expected = np.zeros((10, 20), bool)
    expected[:, 4:12] = True
    assert np.array_equal(area, expected)


def test_only_persons_count_and_crowds_are_ignored(tmp_path: Path) -> None:
    everything = {"size": [10, 20], "counts": [0, 200]}
    annotations = [
        annotation(0, BOX),
        annotation(1, BOX),
        annotation(1, everything, crowd=1),
        annotation(2, BOX, category=0),
        annotation(3, everything, crowd=1),
    ]
    write_coco(tmp_path, annotations)
    people = load_people(tmp_path, "test")
    assert [path.name for path in people.images] == ["0.jpg", "1.jpg"]
    assert np.array_equal(people[0][1], TRUTH)
    assert np.array_equal(people[1][1], np.where(TRUTH, 1, 255))
    assert len(load_people(tmp_path, "test", allow_empty=True)) == 8


def test_val_is_test_and_an_eighth_of_train_is_val(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(i, BOX) for i in range(8)])
    people = {split: load_people(tmp_path, split) for split in ("train", "val", "test")}
    assert [len(images) for images in people.values()] == [7, 1, 8]
    assert {path.parent.name for path in people["val"].images} == {"train2017"}
    assert {path.parent.name for path in people["test"].images} == {"val2017"}
    assert not set(people["train"].images) & set(people["val"].images)


def test_a_broken_annotation_file_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(0, BOX)], categories=("cat", "dog"))
    with pytest.raises(ValueError, match="no category 'person', found .*cat"):
        load_people(tmp_path, "test")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(ValueError, match="instances_val2017.json: .*does not parse"):
        load_people(tmp_path, "test")
