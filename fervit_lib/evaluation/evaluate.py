"""Metrics of a training run on the test split of the codes that it was trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fervit_lib.datasets import FaceDataset
from fervit_lib.evaluation.calibration import (
    apply_temperature,
    calibration_metrics,
    fit_temperature,
)
from fervit_lib.evaluation.metrics import class_roc_auc, summary_metrics
from fervit_lib.evaluation.predict import Predictions, predict_probs, write_predictions
from fervit_lib.evaluation.significance import score_intervals
from fervit_lib.inputs import images_to_pixels, inputs_for, load_store_faces
from fervit_lib.latents import LatentStore
from fervit_lib.models import load_model
from fervit_lib.runs import Run

# What an evaluation takes over from a training run: from its result.json, and of its parameters.
RESULT_KEYS = (
    "approach",
    "strategy",
    "seed",
    "total_parameters",
    "trainable_parameters",
    "train_seconds",
    "peak_memory_gb",
)
_SUBSET_PARAMETERS = ("data_fraction", "shots", "data_seed")
# The parts of a variant's name that stand for random draws and for the number of training faces.
_DRAWN = re.compile(r"-(seed\d+|(data_fraction|shots|data_seed)=[^-]+)")


def recipe(variant: str) -> str:
    """A variant's name without seeds and number of faces, in which runs of one recipe differ."""
    return _DRAWN.sub("", variant)


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of a latent store, as images and as each model's inputs; each is read once."""

    latents: Path
    _cache: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def stores(self) -> dict[str, LatentStore]:
        return {split: LatentStore.open(self.latents, split) for split in ("train", "val", "test")}

    def dataset(self, split: str) -> FaceDataset:
        """The images of a split in the order of its codes. Raises ValueError if one is missing."""
        if split not in self._cache:
            store = self.stores[split]
            self._cache[split] = load_store_faces(store, np.arange(len(store)))
        return self._cache[split]

    def stratified_sample(self, split: str, num_faces: int, seed: int) -> FaceDataset:
        """About `num_faces` faces, the same share of every class; 0, or too many: all faces."""
        faces = self.dataset(split)
        if not 0 < num_faces < len(faces):
            return faces
        return faces.stratified(num_faces / len(faces), seed)

    def inputs(self, model: nn.Module, split: str) -> Tensor:
        """As `inputs.inputs_for`, but models of the same image size share their images."""
        if model.reads != "pixels":
            return inputs_for(model, self.stores[split])
        key = (split, model.image_size, model.resize_method)
        if key not in self._cache:
            images = [image for image, _ in self.dataset(split)]
            self._cache[key] = images_to_pixels(images, model.image_size, model.resize_method)
        return self._cache[key]


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run, its predictions for the test faces, and its metrics as one flat row."""

    run: Run
    test: Predictions
    temperature: float  # fitted on the validation split
    metrics: dict[str, Any]

    @property
    def variant(self) -> str:
        return self.run.variant

    @property
    def calibrated(self) -> np.ndarray:
        """(N, C) probabilities of the test faces at the fitted temperature."""
        return apply_temperature(self.test.probs, self.temperature)


def evaluate_run(
    run: Run, faces: Faces, folder: Path, device: torch.device, seed: int = 0
) -> EvaluatedRun:
    """Predict the val and test split with the run's best weights, and compute all metrics.

    Writes the predictions to `folder` as `predictions-<variant>.parquet`.
    """
    model, classes = load_model(run.best_checkpoint, run.trust_code)
    predictions = {}
    for split in ("val", "test"):
        store = faces.stores[split]
        probs = predict_probs(model, faces.inputs(model, split), device)
        predictions[split] = Predictions(classes, tuple(store.paths), store.labels.numpy(), probs)
    write_predictions(folder / f"predictions-{run.variant}.parquet", predictions)
    return _compute_metrics(run, predictions["val"], predictions["test"], seed)


def _compute_metrics(run: Run, val: Predictions, test: Predictions, seed: int) -> EvaluatedRun:
    result = run.result
    parameters = run.config["parameters"]
    # Never on test: a temperature fitted there would make the calibration look better than it is.
    temperature = fit_temperature(val.labels, val.probs)
    metrics = {
        "variant": run.variant,
        "recipe": recipe(run.variant),
        "num_test": len(test.labels),
    }
    metrics |= summary_metrics(test.labels, test.predicted)
    metrics |= score_intervals(test.confusion, seed=seed)
    metrics["roc_auc"] = float(np.nanmean(class_roc_auc(test.labels, test.probs)))
    metrics["temperature"] = temperature
    metrics |= calibration_metrics(test.labels, test.probs)
    calibrated = calibration_metrics(test.labels, apply_temperature(test.probs, temperature))
    metrics |= {f"{name}_calibrated": value for name, value in calibrated.items()}
    metrics |= {name: result[name] for name in RESULT_KEYS}
    metrics |= {name: parameters.get(name) for name in _SUBSET_PARAMETERS}
    train_faces = result.get("train_faces", 0)
    metrics["train_faces"] = train_faces
    in_epoch = max(train_faces, parameters.get("epoch_faces", 0))
    metrics["seen_faces"] = result.get("epochs", 0) * in_epoch
    return EvaluatedRun(run, test, temperature, metrics)


def first_of_each_recipe(evaluated: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """The run with the lowest seed of each recipe, in the given order, for slow measurements."""
    by_seed = sorted(evaluated, key=lambda run: run.metrics["seed"], reverse=True)
    first = {run.metrics["recipe"]: run for run in by_seed}  # the last one stays
    return [run for run in evaluated if run in first.values()]
