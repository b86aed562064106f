import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib import pt_codes
from fervit_lib.datasets import EMOTIONS
from fervit_lib.inputs import load_face_images, load_store_faces
from fervit_lib.latents import LatentStore


def write(folder: Path, split: str = "train", n: int = 28, **changes: object) -> torch.Tensor:
    codes = torch.randn(n, 18, 512, generator=torch.Generator().manual_seed(0)).half().float()
    (folder / split / "deep").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        path = f"/elsewhere/faces/{split}/{EMOTIONS[i % 7]}/{i}.jpg"
        content = {"latent": codes[i].clone(), "label": i % 7, "img_path": path} | changes
        torch.save(content, folder / split / "deep" / f"{i:03d}.pt")
    return codes


def test_there_and_back(tmp_path: Path) -> None:
    codes = {split: write(tmp_path / "pt", split) for split in ("train", "val", "test")}
    made = pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "store", faces=Path("/data/faces"))
    assert made == {"train": 28, "val": 28, "test": 28}
    store = LatentStore.open(tmp_path / "store", "val")
    assert torch.equal(store.codes.float(), codes["val"])
    assert store.labels.tolist() == [i % 7 for i in range(28)]
    assert store.paths[1] == "val/disgust/1.jpg"  # as load_faces calls it
    assert (store.classes, store.encoder, store.faces) == (EMOTIONS, "psp", Path("/data/faces"))
    assert pt_codes.export_pt_folder(tmp_path / "store", tmp_path / "out") == made
    content = torch.load(tmp_path / "out" / "test" / "000003.pt", weights_only=True)
    assert torch.equal(content["latent"], codes["test"][3])
    assert (content["label"], content["img_path"]) == (3, "test/happy/3.jpg")
    pt_codes.import_pt_folder(tmp_path / "out", tmp_path / "again", faces=Path("/data/faces"))
    for path in (tmp_path / "store").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_without_val_an_eighth_of_train_becomes_one(tmp_path: Path) -> None:
    write(tmp_path / "pt", n=56)
    assert pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "s", faces=tmp_path) == {
        "train": 49,
        "val": 7,
    }
    train, val = (LatentStore.open(tmp_path / "s", split) for split in ("train", "val"))
    assert not set(train.paths) & set(val.paths)
    assert sorted(val.labels.tolist()) == list(range(7))


def test_labels_as_names_and_codes_with_a_batch_axis(tmp_path: Path) -> None:
    write(
        tmp_path / "pt",
        label="sad",
        latent=torch.zeros(1, 16, 512),
        img_path=Path("/x/train/sad/1.jpg"),
        n=8,
    )
    pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "s", faces=Path("/x"))
    store = LatentStore.open(tmp_path / "s", "train")
    assert store.codes.shape == (7, 16, 512)
    assert set(store.labels.tolist()) == {EMOTIONS.index("sad")}
    assert store.paths[0] == "train/sad/1.jpg"


def test_codes_that_have_no_picture_train_models_over_codes(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / "pt", split, 14)
        for label, name in enumerate(EMOTIONS):
            (tmp_path / "faces" / split / name).mkdir(parents=True)
            for i in range(label, 14, 7):
                Image.new("L", (8, 8)).save(tmp_path / "faces" / split / name / f"{i}.jpg")
    for label in range(7):
        content = {"latent": torch.ones(18, 512), "label": label, "augmented": True, "step": 1.0}
        if label:
            content["img_path"] = None
        torch.save(content, tmp_path / "pt" / "train" / f"{label}_dir3_step1.0.pt")
    counts = pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "s", faces=tmp_path / "faces")
    assert counts == {"train": 21, "val": 14, "test": 14}
    store = LatentStore.open(tmp_path / "s", "train")
    made = [i for i, path in enumerate(store.paths) if path.endswith(".pt")]
    assert [store.paths[i] for i in made] == [f"train/{n}_dir3_step1.0.pt" for n in range(7)]
    assert store.labels[made].tolist() == list(range(7))
    others = np.setdiff1d(np.arange(21), made)
    assert len(load_face_images(store, others)) == 14
    assert load_face_images(store, np.array(made)) == []
    with pytest.raises(ValueError, match=r"train/0_dir3_step1\.0\.pt .*no picture"):
        load_store_faces(store, np.arange(21))


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("run",)


def code(**changes: object) -> dict[str, object]:
    return {"latent": torch.zeros(18, 512), "label": 1, "img_path": ""} | changes


BAD_FILES = {
    "code": ({"latent": Evil()}, "refused"),
    "list": ([1], "expected {latent, label, img_path}"),
    "no label": ({"latent": torch.zeros(18, 512), "img_path": ""}, "but no label"),
    "no latent": ({"w": torch.zeros(18, 512), "label": 1}, "has w, label, but no latent"),
    "number as latent": (code(latent=7), "latent: expected"),
    "sparse": (code(latent=torch.zeros(18, 512).to_sparse()), "latent: expected"),
    "integers": (code(latent=torch.zeros(18, 512).int()), "int32"),
    "one axis": (code(latent=torch.zeros(18)), "latent: expected shape (layers, 512)"),
    "a terabyte": (code(latent=torch.zeros(1, 512).expand(10**9, 512)), "latent: expected shape"),
    "no layers": (code(latent=torch.zeros(0, 512)), "latent: expected shape"),
    "fewer layers": (code(latent=torch.zeros(14, 512)), "latent: expected shape (18, 512)"),
    "large label": (code(label=7), "label: expected 0 to 6"),
    "infinite label": (code(label=float("inf")), "label"),
    "unknown class": (code(label="bored"), "label"),
    "share of a class": (code(label=2.9), "label: expected a whole number"),
    "truth": (code(label=True), "label: expected a whole number"),
    "a tensor's truth": (code(label=torch.tensor(True)), "label: expected a whole number"),
    "several labels": (code(label=torch.tensor([1, 2])), "label"),
    "no number": (code(label=None), "label"),
    "NaN": (code(label=float("nan")), "label"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pt", n=8)
    torch.save(content, tmp_path / "pt" / "train" / "deep" / "003.pt")
    with pytest.raises(ValueError, match=rf"003\.pt.*{re.escape(message)}"):
        pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "store", faces=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pt"]


@pytest.mark.parametrize("label", [2, 2.0, torch.tensor(2), torch.tensor([2.0]), "fear"])
def test_labels_as_numbers(tmp_path: Path, label: object) -> None:
    write(tmp_path / "pt", label=label, n=8)
    pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "s", faces=tmp_path)
    assert set(LatentStore.open(tmp_path / "s", "train").labels.tolist()) == {2}


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "pt", n=8)
    file = tmp_path / "pt" / "train" / "deep" / "003.pt"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"003\.pt: expected"):
        pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "store", faces=tmp_path)


def test_codes_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "pt", n=8, latent=torch.full((18, 512), torch.nan))
    with pytest.raises(ValueError, match="codes: expected finite"):
        pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "store", faces=tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "pt", n=16)
    pt_codes.main(["import", str(tmp_path / "pt"), str(tmp_path / "s"), "--faces", str(tmp_path)])
    assert "train" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such folder"):
        pt_codes.main(
            ["import", str(tmp_path / "none"), str(tmp_path / "s"), "--faces", str(tmp_path)]
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"expected \.pt files in"):
        pt_codes.main(
            ["import", str(tmp_path / "empty"), str(tmp_path / "s"), "--faces", str(tmp_path)]
        )
