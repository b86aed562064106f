import numpy as np
import pandas as pd
import torch
from torch import nn

from fervit_lib.explain import pca_points, pooled_features, probe_layers


def test_probes_improve_with_depth_and_shots(planted) -> None:
    model, codes, labels = planted
    features = pooled_features(model, codes, batch_size=25)
    assert {name: f.shape for name, f in features.items()} == {
        "block 1": (60, 32),
        "block 2": (60, 32),
    }
    few, many = (
        probe_layers(features, labels.numpy(), features, labels.numpy(), shots=shots, repeats=2)
        for shots in (2, 10)
    )
    result = pd.concat([few, many], ignore_index=True)
    assert list(result["layer"]) == ["block 1", "block 2"] * 2
    assert many["accuracy"].iloc[-1] > 0.9
    assert (result["lowest"] <= result["accuracy"]).all() and (
        result["accuracy"] <= result["highest"]
    ).all()


def test_the_features_of_a_cnn_are_pooled_over_the_map() -> None:
    features = pooled_features(nn.Sequential(nn.Conv2d(3, 5, 3)), torch.ones(4, 3, 8, 8))
    assert features["0"].shape == (4, 5)


def test_points_have_unit_spread() -> None:
    points = pca_points(np.random.default_rng(0).normal(size=(50, 8)) * 30)
    np.testing.assert_allclose(points.std(0), 1, atol=1e-5)
