import numpy as np
import pytest
import torch
from torch import nn

from fervit_lib.explain import few_shot, pooled_features, principal_points, probe_layers


def test_the_deeper_the_more_can_be_read(planted) -> None:
    model, codes, labels = planted
    features = pooled_features(model, codes, batch_size=25)
    assert {name: f.shape for name, f in features.items()} == {"block 1": (60, 32), "block 2": (60, 32)}
    found = probe_layers(features, labels.numpy(), features, labels.numpy(), shots=(2, 10), repeats=2)
    assert list(found["shots"]) == [2, 2, 10, 10]
    last = found[found["layer"] == "block 2"]
    assert last["accuracy"].iloc[-1] > 0.9
    assert (found["lowest"] <= found["accuracy"]).all() and (found["accuracy"] <= found["highest"]).all()


def test_shots_are_of_every_class_and_repeatable() -> None:
    labels = np.array([0] * 10 + [1] * 4)
    chosen = few_shot(labels, 3, seed=1)
    assert sorted(labels[chosen]) == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(chosen, few_shot(labels, 3, seed=1))
    with pytest.raises(ValueError, match="shots: expected at most 4, all that class 1 has, got 5"):
        few_shot(labels, 5, seed=0)


def test_the_features_of_a_cnn_are_pooled_over_the_map() -> None:
    features = pooled_features(nn.Sequential(nn.Conv2d(3, 5, 3)), torch.ones(4, 3, 8, 8))
    assert features["0"].shape == (4, 5)


def test_points_have_unit_spread() -> None:
    points = principal_points(np.random.default_rng(0).normal(size=(50, 8)) * 30)
    np.testing.assert_allclose(points.std(0), 1, atol=1e-5)
