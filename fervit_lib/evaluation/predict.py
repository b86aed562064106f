"""Predictions of a model, and the file that keeps them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fervit_lib.runs import atomic_write


@torch.inference_mode()
def predict_probs(model: nn.Module, inputs: Tensor, device: torch.device, batch_size: int = 512) -> np.ndarray:
    """`inputs` (N, …) as the model takes them → probabilities (N, num_classes), float32."""
    model = model.eval().to(device)
    batches = [model(batch.to(device)).float().softmax(-1).cpu() for batch in inputs.split(batch_size)]
    return torch.cat(batches).numpy()


def write_predictions(
    path: Path, paths: Sequence[str], labels: np.ndarray, probs: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Write parquet, a row a face: path, label and predicted (class names), confidence, `prob_<class>`."""
    frame = pd.DataFrame({"path": list(paths)})
    frame["label"] = [classes[i] for i in labels]
    frame["predicted"] = [classes[i] for i in probs.argmax(1)]
    frame["confidence"] = probs.max(1)
    for i, name in enumerate(classes):
        frame[f"prob_{name}"] = probs[:, i]
    with atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False)
    return frame


def read_predictions(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no predictions there; run 04_evaluate")
    return pd.read_parquet(path)
