from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from fervit_lib.datasets import FaceDataset, audit, audit_faces, load_faces, toy_face
from fervit_lib.datasets.audit import near_pairs
from fervit_lib.system.shards import MappedRows


def portrait(seed: int, emotion: str = "happy") -> Image.Image:
    return toy_face(emotion, np.random.default_rng(seed)).convert("L").resize((48, 48))


@pytest.fixture
def audited(tmp_path: Path):
    """Train, val and test with every fault there is; the folder, the sets and their audit."""
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for offset, name in ((0, "angry"), (50, "happy")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(6):
                portrait(first + offset + i, name).save(tmp_path / split / name / f"{i}.png")
    train, test = tmp_path / "train", tmp_path / "test"
    (train / "angry" / "again.png").write_bytes((train / "angry" / "0.png").read_bytes())
    (train / "happy" / "other_label.png").write_bytes((train / "angry" / "1.png").read_bytes())
    (test / "angry" / "leak.png").write_bytes((train / "angry" / "2.png").read_bytes())
    ImageEnhance.Brightness(Image.open(train / "angry" / "3.png")).enhance(0.9).save(
        test / "angry" / "near.jpg", quality=85
    )
    broken = train / "happy" / "broken.png"
    broken.write_bytes((train / "happy" / "0.png").read_bytes()[:300])
    sets = {split: load_faces(tmp_path, split) for split in ("train", "val", "test")}
    return sets, audit_faces(sets)


def groups(table) -> set[frozenset[str]]:
    return {frozenset(rows["path"]) for _, rows in table.groupby("group")}


def test_every_fault_is_found_and_nothing_else(audited) -> None:
    _, audit = audited
    assert audit.unreadable["path"].tolist() == ["train/happy/broken.png"]
    assert groups(audit.duplicates) == {
        frozenset({"train/angry/0.png", "train/angry/again.png"}),
        frozenset({"train/angry/1.png", "train/happy/other_label.png"}),
        frozenset({"train/angry/2.png", "test/angry/leak.png"}),
        frozenset({"train/angry/3.png", "test/angry/near.jpg"}),
    }
    assert set(audit.duplicates.loc[audit.duplicates["path"].str.contains("near"), "kind"]) == {
        "near"
    }
    assert groups(audit.groups_with_several("label")) == {
        frozenset({"train/angry/1.png", "train/happy/other_label.png"})
    }
    assert audit.groups_with_several("split")["group"].nunique() == 2
    found = audit.summary()["number"]
    assert found["images"] == 41
    assert found["unreadable images"] == 1
    assert found["groups with exact duplicates"] == 3
    assert found["groups with near duplicates only"] == 1
    assert audit.counts.loc["angry", ["train", "val", "test"]].tolist() == [7, 6, 8]


def test_cleaning_drops_what_cannot_be_read_and_on_request_what_leaks(audited) -> None:
    sets, audit = audited
    cleaned = audit.clean(sets, drop_cross_split_duplicates=False)
    assert set(sets["train"].paths) - set(cleaned["train"].paths) == {"train/happy/broken.png"}
    cleaned = audit.clean(sets, drop_cross_split_duplicates=True)
    dropped = set(sets["train"].paths) - set(cleaned["train"].paths)
    assert dropped == {"train/happy/broken.png", "train/angry/2.png", "train/angry/3.png"}
    assert dropped == {face.path for face in cleaned["train"].skipped}
    assert cleaned["test"].paths == sets["test"].paths


def test_near_pairs_ignore_brightness_contrast_and_flat_pictures() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.uniform(0, 255, (2020, 256)).astype(np.float32)
    thumbnails[2010] = 0.8 * thumbnails[3] + 20  # darker and paler: the same picture
    thumbnails[5] = thumbnails[6] = 99.0  # flat: like everything and nothing
    assert near_pairs(torch.from_numpy(thumbnails), 0.995).tolist() == [[3, 2010]]


def test_near_pairs_are_those_that_comparing_each_with_each_finds() -> None:
    drawn = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(600, 1, 3, 3, generator=drawn), 16, mode="bilinear"
    ).flatten(1)
    thumbnails = 255 * (smooth + 0.02 * torch.rand(600, 256, generator=drawn))
    centred = torch.nn.functional.normalize(thumbnails - thumbnails.mean(1, keepdim=True), dim=1)
    for threshold in (0.95, 0.9, 0.2):
        expected = (centred @ centred.T >= threshold).triu(1).nonzero()
        found = near_pairs(thumbnails, threshold)
        assert len(expected) > 0
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_wrong_arguments() -> None:
    faces = FaceDataset(
        ("a", "b"), np.array([0]), ("x",), Path("x"), pixels=np.zeros((1, 48, 48), np.uint8)
    )
    other = FaceDataset(("a", "c"), faces.labels, faces.paths, faces.source, pixels=faces.pixels)
    with pytest.raises(ValueError, match="datasets: expected sets of the same classes"):
        audit_faces({"train": faces, "test": other})
    with pytest.raises(ValueError, match="datasets: expected"):
        audit_faces({})


def test_sets_without_a_readable_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"broken")
    faces = FaceDataset(("a",), np.array([0]), ("x.png",), tmp_path)
    audit = audit_faces({"train": faces})
    assert audit.unreadable["path"].tolist() == ["x.png"]
    assert audit.duplicates.empty
    assert audit.summary()["number"]["images"] == 1
    assert not len(audit.clean({"train": faces}, drop_cross_split_duplicates=True)["train"])


def test_pairs_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    faces = rng.uniform(0, 255, (40, 256))
    faces[30:] = faces[:10] + rng.normal(0, 1, (10, 256))
    faces[5] = 128  # flat
    thumbnails = torch.from_numpy(faces).float()
    expected = near_pairs(thumbnails, 0.995)
    monkeypatch.setattr(audit, "BLOCK", 7)
    by_block = near_pairs(MappedRows([thumbnails.numpy()]), 0.995)
    assert sorted(map(tuple, by_block)) == sorted(map(tuple, expected))
    assert sorted(map(tuple, expected)) == [(i, 30 + i) for i in range(10) if i != 5]
