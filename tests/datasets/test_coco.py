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
LEFT = [42, 6, 4, 6, 4, 6, 4, 6, 122]  # of its columns 4 to 7
RIGHT = [82, 6, 4, 6, 4, 6, 4, 6, 82]  # 8 to 11
TEXT = "Z1640000000000000^2"  # RUNS as COCO's tools compress them


@pytest.mark.parametrize(
    "segmentation",
    [
        BOX,
        [[4, 2, 8, 2, 8, 8, 4, 8], [8, 2, 12, 2, 12, 8, 8, 8], [1, 1]],
        {"size": [10, 20], "counts": RUNS},
        {"size": [10, 20], "counts": TEXT},
        [{"size": [10, 20], "counts": RUNS}],
        [{"size": [10, 20], "counts": TEXT}],
        [{"size": [10, 20], "counts": LEFT}, [8, 2, 12, 2, 12, 8, 8, 8]],
        [{"size": [10, 20], "counts": LEFT}, {"size": [10, 20], "counts": RIGHT}],
        BOX[0],
        [[[4, 2], [12, 2], [12, 8], [4, 8]]],
    ],
    ids=[
        "polygon",
        "two polygons and a point",
        "runs",
        "compressed runs",
        "runs in a list",
        "compressed runs in a list",
        "runs and a polygon",
        "runs of two parts",
        "polygon without its list",
        "pairs of coordinates",
    ],
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


# Who lays COCO out so, and the place of the images and of the annotation file of a split.
LAYOUTS = {
    "COCO": ("{}2017", "annotations/instances_{}2017.json"),
    "Ultralytics": ("images/{}2017", "annotations/instances_{}2017.json"),
    "persons alone": ("{}2017", "annotations/instances_{}2017_person_only.json"),
    "persons alone, in images": ("images/{}2017", "annotations/instances_{}2017_person_only.json"),
    "keypoints": ("{}2017", "annotations/person_keypoints_{}2017.json"),
    "without year": ("images/{}", "annotations/{}.json"),
    "one folder": ("images", "annotations/instances_{}.json"),
    "Roboflow": ("{}", "{}/_annotations.coco.json"),
}
WHOLE = {
    "CVAT": ("images", "annotations/instances_default.json"),
    "CVAT, by task": ("images/default", "annotations/instances_default.json"),
    "Label Studio": ("images", "result.json"),
    "FiftyOne": ("data", "labels.json"),
    "labelme2coco": ("", "annotations.json"),
}


def content_of(num_images: int) -> dict:
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10} for i in range(num_images)
        ],
        "annotations": [annotation(i, BOX) for i in range(num_images)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "person"}],
    }


def write_layout(
    folder: Path, images: str, file: str, content: dict, encoding: str = "utf-8"
) -> None:
    (folder / images).mkdir(parents=True, exist_ok=True)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    for number in range(16):
        Image.new("RGB", (20, 10)).save(folder / images / f"{number}.jpg")
    (folder / file).write_bytes(json.dumps(content).encode(encoding))


