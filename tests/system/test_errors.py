"""Names of files that are not text, in every source that is listed; no memory and no space."""

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from fervit_lib.datasets import load_faces, load_people
from fervit_lib.datasets.image_files import read_image
from fervit_lib.encoders import load_encoder
from fervit_lib.models import load_model
from fervit_lib.pt_codes import import_pt_folder
from fervit_lib.system.errors import (
    explain_in_ipython,
    explain_read_error,
    explain_system_error,
    explain_write_error,
)

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


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    "read", [load_model, lambda path: load_encoder(path, "psp")], ids=["model", "encoder"]
)
def test_weights_of_such_a_name_are_named_escaped(
    read: Callable[[Path], object], exists: bool, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(FILE + b".safetensors")
    if exists:
        path.write_bytes(b"damaged")
    with pytest.raises((ValueError, FileNotFoundError), match="udc") as refused:
        read(path)
    str(refused.value).encode()


def test_names_in_other_scripts_are_read(tmp_path: Path) -> None:
    for split in (b"train", b"val", b"test"):
        draw(tmp_path, split, b"sad", "怒り.png".encode())
    assert load_faces(tmp_path, "train").paths == ("train/sad/怒り.png",)


PARAMETERS = "batch_size: int = 8\nimage_size: int = 0\nepochs: int = 1\n"
NO_MEMORY: dict[str, tuple[Callable[[], object], str]] = {
    "torch": (lambda: torch.empty(10**12), "4,000.0 GB"),
    "numpy": (lambda: np.empty(10**14), "728. TiB"),
    "python": (lambda: bytearray(10**15), ""),
}


@pytest.mark.parametrize(("allocate", "size"), NO_MEMORY.values(), ids=NO_MEMORY)
def test_no_memory_names_the_size_and_the_parameters_to_lower(
    allocate: Callable[[], object], size: str
) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as failure:
        allocate()
    shown = explain_system_error(failure.value, PARAMETERS)
    assert type(shown) is MemoryError
    assert size in str(shown)
    assert "batch_size" in str(shown) and "image_size" in str(shown)
    assert "epochs" not in str(shown) and len(str(shown)) < 1000


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
    ids=["gpu", "cublas", "onnx", "system"],
)
def test_other_errors_of_memory(error: Exception, tmp_path: Path) -> None:
    assert "batch_size" in str(explain_system_error(error, PARAMETERS))
    with pytest.raises(type(error)), explain_read_error(tmp_path, "damaged", "make it again"):
        raise error  # no sound file is called damaged


def test_no_memory_for_an_image_is_no_unreadable_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise MemoryError

    draw(tmp_path, b"1.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "1.png")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/x"),
        OSError(errno.EROFS, os.strerror(errno.EROFS), "/somewhere/x"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/somewhere/x"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 4864 vs 4816"),
    ],
    ids=["full", "read-only", "quota", "sqlite", "torch.save"],
)
def test_no_space_names_the_folders_and_how_to_choose_others(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shown = explain_system_error(error, PARAMETERS)
    assert all(word in str(shown) for word in (str(error), str(tmp_path), "MB", "TMPDIR"))


def test_other_errors_are_shown_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="free") as written, explain_write_error(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    for error in (ValueError("allocate"), FileNotFoundError(2, "No such file"), written.value):
        assert explain_system_error(error, PARAMETERS) is error


def test_a_cell_shows_the_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    explain_in_ipython(shell, PARAMETERS)
    assert not shell.run_cell("bytearray(10**15)").success
    assert "batch_size" in capsys.readouterr().out
    assert not shell.run_cell("raise KeyError('other')").success
    shown = capsys.readouterr().out
    assert "KeyError" in shown and "batch_size" not in shown


def test_an_image_of_such_a_name_is_named_escaped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(FILE + b".png")
    path.write_text("no image")
    with pytest.raises(OSError, match="udc") as refused:
        read_image(path)
    str(refused.value).encode()
