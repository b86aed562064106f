"""The training runs of an experiment, each on the test split of the codes it was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from fervit_lib.evaluation.metrics import summary_metrics
from fervit_lib.evaluation.predict import predict_probs, write_predictions
from fervit_lib.latents import LatentStore
from fervit_lib.models import load_model
from fervit_lib.runs import Run, completed_runs
from fervit_lib.runtime import resolve
from fervit_lib.training import inputs_for

_KEPT = ("approach", "strategy", "seed", "total_parameters", "trainable_parameters", "train_seconds", "peak_memory_gb")


@dataclass(frozen=True)
class Evaluated:
    """One run on its test split: labels and predicted are class numbers (N,), figures a flat row."""

    inputs: Tensor  # as the model takes them: codes (N, 18, 512), or images (N, 3, S, S)
    labels: np.ndarray
    predicted: np.ndarray
    classes: tuple[str, ...]
    synthetic: bool
    figures: dict[str, Any]

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) counts, true classes down, predicted across."""
        return confusion_matrix(self.labels, self.predicted, labels=range(len(self.classes)))


def runs_to_compare(reports: Path, experiment: str) -> list[Run]:
    """The finished training runs of an experiment. Raises FileNotFoundError if there is none."""
    runs = completed_runs(reports, experiment, "train")
    if not runs:
        raise FileNotFoundError(f"{reports / experiment / 'train'}: no finished training run there; run 02_train first")
    return runs


def evaluate_run(run: Run, folder: Path, device: torch.device) -> Evaluated:
    """Predict the test split with the run's best weights and keep the predictions as parquet in `folder`.

    Raises:
        ValueError: the codes have other classes than the model.
    """
    model, classes = load_model(run.best_checkpoint)
    store = LatentStore.open(resolve(run.config["parameters"]["latents"]), "test")
    if store.classes != classes:
        raise ValueError(
            f"{run.folder}: trained on the classes {', '.join(classes)}, but {store.folder} has "
            f"{', '.join(store.classes)}; train again on these codes"
        )
    inputs = inputs_for(model, store)
    labels, probs = store.labels.numpy(), predict_probs(model, inputs, device)
    write_predictions(folder / f"predictions-{run.variant}.parquet", store.paths, labels, probs, classes)
    result = run.result
    row = {"variant": run.variant, "num_test": len(labels), **summary_metrics(labels, probs.argmax(1))}
    row |= {name: result[name] for name in _KEPT}
    return Evaluated(inputs, labels, probs.argmax(1), classes, store.synthetic, row)