@pytest.mark.parametrize(("images", "file"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_with_splits(tmp_path: Path, images: str, file: str) -> None:
    for kind in ("train", "valid" if "_annotations" in file else "val"):
        write_layout(tmp_path, images.format(kind), file.format(kind), content_of(16))
    people = {split: load_people(tmp_path, split) for split in ("train", "val", "test")}
    assert [len(images) for images in people.values()] == [14, 2, 16]
    for split, images in people.items():
        assert all(path.is_file() for path in images.images), split
        assert np.array_equal(images[0][1], TRUTH)


@pytest.mark.parametrize(("images", "file"), WHOLE.values(), ids=WHOLE)
def test_layouts_without_splits(tmp_path: Path, images: str, file: str) -> None:
    write_layout(tmp_path, images, file, content_of(10))
    people = [load_people(tmp_path, split) for split in ("train", "val", "test")]
    assert [len(images) for images in people] == [7, 1, 2]
    assert np.array_equal(people[0][0][1], TRUTH)


def with_images(**changes) -> dict:
    content = content_of(16)
    for image in content["images"]:
        image.update({key: change(image) for key, change in changes.items()})
    return content


def with_text_ids() -> dict:
    content = content_of(16)
    for each in content["annotations"]:
        each["image_id"] = str(each["image_id"])
    return content


# Written so by tools on Windows and by converters; each has the same images and persons.
CONTENTS = {
    "folder and backslash": with_images(file_name=lambda i: f"train2017\\{i['file_name']}"),
    "folder and slash": with_images(file_name=lambda i: f"train2017/{i['file_name']}"),
    "float sizes": with_images(width=lambda _: 20.0, height=lambda _: 10.0),
    "text IDs": with_text_ids(),
    "Person": content_of(16) | {"categories": [{"id": 1, "name": "Person"}]},
    "category of the same name twice": content_of(16)
    | {"categories": [{"id": 7, "name": "person"}, {"id": 1, "name": " PERSON"}]},
    "no iscrowd": content_of(16)
    | {
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "segmentation": BOX} for i in range(16)
        ]
    },
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_contents_of_other_tools(tmp_path: Path, content: dict, encoding: str) -> None:
    write_layout(tmp_path, "train2017", "annotations/instances_train2017.json", content, encoding)
    people = load_people(tmp_path, "train")
    assert len(people) == 14
    assert np.array_equal(people[3][1], TRUTH)
    assert not people.skipped


@pytest.mark.parametrize("missing", ["key", None, [], [[]], [[1, 1, 2, 2]], {}], ids=str)
def test_images_with_a_person_without_segmentation_are_left_out(tmp_path: Path, missing) -> None:
    content = content_of(16)
    for number in (3, 4):
        content["annotations"].append(annotation(number, missing))
    content["annotations"].pop(4)  # the only other person
    if missing == "key":
        for each in content["annotations"][-2:]:
            del each["segmentation"]
    write_layout(tmp_path, "val2017", "annotations/instances_val2017.json", content)
    people = load_people(tmp_path, "test")
    assert len(people) == 14
    assert {"3.jpg", "4.jpg"}.isdisjoint(path.name for path in people.images)
    assert sorted(row.path for row in people.skipped) == ["3.jpg", "4.jpg"]


def test_an_annotation_of_an_image_that_is_not_listed_is_listed_as_skipped(tmp_path: Path) -> None:
    content = content_of(16)
    content["annotations"].append(annotation(99, BOX))
    write_layout(tmp_path, "val2017", "annotations/instances_val2017.json", content)
    people = load_people(tmp_path, "test")
    assert len(people) == 16
    assert [row.path for row in people.skipped] == ["annotation 99"]


@pytest.mark.parametrize("name", ["C:\\x.jpg", "\\\\server\\x.jpg", "..\\x.jpg", "/etc/passwd"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    content = with_images(file_name=lambda _: name)
    write_layout(tmp_path, "val2017", "annotations/instances_val2017.json", content)
    with pytest.raises(ValueError, match="file_name"):
        load_people(tmp_path, "test")


@pytest.mark.parametrize("segmentation", [[None], [[1, 2], [3]], [[[1, 2], [3]]]], ids=str)
def test_a_segmentation_of_no_numbers_is_an_error_that_names_a_file(
    tmp_path: Path, segmentation: list
) -> None:
    content = content_of(16)
    content["annotations"][3]["segmentation"] = segmentation
    write_layout(tmp_path, "val2017", "annotations/instances_val2017.json", content)
    try:
        people = load_people(tmp_path, "test")
    except ValueError as error:
        assert "instances_val2017.json" in str(error)
    else:
        assert "3.jpg" not in {path.name for path in people.images}


def test_missing_images_do_not_hide_the_folder_of_the_others(tmp_path: Path) -> None:
    write_layout(tmp_path, "val2017", "annotations/instances_val2017.json", content_of(16))
    for number in (0, 1, 9):
        (tmp_path / "val2017" / f"{number}.jpg").unlink()
    people = load_people(tmp_path, "test")
    readable = people.without_unreadable()
    assert (len(people), len(readable)) == (16, 13)
    assert [row.path for row in readable.skipped] == [f"val2017/{n}.jpg" for n in (0, 1, 9)]
