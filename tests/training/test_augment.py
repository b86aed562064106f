"""Training codes that move along the direction of their own emotion."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback
from torch import Tensor

from fervit_lib.explain import training_directions
from fervit_lib.latents import BANDS, LatentStore
from fervit_lib.models import LatentViT
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import (
    AugmentCodes,
    LossConfig,
    build_learner,
    face_dls,
    fit,
    get_strategy,
    preview_batch,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(make_store: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> LatentStore:
    return LatentStore.open(make_store(tmp_path_factory.mktemp("moved") / "store"), "train")


@pytest.fixture
def directions() -> Tensor:
    return torch.randn(3, 18, 512, generator=torch.Generator().manual_seed(0))


def steps_of(moved: Tensor, direction: Tensor) -> Tensor:
    """(B,) steps along directions (B, 18, 512); what moves in another way is an error."""
    steps = (moved * direction).sum((1, 2)) / direction.square().sum((1, 2))
    torch.testing.assert_close(moved, steps[:, None, None] * direction, atol=1e-4, rtol=0)
    return steps


def test_each_code_moves_by_its_own_step_along_the_direction_of_its_label(
    directions: Tensor,
) -> None:
    seed_everything(0)
    codes = torch.randn(300, 18, 512)
    labels = torch.arange(300) % 3
    augment = AugmentCodes(move=1.5, directions=directions)
    moved = augment.move_codes(codes, labels)
    steps = steps_of(moved - codes, directions[labels])
    assert 0 <= steps.min() < 0.1 and 1.4 < steps.max() < 1.5
    assert steps.mean() == pytest.approx(0.75, abs=0.1)
    seed_everything(0)
    torch.randn(300, 18, 512)
    assert torch.equal(augment.move_codes(codes, labels), moved)
    assert not torch.equal(augment.move_codes(codes, labels), moved)


def test_soft_labels_move_along_the_mean_weighted_by_their_shares(directions: Tensor) -> None:
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.0, 0.8], [0.3, 0.3, 0.4]])
    codes = torch.randn(3, 18, 512)
    augment = AugmentCodes(move=1.0, directions=directions)
    seed_everything(1)
    moved = augment.move_codes(codes, shares)
    expected = (shares[:, :, None, None] * directions).sum(1)
    assert (steps_of(moved - codes, expected) > 0).all()
    seed_everything(1)
    hard = augment.move_codes(codes, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(moved[0], hard[0])  # all of one class: as a hard label


@pytest.mark.parametrize("move", [-1.0, float("nan"), float("inf")])
def test_a_step_out_of_range_is_refused(move: float, directions: Tensor) -> None:
    with pytest.raises(ValueError, match="latent_move: expected"):
        AugmentCodes(move=move, directions=directions)


def test_a_step_without_directions_is_refused() -> None:
    with pytest.raises(ValueError, match="directions: expected"):
        AugmentCodes(move=1.0)


def test_training_codes_move_before_mixup_and_validation_codes_do_not(
    store: LatentStore, tmp_path: Path
) -> None:
    seen: dict[tuple[bool, str], list[Tensor]] = {}

    def watch(when: int, name: str) -> Callback:
        class Watch(Callback):
            order = when

            def before_batch(self) -> None:
                seen.setdefault((self.training, name), []).append(self.x.clone())

        return Watch()

    seed_everything(0)
    model = LatentViT(3, embed_dim=32, depth=1, num_heads=2)
    dls = face_dls(model, store.folder, batch_size=16, device=CPU)
    directions = training_directions(store, dls.chosen, "middle", "emotion")
    moving = AugmentCodes(move=1.0, directions=directions)
    watching = [watch(-6, "plain"), watch(-4, "moved"), watch(5, "mixed")]
    loss, plan = LossConfig(mixup=0.4), get_strategy("full")
    learn = build_learner(model, dls, plan, loss, folder=tmp_path, cbs=[moving, *watching])
    fit(learn, plan, epochs=1, lr=1e-3)
    for name in ("moved", "mixed"):
        for plain, later in zip(seen[False, "plain"], seen[False, name], strict=True):
            assert torch.equal(plain, later)
    batches = [seen[True, name] for name in ("plain", "moved", "mixed")]
    for plain, moved, mixed in zip(*batches, strict=True):
        change = (moved - plain).abs().amax((0, 2))
        middle = torch.zeros(18, dtype=torch.bool)
        middle[BANDS["middle"]] = True
        assert (change[middle] > 0).all() and not change[~middle].any()
        assert not torch.equal(moved, mixed)


def test_the_preview_moves_every_view_along_the_direction_of_its_label(
    store: LatentStore, directions: Tensor
) -> None:
    model = LatentViT(3, embed_dim=32, depth=1, num_heads=2)
    dls = face_dls(model, store.folder, batch_size=16, device=CPU, shots=8)
    dls.train.views = [dls.train.views[0], 2 * dls.train.views[0]]
    batch = preview_batch(dls, [AugmentCodes(move=1.0, directions=directions)])
    plain = preview_batch(dls, [])
    steps = steps_of(batch.inputs - plain.inputs, directions[batch.targets])
    assert (steps >= 0).all() and (steps <= 1).all()
