"""What can be read linearly at each depth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from fervit_lib.datasets import few_shot_mask
from fervit_lib.explain.similarity import layer_features, pool
from fervit_lib.system.progress import progress


def pooled_features(
    model: nn.Module, inputs: Tensor, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """One vector a face at each layer of a model, (n, D): CLS of a ViT's tokens, the mean of a CNN's map."""
    device = next(model.parameters()).device
    pooled: dict[str, list[Tensor]] = {}
    for batch in inputs.split(batch_size):
        for name, features in layer_features(model, batch.to(device)).items():
            pooled.setdefault(name, []).append(pool(features, model).float().cpu())
    return {name: torch.cat(vectors).numpy() for name, vectors in pooled.items()}


def probe_layers(
    train: dict[str, np.ndarray],
    train_labels: np.ndarray,
    test: dict[str, np.ndarray],
    test_labels: np.ndarray,
    *,
    shots: Sequence[int] = (5, 20),
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of a linear classifier fitted on few faces at every depth: what the model knows up to there.

    Args:
        train, test: as `pooled_features` gives them.
        shots: training faces of every class.
        repeats: draws of the training faces.

    Returns:
        A row a layer and number of shots: accuracy (mean over draws), lowest, highest.
    """
    rows = []
    for number in shots:
        draws = [few_shot_mask(train_labels, number, seed + i) for i in range(repeats)]
        for name, features in progress(train.items(), desc="probe", unit=" layers"):
            scores = []
            for chosen in draws:
                reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3))
                reader.fit(features[chosen], train_labels[chosen])
                scores.append(reader.score(test[name], test_labels))
            found = {"accuracy": np.mean(scores), "lowest": min(scores), "highest": max(scores)}
            rows.append({"layer": name, "shots": number, **found})
    return pd.DataFrame(rows)


def pca_points(vectors: np.ndarray) -> np.ndarray:
    """(n, D) → (n, 2), the two main directions (PCA), each scaled to unit spread so that layers can be compared."""
    points = PCA(2, random_state=0).fit_transform(vectors)
    return points / np.maximum(points.std(0), 1e-12)
