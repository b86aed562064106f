"""What a linear classifier can read from the features at each depth."""

from collections import defaultdict

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fervit_lib.datasets import few_shot_mask
from fervit_lib.explain.similarity import layer_features, pool
from fervit_lib.system.progress import progress


def pooled_features(
    model: nn.Module, inputs: Tensor, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """One vector per face at each of the model's `feature_layers`, (n, D), pooled as in `pool`."""
    pooled: dict[str, list[Tensor]] = defaultdict(list)
    for batch in inputs.split(batch_size):
        for name, features in layer_features(model, batch).items():
            pooled[name].append(pool(features, model).float().cpu())
    return {name: torch.cat(vectors).numpy() for name, vectors in pooled.items()}


def probe_layers(
    train: dict[str, np.ndarray],
    train_labels: np.ndarray,
    test: dict[str, np.ndarray],
    test_labels: np.ndarray,
    *,
    shots: int = 20,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of a linear classifier fitted on few faces, at every depth.

    Args:
        train, test: from `pooled_features`.
        shots: training faces per class.
        repeats: random draws of the training faces.

    Returns:
        One row per layer: layer, accuracy (mean over draws), lowest, highest.
    """
    # scikit-learn takes a second to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = []
    draws = [few_shot_mask(train_labels, shots, seed + i) for i in range(repeats)]
    for name, features in progress(train.items(), desc="probe", unit=" layers"):
        scores = []
        for drawn in draws:
            # Scaled, since features of different blocks differ in size, and with it the effect of
            # the regularisation.
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3))
            probe.fit(features[drawn], train_labels[drawn])
            scores.append(probe.score(test[name], test_labels))
        rows.append((name, np.mean(scores), min(scores), max(scores)))
    return pd.DataFrame(rows, columns=["layer", "accuracy", "lowest", "highest"])


def pca_points(vectors: np.ndarray) -> np.ndarray:
    """(n, D) → (n, 2), the first two principal components, each scaled to unit variance."""
    from sklearn.decomposition import PCA

    points = PCA(2, random_state=0).fit_transform(vectors)
    return points / np.maximum(points.std(0), 1e-12)
