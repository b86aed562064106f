"""Directions to an expression: where they point, how far, and what they change in a picture."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fervit_lib.datasets import EMOTIONS, toy_face
from fervit_lib.encoders import Autoencoder, decode_pixels, images_to_tensor
from fervit_lib.explain import (
    STRENGTHS,
    change_elsewhere,
    change_in_region,
    direction_response,
    expression_directions,
    expression_regions,
    limit_to,
    training_directions,
)
from fervit_lib.latents import LatentStore, complete_store, write_shard
from fervit_lib.system.shards import shard_path
from tests.explain.conftest import PLANTED, planted_codes


def open_store(folder: Path, codes: Tensor, labels: Tensor, shard_size: int) -> LatentStore:
    starts = range(0, len(codes), shard_size)
    for number, start in enumerate(starts):
        part = slice(start, start + shard_size)
        names = [f"train/{i}.png" for i in range(start, start + len(codes[part]))]
        path = shard_path(folder, "train", number)
        write_shard(path, codes[part], labels[part].numpy(), names, "made")
    classes = [f"class{i}" for i in range(int(labels.max()) + 1)]
    about = {"encoder": "autoencoder", "faces": Path("faces"), "synthetic": True}
    complete_store(folder, {"train": len(codes)}, classes=classes, **about)
    return LatentStore.open(folder, "train")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LatentStore:
    for module in ("latents.store", "explain.directions"):  # read in several parts
        monkeypatch.setattr(f"fervit_lib.{module}.SHARD_SIZE", 250)
    return open_store(tmp_path, *planted_codes(600, seed=0), 250)


def test_a_direction_is_that_of_the_layer_that_carries_the_class(store: LatentStore) -> None:
    assert len(store.shards) == 3
    directions = expression_directions(store)
    assert directions.shape == (3, 18, 512)
    assert (directions.norm(dim=-1).argmax(1) == PLANTED).all()
    codes, labels = planted_codes(600, seed=1)  # other faces of the same kind
    for label, direction in enumerate(directions[:, PLANTED]):
        here, others = (
            codes[mask][:, PLANTED].mean(0) for mask in (labels == label, labels != label)
        )
        assert torch.cosine_similarity(direction, here - others, dim=0) > 0.95


def test_a_step_of_one_leads_from_the_mean_of_the_others_to_that_of_the_class(
    store: LatentStore,
) -> None:
    codes = store.rows[:].float()
    for label, direction in enumerate(expression_directions(store)):
        here, others = (
            codes[mask].mean(0) for mask in (store.labels == label, store.labels != label)
        )
        unit = torch.nn.functional.normalize(direction, dim=-1)
        left = ((others + direction - here) * unit).sum(-1)
        assert left.abs().max() < 1e-3 * direction.norm(dim=-1).max()


def test_random_directions_are_as_long_and_lead_elsewhere(store: LatentStore) -> None:
    directions = expression_directions(store)
    random = expression_directions(store, seed=0)
    assert torch.allclose(random.norm(dim=-1), directions.norm(dim=-1), rtol=1e-4)
    assert torch.cosine_similarity(random, directions, dim=-1)[:, PLANTED].abs().max() < 0.4
    assert torch.equal(random, expression_directions(store, seed=0))
    assert not torch.allclose(random, expression_directions(store, seed=1))


def test_a_class_without_faces_has_no_direction(tmp_path: Path) -> None:
    codes, labels = planted_codes(60, seed=0)
    labels = torch.where(labels == 1, 0, labels)
    directions = expression_directions(open_store(tmp_path, codes, labels, 1024))
    assert not directions[1].any()
    assert directions.isfinite().all() and directions[0].any()


def test_a_layer_that_is_equal_in_all_codes_has_no_direction(tmp_path: Path) -> None:
    codes, labels = planted_codes(60, seed=0)
    codes[:, 3] = 1.0
    directions = expression_directions(open_store(tmp_path, codes, labels, 1024))
    assert directions.isfinite().all()
    assert directions[:, 3].abs().max() < 1e-4 * directions[:, PLANTED].abs().max()


def test_directions_end_with_several_threads(tmp_path: Path) -> None:
    store = open_store(tmp_path, *planted_codes(300, seed=0), 1024)
    code = "import sys, torch; torch.set_num_threads(4)\n"
    code += "from fervit_lib import explain, latents\n"
    code += "store = latents.LatentStore.open(sys.argv[1], 'train')\n"
    code += "torch.save(explain.expression_directions(store), sys.argv[2])"
    result = store.folder / "directions.pt"
    environment = os.environ | {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    command = [sys.executable, "-c", code, store.folder, result]
    subprocess.run(command, env=environment, timeout=120, check=True)
    torch.testing.assert_close(
        torch.load(result), expression_directions(store), atol=1e-3, rtol=1e-3
    )


def test_training_directions_know_only_the_faces_that_are_used(
    store: LatentStore, tmp_path: Path
) -> None:
    used = np.flatnonzero(np.arange(len(store)) % 4 == 0)
    codes, labels = store.take(used).float(), store.labels[used]
    alone = open_store(tmp_path / "used", codes, labels, 1024)
    everything = np.arange(len(alone))
    for along in ("emotion", "random"):
        of_used = training_directions(store, used, "coarse, middle, fine", along, seed=1)
        expected = training_directions(alone, everything, "coarse, middle, fine", along, seed=1)
        assert torch.allclose(of_used, expected, atol=1e-4)
    assert not torch.allclose(of_used, expression_directions(store, seed=1), atol=1e-2)


def test_training_directions_move_the_named_bands_only(store: LatentStore) -> None:
    everything = np.arange(len(store))
    emotion = training_directions(store, everything, "coarse, fine", "emotion")
    random = training_directions(store, everything, "coarse, fine", "random")
    for directions in (emotion, random):
        moves = directions.any(-1).all(0)
        assert moves[:3].all() and not moves[3:7].any() and moves[7:].all()
    assert torch.allclose(emotion.norm(dim=-1), random.norm(dim=-1), rtol=1e-4)
    assert not torch.allclose(emotion, random)
    for bands in ("coarse, eyes", "", " , "):
        with pytest.raises(ValueError, match="move_bands: expected one of coarse, middle, fine"):
            training_directions(store, everything, bands, "emotion")
    with pytest.raises(ValueError, match="move_along: expected one of emotion, random"):
        training_directions(store, everything, "fine", "happy")


def test_directions_limited_to_layers_move_no_other() -> None:
    directions = torch.randn(3, 18, 512)
    limited = limit_to(directions, range(3, 7))
    assert torch.equal(limited[:, 3:7], directions[:, 3:7])
    assert not limited[:, :3].any() and not limited[:, 7:].any()


def test_a_linear_classifier_rises_along_its_own_weights_and_not_along_others() -> None:
    weights = torch.eye(3, 18 * 512).unflatten(1, (18, 512))

    def predict(codes: Tensor) -> np.ndarray:
        return (codes.flatten(1) @ weights.flatten(1).T).softmax(1).numpy()

    codes, labels = torch.randn(30, 18, 512), np.arange(30) % 3
    response = direction_response(predict, codes, labels, dict(enumerate(2 * weights)))
    assert (response["rising"] == 1).all()
    for label in range(3):
        others = codes[torch.from_numpy(labels) != label]
        assert np.isclose(response[0.0][label], predict(others)[:, label].mean())
    unmoved = direction_response(predict, codes, labels, dict.fromkeys(range(3), 0 * weights[0]))
    assert (unmoved["rising"] == 0).all()
    assert np.allclose(unmoved[STRENGTHS[-1]], unmoved[0.0])
    alone = direction_response(
        predict, codes[labels == 0], labels[labels == 0], dict(enumerate(weights))
    )
    assert alone.loc[0].isna().all() and alone.loc[1].notna().all()


def test_layers_that_do_not_move_change_as_much_as_the_pictures_tell() -> None:
    class Leaky(nn.Module):
        """A decoder and encoder by which a share of layer 0 gets into all others."""

        mean_code = torch.zeros(2, 4)

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

        def decode(self, codes: Tensor) -> Tensor:
            return torch.cat([codes[:, :1], codes[:, 1:] + self.share * codes[:, :1]], dim=1)

        def forward(self, images: Tensor) -> Tensor:
            return images

    codes = torch.randn(50, 3, 4)
    direction = limit_to(torch.ones(3, 4), [0])
    none, some, more = (
        change_elsewhere(model, model, codes, {0: direction})[0]
        for model in (Leaky(0.0), Leaky(0.1), Leaky(0.2))
    )
    assert none == 0
    assert 0 < some < more


def test_a_region_is_where_the_action_units_of_the_emotion_draw() -> None:
    regions = dict(zip(EMOTIONS, expression_regions(64, num_faces=10), strict=True))
    assert not regions["neutral"].any()
    upper, lower = slice(16, 32), slice(36, 56)  # brows and eyes; mouth
    share = {name: r[lower].sum() / r[upper].sum() for name, r in regions.items() if r.any()}
    assert share["happy"] > 1 > share["angry"]


def test_happiness_moves_the_region_of_its_action_units_most(tmp_path: Path) -> None:
    """On toy faces the truth is known: cheeks and corners of the mouth, units 6 and 12."""
    labels = torch.arange(700) % len(EMOTIONS)
    faces = [
        toy_face(EMOTIONS[label], np.random.default_rng((0, i))) for i, label in enumerate(labels)
    ]
    images = images_to_tensor(faces, 64)
    encoder = Autoencoder(64).eval()
    torch.manual_seed(0)
    encoder.fit(images)
    with torch.inference_mode():
        codes = encoder(images).clone()
    store = open_store(tmp_path, codes, labels, 1024)
    before = decode_pixels(encoder, codes[:50], 64)
    regions = expression_regions(64)

    def change(directions: Tensor, emotion: str) -> float:
        """Of the direction of happiness, in the region of an emotion."""
        moved = decode_pixels(encoder, codes[:50] + directions[EMOTIONS.index("happy")], 64)
        return change_in_region(before, moved, regions[EMOTIONS.index(emotion)])

    directions = expression_directions(store)
    shares = {emotion: change(directions, emotion) for emotion in EMOTIONS if emotion != "neutral"}
    assert max(shares, key=shares.__getitem__) == "happy"
    assert shares["happy"] > 2
    assert change(expression_directions(store, seed=0), "happy") < shares["happy"] / 1.5
