from functools import partial

import numpy as np
import pytest
import torch

from fervit_lib.evaluation import predict_probs
from fervit_lib.explain import (
    METHODS,
    band_of,
    band_shares,
    cka_matrix,
    deletion_curve,
    head_importance,
    head_statistics,
    layer_position_embeddings,
    leave_one_out,
    method_scores,
    permutation_importance,
    pooled_features,
    random_curves,
    rank_agreement,
    summarise_attention,
    swap_effect,
    swap_layers,
    token_map,
)
from fervit_lib.latents import BANDS, layer_bands
from fervit_lib.models import create_model

PLANTED = 5


@pytest.fixture
def predict(planted):
    return partial(predict_probs, planted[0], device=torch.device("cpu"))


def swapped_bands(codes: torch.Tensor, other: torch.Tensor) -> tuple:
    """`other`, and `codes` with each band of `other`."""
    bands = layer_bands(codes.shape[1])
    mixed = {band: swap_layers(codes, other, layers) for band, layers in bands.items()}
    return other, {"all": other} | mixed


def test_every_ranking_finds_the_planted_layer(planted, predict) -> None:
    _, codes, labels = planted
    for result in (
        leave_one_out(predict, codes, labels.numpy(), torch.zeros(18, 512)),
        permutation_importance(predict, codes, labels.numpy()),
    ):
        assert result["drop"].idxmax() == PLANTED
        assert result.loc[PLANTED, "drop_low"] > 0.2
        rest = result.drop(index=PLANTED)
        assert rest["drop"].abs().max() < 0.15
        assert (result["drop_low"] <= result["drop"]).all() and (
            result["drop"] <= result["drop_high"]
        ).all()


def test_the_right_ranking_beats_random_orders_and_a_wrong_one_does_not(planted, predict) -> None:
    _, codes, _ = planted
    fill = torch.zeros(18, 512)
    right = torch.eye(18)[PLANTED]
    for insert, sign in ((False, -1), (True, 1)):
        run = partial(deletion_curve, predict, codes, fill=fill, insert=insert)
        control = random_curves(predict, codes, fill, insert=insert, repeats=3).mean()
        assert sign * (run(scores=right).mean() - control) > 0.05
        assert sign * (run(scores=-right).mean() - control) < 0
    random = random_curves(predict, codes, fill, repeats=2, seed=4)
    assert random.shape == (2, 19)
    assert np.array_equal(random, random_curves(predict, codes, fill, repeats=2, seed=4))


def test_curves_start_and_end_at_the_whole_code_and_the_fill(planted, predict) -> None:
    _, codes, _ = planted
    fill, scores = torch.zeros(18, 512), torch.rand(60, 18)
    down = deletion_curve(predict, codes, scores, fill)
    up = deletion_curve(predict, codes, scores, fill, insert=True)
    assert down[0] == pytest.approx(predict(codes).max(1).mean())
    assert up[-1] == pytest.approx(down[0]) and up[0] == pytest.approx(down[-1])
    with pytest.raises(ValueError, match="scores"):
        deletion_curve(predict, codes, torch.rand(60, 19), fill)


def test_replacing_and_swapping_change_only_the_given_layers() -> None:
    codes, other = torch.randn(2, 4, 18, 512)
    fill = torch.randn(18, 512)
    changed = swap_layers(codes, fill, [0, 7])
    assert torch.equal(changed[2, 7], fill[7]) and torch.equal(changed[:, 1:7], codes[:, 1:7])
    swapped = swap_layers(codes, other, BANDS["middle"])
    assert torch.equal(swapped[:, 3:7], other[:, 3:7]) and torch.equal(swapped[:, 7:], codes[:, 7:])
    assert [band_of(layer) for layer in (0, 2, 3, 6, 7, 17)] == ["coarse"] * 2 + ["middle"] * 2 + [
        "fine"
    ] * 2


def test_the_band_with_the_planted_layer_carries_the_expression(planted, predict) -> None:
    _, codes, _ = planted
    effect = swap_effect(predict, codes, *swapped_bands(codes, codes.roll(1, dims=0)))
    effect = effect.set_index("mixture")
    assert effect.loc["middle", "taken"] > 0.8 and effect.loc["fine", "kept"] > 0.8
    assert effect.loc["all", "taken"] == 1
    assert effect.loc["all", "num_pairs"] <= 60


@pytest.mark.parametrize("num_layers", [14, 16, 18])
@pytest.mark.parametrize("approach", ["scratch", "hybrid"])
def test_codes_of_a_smaller_stylegan_are_explained_alike(approach: str, num_layers: int) -> None:
    torch.manual_seed(0)
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "position": "semantic"}
    timm_model = {"model_name": "test_vit", "pretrained": "none", "num_blocks": 2}
    options = small if approach == "scratch" else timm_model
    model = create_model(approach, 3, num_tokens=num_layers, **options).eval()
    codes, labels = torch.randn(12, num_layers, 512), np.arange(12) % 3
    predict = partial(predict_probs, model, device=torch.device("cpu"))
    fill = codes.mean(0)

    scores = method_scores(model, codes)
    assert {score.shape for score in scores.values()} == {(12, num_layers)}
    for method, has_blocks in METHODS.items():
        n = num_layers + 1
        assert token_map(model, codes[:1], method).shape == ((n, n) if has_blocks else (1, n))
    shares = band_shares(scores["attention"])
    assert shares["share"].sum() == pytest.approx(1) == shares["even"].sum()
    assert list(shares["even"] * num_layers) == pytest.approx([3, 4, num_layers - 7])

    without = leave_one_out(predict, codes, labels, fill)
    assert list(without["layer"]) == list(range(num_layers))
    assert list(without["band"]).count("fine") == num_layers - 7
    assert len(deletion_curve(predict, codes, scores["rollout"], fill)) == num_layers + 1
    assert len(rank_agreement(scores, without["drop"].to_numpy())) == len(METHODS)
    swaps = swap_effect(predict, codes, *swapped_bands(codes, codes.flip(0)))
    swaps = swaps.set_index("mixture")
    assert list(swaps.index) == ["all", "coarse", "middle", "fine"]
    assert swaps.loc["all", "taken"] == 1 or swaps.loc["all", "num_pairs"] == 0

    assert (head_statistics(model, codes).distance < num_layers).all()
    assert head_importance(model, codes, torch.from_numpy(labels)).shape[0] == 2
    assert summarise_attention(model, codes, torch.from_numpy(labels), 3).mean.shape[-1] == n
    assert len(layer_position_embeddings(model)) == num_layers
    assert cka_matrix(model, model, codes, codes)[0].shape == (2, 2)
    assert pooled_features(model, codes)["block 1"].shape[0] == 12


def test_a_constant_prediction_gives_nothing_to_rank_or_swap() -> None:
    codes = torch.randn(6, 18, 512)
    table = rank_agreement({"attention": torch.rand(6, 18)}, np.zeros(18))
    assert table[["rank_correlation", "p"]].values.tolist() == [[0.0, 1.0]]
    others = codes.flip(0)
    swaps = swap_effect(
        lambda c: np.tile([0.1, 0.9], (len(c), 1)), codes, *swapped_bands(codes, others)
    )
    assert (swaps[["kept", "taken", "num_pairs"]] == 0).all(axis=None)
