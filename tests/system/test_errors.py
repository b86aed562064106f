"""Names of files that are not text, in every source that is listed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib.datasets import load_faces, load_people
from fervit_lib.pt_codes import import_pt_folder

FOLDER = "笑顔".encode("shift_jis")
FILE = "怒り".encode("shift_jis")


def draw(folder: Path, *parts: bytes) -> None:
    path = folder.joinpath(*map(os.fsdecode, parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(np.eye(48, dtype=np.uint8)).save(file, "PNG")


def faces_in_folders(folder: Path) -> None:
    draw(folder, b"train", b"sad", FILE + b".png")
    load_faces(folder, "train")


def faces_in_classes(folder: Path) -> None:
    draw(folder, b"train", b"happy", b"1.png")
    draw(folder, b"train", FOLDER, b"1.png")
    load_faces(folder, "train")


def skipped_faces(folder: Path) -> None:
    draw(folder, b"train", b"happy", b"1.png")
    draw(folder, b"train", b"happy", FILE + b".txt")
    load_faces(folder, "train")


def people(folder: Path) -> None:
    draw(folder, b"images", FILE + b".png")
    draw(folder, b"masks", b"1.png")
    load_people(folder, "train")


def masks(folder: Path) -> None:
    draw(folder, b"images", b"1.png")
    draw(folder, b"masks", FILE + b".png")
    load_people(folder, "train")


def coco(folder: Path) -> None:
    draw(folder, b"train2017", FILE + b".png")
    box = [0, 0, 9, 0, 9, 9, 0, 9]
    content = {
        "images": [{"id": 1, "file_name": os.fsdecode(FILE) + ".png", "width": 48, "height": 48}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [box]}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    load_people(folder, "train")


def codes(folder: Path) -> None:
    (folder / "train").mkdir()
    content = {"latent": torch.zeros(18, 512), "label": 0}
    torch.save(content, folder / "train" / os.fsdecode(FILE + b".pt"))
    import_pt_folder(folder, folder / "store", faces=folder)


def images_of_codes(folder: Path) -> None:
    (folder / "train").mkdir()
    content = {"latent": torch.zeros(18, 512), "label": 0, "img_path": os.fsdecode(FILE)}
    torch.save(content, folder / "train" / "1.pt")
    import_pt_folder(folder, folder / "store", faces=folder)


READERS = (
    faces_in_folders,
    faces_in_classes,
    skipped_faces,
    people,
    masks,
    coco,
    codes,
    images_of_codes,
)


@pytest.mark.parametrize("read", READERS)
def test_a_name_that_is_not_utf_8_is_refused_and_shown_escaped(read, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="UTF-8.*convmv") as refused:
        read(tmp_path)
    assert "\\udc" in str(refused.value)
    str(refused.value).encode()
    assert not (tmp_path / "store").exists()


def test_names_in_other_scripts_are_read(tmp_path: Path) -> None:
    for split in (b"train", b"val", b"test"):
        draw(tmp_path, split, b"sad", "怒り.png".encode())
    assert load_faces(tmp_path, "train").paths == ("train/sad/怒り.png",)
