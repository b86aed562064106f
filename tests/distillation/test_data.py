from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fervit_lib.datasets import draw_toy_people, list_skipped
from fervit_lib.distillation import Augment, people_dls


def test_augmentation_is_the_same_for_image_and_mask_and_for_a_seed(tmp_path: Path) -> None:
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


def views_of(folder: Path) -> dict[str, list[torch.Tensor]]:
    """The augmented versions of each training image, by its name."""
    dls = people_dls(folder, size=32, batch_size=2, device=torch.device("cpu"))
    views: dict[str, list[torch.Tensor]] = {}
    for dls.train.epoch in range(3):
        for index, path in enumerate(dls.train.people.images):
            views.setdefault(path.name, []).append(dls.train.prepare(index)[0])
    return views


def test_an_image_that_is_removed_changes_no_other_augmentation(tmp_path: Path) -> None:
    folder = draw_toy_people(tmp_path / "toy", 10, 32)
    before = views_of(folder)
    name = min(before)
    for kind in ("images", "masks"):
        next((folder / "train" / kind).glob(f"{Path(name).stem}.*")).unlink()
    after = views_of(folder)
    assert before.keys() - after.keys() == {name}
    for image, views in after.items():
        assert all(map(torch.equal, views, before[image])), image
    assert not torch.equal(*before[name][:2])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_photographs_that_cannot_be_read_are_listed_and_left_out(
    tmp_path: Path, suffix: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(noise[number]).save(tmp_path / split / "images" / f"{number}{suffix}")
            Image.new("L", (32, 32), 255).save(tmp_path / split / "masks" / f"{number}.png")
    images = tmp_path / "train" / "images"
    cut, empty = images / f"3{suffix}", images / f"4{suffix}"
    cut.write_bytes(cut.read_bytes()[:900])
    empty.write_bytes(b"")
    mask = tmp_path / "train" / "masks" / "5.png"
    mask.write_bytes(mask.read_bytes()[:40])
    (images / "notes.txt").write_text("no image")
    (images / "Thumbs.db").write_text("of Windows")
    dls = people_dls(tmp_path, size=32, batch_size=2, device=torch.device("cpu"))
    assert len(dls.train.people) == 7
    assert sum(len(keys) for _, _, keys in dls.train) == 6  # of 7 in full batches
    skipped = list_skipped({"train": dls.train.people})
    expected = [f"train/images/{n}{suffix}" for n in (3, 4, 5)]
    assert sorted(skipped["path"]) == [*expected, "train/images/notes.txt"]
    for image in images.glob(f"*{suffix}"):
        image.write_bytes(b"")
    with pytest.raises(ValueError, match="images"):
        people_dls(tmp_path, size=32, batch_size=2, device=torch.device("cpu"))
