import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.sparse.csgraph import connected_components

from fervit_lib.datasets import FaceDataset, audit, audit_faces, load_faces
from fervit_lib.datasets.audit import near_groups
from fervit_lib.datasets.toy_faces import toy_face


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


def unit(thumbnails: np.ndarray) -> np.ndarray:
    return np.stack([audit._unit(row) for row in thumbnails]).astype(np.float32)


def joined(group: np.ndarray) -> list[list[int]]:
    """The groups of several, each as its sorted rows."""
    members = [np.flatnonzero(group == number).tolist() for number in np.unique(group)]
    return sorted(rows for rows in members if len(rows) > 1)


def by_all_pairs(units: np.ndarray, threshold: float) -> list[list[int]]:
    return joined(connected_components(units @ units.T >= threshold, directed=False)[1])


def test_near_groups_ignore_brightness_contrast_and_flat_pictures() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.uniform(0, 255, (2020, 256)).astype(np.float32)
    thumbnails[2010] = 0.8 * thumbnails[3] + 20  # darker and paler: the same picture
    thumbnails[5] = thumbnails[6] = 99.0  # flat: like everything and nothing
    assert joined(near_groups(unit(thumbnails), 0.995)) == [[3, 2010]]


@pytest.mark.parametrize("block", [7, 256])
def test_near_groups_are_those_that_comparing_each_with_each_finds(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BLOCK", block)
    drawn = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(600, 1, 3, 3, generator=drawn), 16, mode="bilinear"
    ).flatten(1)
    thumbnails = 255 * (smooth + 0.02 * torch.rand(600, 256, generator=drawn)).numpy()
    thumbnails[9] = 128.0
    units = unit(thumbnails)
    for threshold in (0.97, 0.95, 0.9):
        expected = by_all_pairs(units, threshold)
        assert len(expected) > 0
        assert joined(near_groups(units, threshold)) == expected


@pytest.mark.parametrize("noise", [1.0, 4.4, 4.8, 12.0])
def test_near_groups_of_frames_of_one_video(noise: float) -> None:
    """All alike, at the threshold, and beyond it, where the box of a block rules nothing out."""
    rng = np.random.default_rng(0)
    frames = unit(rng.integers(20, 220, 256) + rng.normal(0, noise, (1500, 256)))
    assert joined(near_groups(frames, 0.995)) == by_all_pairs(frames, 0.995)


def test_the_memory_of_near_groups_does_not_grow_with_the_square() -> None:
    rng = np.random.default_rng(0)
    frames = unit(rng.integers(20, 220, 256) + rng.normal(0, 1, (6000, 256)))
    tracemalloc.start()
    group = near_groups(frames, 0.995)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(group)) == 1
    assert peak < 6000 * 5000  # the matrix of all pairs has 36 million cells


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
    with pytest.raises(ValueError, match="left in train, got none"):
        audit.clean({"train": faces}, drop_cross_split_duplicates=True)
