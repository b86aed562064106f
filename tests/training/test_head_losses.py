from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.models import LatentViT
from fervit_lib.models.attention import SIMILARITIES, Heads, capture_heads, head_similarity
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import (
    OptimConfig,
    build_learner,
    face_dls,
    fit,
    get_strategy,
    head_penalties,
)
from fervit_lib.training.head_losses import disagreement_loss, margin_diversity_loss

OPTIONS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_rate": 0.0}


def heads_of(*maps: torch.Tensor) -> Heads:
    attn = torch.stack(maps)[None]
    return Heads(attn, attn.clone(), attn.clone())


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_disagreement_is_1_for_equal_heads_and_0_for_orthogonal_ones(kind: str) -> None:
    eye = torch.eye(4)
    assert disagreement_loss(heads_of(eye, eye), kind).item() == pytest.approx(1)
    assert disagreement_loss(heads_of(eye, eye.roll(1, 1)), kind).item() == pytest.approx(0)


def test_the_margin_leaves_heads_alone_that_keep_it() -> None:
    eye = torch.eye(4)
    assert margin_diversity_loss(heads_of(eye, eye.roll(1, 1)), 0.7).item() == 0
    assert margin_diversity_loss(heads_of(eye, eye), 0.7).item() == pytest.approx(0.7)


def train(
    store: Path,
    folder: Path,
    *,
    num_heads: int = 2,
    precision: str = "float32",
    **penalties: object,
):
    """A model after three epochs, how alike its heads are by block, and its learner."""
    seed_everything(0)
    model = LatentViT(3, **OPTIONS | {"num_heads": num_heads})
    dls = face_dls(model, store, batch_size=32, device=torch.device("cpu"))
    plan = get_strategy("full")
    learn = build_learner(
        model,
        dls,
        plan,
        optim=OptimConfig(precision=precision),
        folder=folder,
        cbs=head_penalties(**penalties),
    )
    with learn.no_bar(), learn.no_logging():
        fit(learn, plan, epochs=3, lr=1e-3)
    with torch.no_grad(), capture_heads(model.eval()) as captured:
        model(dls.valid.views[0].float())
    return (
        model,
        [{kind: head_similarity(h, kind)[0, 1].item() for kind in SIMILARITIES} for h in captured],
        learn,
    )


def test_a_penalty_makes_heads_differ_and_reaches_the_weights(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    plain, before, _ = train(store, tmp_path / "plain")
    for kind in SIMILARITIES:
        model, after, learn = train(
            store, tmp_path / kind, disagreement=kind, disagreement_weight=5.0
        )
        apart = [1 - np.mean([heads[kind] for heads in found]) for found in (before, after)]
        assert apart[1] > 1.5 * apart[0], kind
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert np.isfinite(learn.recorder.values).all()
        weights = model.blocks[0].attn.qkv.weight, plain.blocks[0].attn.qkv.weight
        assert not torch.allclose(*weights)


def test_a_margin_drives_maps_apart_that_are_closer(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    _, before, _ = train(store, tmp_path / "plain")
    _, after, _ = train(store, tmp_path / "margin", head_margin=0.9, margin_weight=5.0)
    apart = [1 - np.mean([heads["position"] for heads in found]) for found in (before, after)]
    assert apart[1] > 1.5 * apart[0]


def test_a_weight_of_0_trains_the_same_as_no_penalty(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    plain, *_ = train(store, tmp_path / "plain")
    penalties = {
        "disagreement": "output",
        "disagreement_weight": 0.0,
        "head_margin": 0.5,
        "margin_weight": 0.0,
    }
    weightless, *_ = train(store, tmp_path / "none", **penalties)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(weightless.state_dict()[name], weight, atol=1e-3, rtol=1e-2)


def test_bf16_and_a_penalty_change_the_same_forward_pass(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    exact, *_ = train(store, tmp_path / "a", precision="float32", disagreement="output")
    rough, *_ = train(store, tmp_path / "b", precision="bf16", disagreement="output")
    assert not torch.equal(exact.head.weight, rough.head.weight)
    torch.testing.assert_close(exact.head.weight, rough.head.weight, atol=0.01, rtol=0.1)


def test_a_failed_pass_leaves_no_hook(make_store, tmp_path: Path) -> None:
    model, plan = LatentViT(3, **OPTIONS), get_strategy("full")
    dls = face_dls(model, make_store(tmp_path / "store"), batch_size=32, device=torch.device("cpu"))
    cbs = head_penalties(disagreement="output")
    learn = build_learner(model, dls, plan, folder=tmp_path, cbs=cbs)
    model.transformer.norm = torch.nn.LayerNorm(7)
    with pytest.raises(RuntimeError), learn.no_bar(), learn.no_logging():
        fit(learn, plan, epochs=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert "forward" not in vars(model)


def test_mistakes_are_named(make_store, tmp_path: Path) -> None:
    assert head_penalties() == []
    with pytest.raises(ValueError, match="disagreement: expected one of none, .*, got 'x'"):
        head_penalties(disagreement="x")
    with pytest.raises(ValueError, match="head_margin: expected 0 to 1, .* got 2"):
        head_penalties(head_margin=2)
    store = make_store(tmp_path / "store")
    with pytest.raises(ValueError, match="num_heads: expected at least 2 .* got 1"):
        train(store, tmp_path, disagreement="output", num_heads=1)
    model = LatentViT(3, **OPTIONS)
    model.compile()
    dls = face_dls(model, store, batch_size=32, device=torch.device("cpu"))
    cbs = head_penalties(disagreement="output")
    learn = build_learner(model, dls, get_strategy("full"), folder=tmp_path, cbs=cbs)
    with pytest.raises(ValueError, match="compile: expected false"):
        fit(learn, get_strategy("full"), epochs=1)
