"""Metrics of a training run on the test split of the codes that it was trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

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
from fervit_lib.evaluation.predict import (
    Predictions,
    codes_of,
    join_predictions,
    predict_probs,
    write_predictions,
)
from fervit_lib.evaluation.significance import score_intervals
from fervit_lib.inputs import inputs_for, load_store_faces
from fervit_lib.latents import LatentStore
from fervit_lib.models import ExpressionModel, load_model
from fervit_lib.pipeline import without_fold
from fervit_lib.runs import Run
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.names import check_value
from fervit_lib.system.shards import MappedRows

# What an evaluation takes over from a training run, and its type, by the file that says it.
_TYPES = {
    "result.json": {
        "approach": "str",
        "strategy": "str",
        "seed": "int",
        "total_parameters": "int",
        "trainable_parameters": "int",
        "train_seconds": "float",
        "peak_memory_gb": "float",
        "train_faces": "int",
        "epochs": "int",
        "val_macro_f1": "float",
    },
    "config.json": {
        "data_fraction": "float",
        "shots": "int",
        "data_seed": "int",
        "epoch_faces": "int",
    },
}
# The parts of a variant's name that stand for random draws and for the number of training faces.
_DRAWN = re.compile(r"-(seed\d+|(data_fraction|shots|data_seed)=[^-]+)")


def recipe(variant: str) -> str:
    """A variant's name without seeds and number of faces, in which runs of one recipe differ."""
    return _DRAWN.sub("", variant)


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of a latent store, as images and as each model's inputs; each is read once.

    Of a cross-validation it is the store of the first fold, and `folds` has one for each.
    """

    latents: Path
    further_folds: tuple[Path, ...] = ()
    _cache: dict = field(default_factory=dict)

    @cached_property
    def stores(self) -> dict[str, LatentStore]:
        return {split: LatentStore.open(self.latents, split) for split in ("train", "val", "test")}

    def at(self, latents: Path) -> Self:
        """The faces of another store."""
        if latents == self.latents:
            return self
        return self._cache.setdefault(latents, type(self)(latents))

    @property
    def folds(self) -> list[Self]:
        return [self, *map(self.at, self.further_folds)]

    @property
    def tested(self) -> FaceDataset:
        """The images of the test faces, of all folds in their order."""
        first, *others = (fold.dataset("test") for fold in self.folds)
        for other in others:
            first = first.joined(other)
        return first

    def dataset(self, split: str) -> FaceDataset:
        """The images of a split in the order of its codes. Raises ValueError if one is missing."""
        if split not in self._cache:
            store = self.stores[split]
            self._cache[split] = load_store_faces(store, np.arange(len(store)))
        return self._cache[split]

    def subjects(self, split: str) -> np.ndarray | None:
        """(N,) str, the person in each face; None if they are unknown, or the faces were moved."""
        faces = self.dataset(split) if self.stores[split].faces.exists() else None
        if faces is None or faces.subjects is None or not faces.subjects.astype(bool).any():
            return None
        return np.where(faces.subjects == "", faces.paths, faces.subjects)

    @property
    def tested_subjects(self) -> np.ndarray | None:
        """The person in each of the faces of `tested`; None if they are unknown."""
        subjects = [names for fold in self.folds if (names := fold.subjects("test")) is not None]
        return np.concatenate(subjects) if len(subjects) == len(self.folds) else None

    def stratified_sample(self, split: str, num_faces: int, seed: int) -> FaceDataset:
        """About `num_faces` faces, the same share of every class; 0, or too many: all faces."""
        faces = self.dataset(split)
        if not 0 < num_faces < len(faces):
            return faces
        return faces.stratified(num_faces / len(faces), seed)

    def inputs(self, model: nn.Module, split: str) -> Tensor | MappedRows:
        """As `inputs.inputs_for`, but models that read the same images share them."""
        if model.reads != "pixels":
            return inputs_for(model, self.stores[split])
        key = (split, model.image_size, model.face_size, model.resize_method)
        if key not in self._cache:
            self._cache[key] = inputs_for(model, self.stores[split])
        return self._cache[key]


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A model, its predictions for the test faces, and its metrics as one flat row."""

    run: Run | None  # of the first fold, if there are several; None: a model of somebody else
    test: Predictions
    temperatures: np.ndarray  # (N, 1) fitted on the validation faces of the fold of each face
    metrics: dict

    @property
    def calibrated(self) -> np.ndarray:
        """(N, C) probabilities at the temperatures; not kept, as they are large."""
        return apply_temperature(self.test.probs, self.temperatures)

    @property
    def variant(self) -> str:
        return self.metrics["variant"]


def evaluate_run(
    run: Run,
    faces: Faces,
    folder: Path,
    device: torch.device,
    seed: int = 0,
    further_folds: Sequence[Run] = (),
) -> EvaluatedRun:
    """Predict the val and test split with the run's best weights, and compute all metrics.

    Writes the predictions to `folder` as `predictions-<variant>.parquet`.

    Args:
        faces: of the store that is compared. A run on other codes of them reads its own.
        further_folds: the runs of the other folds of a cross-validation. All predictions for test
            faces are pooled: metrics are those of all faces, not means over folds.
    """
    parts = []
    for part in (run, *further_folds):
        model, classes = load_model(part.best_checkpoint, part.trust_code)
        own = faces.at(codes_of(part))
        parts.append(
            {split: predict_split(model, classes, own, split, device) for split in ("val", "test")}
        )
        write_predictions(folder / f"predictions-{part.variant}.parquet", parts[-1])
    name = without_fold(run.variant) if further_folds else run.variant
    about = {"variant": name, "recipe": recipe(name)} | costs_of(run)
    return compute_metrics(about, parts, faces.tested_subjects, seed, run)


def predict_split(
    model: ExpressionModel, classes: tuple[str, ...], faces: Faces, split: str, device: torch.device
) -> Predictions:
    """A model's predictions for a split; `classes` are the model's, labels those of the faces."""
    store = faces.stores[split]
    probs = predict_probs(model, faces.inputs(model, split), device)
    return Predictions(classes, tuple(store.paths), store.labels.numpy(), probs)


def scores_with_intervals(
    test: Predictions, subjects: np.ndarray | None, seed: int
) -> dict[str, float]:
    """The scores of `summary_metrics` with their intervals, over subjects if they are known."""
    by_subject = None if subjects is None else test.confusion_by(subjects)
    scores = summary_metrics(test.labels, test.predicted)
    return scores | score_intervals(test.confusion, seed, by_subject)


def compute_metrics(
    about: Mapping,
    parts: Sequence[Mapping[str, Predictions]],
    subjects: np.ndarray | None,
    seed: int,
    run: Run | None = None,
) -> EvaluatedRun:
    """All metrics of a model's predictions.

    Args:
        about: columns of the row, before those of the metrics.
        parts: predictions of `val` and `test`, for each fold.
        subjects: (N,) the person in each test face; intervals are then over persons.
    """
    # Never on test: a temperature fitted there would make the calibration look better than it is.
    temperatures = [fit_temperature(part["val"].labels, part["val"].probs) for part in parts]
    test = join_predictions([part["test"] for part in parts])
    sizes = [len(part["test"].labels) for part in parts]
    temperature_of = np.repeat(temperatures, sizes)[:, None]  # each face
    metrics = dict(about) | {"num_test": len(test.labels)}
    metrics |= scores_with_intervals(test, subjects, seed)
    metrics["interval_over"] = None if subjects is None else f"{len(set(subjects))} subjects"
    metrics["roc_auc"] = float(np.nanmean(class_roc_auc(test.labels, test.probs)))
    metrics["temperature"] = float(np.mean(temperatures))
    metrics |= calibration_metrics(test.labels, test.probs)
    after = calibration_metrics(test.labels, apply_temperature(test.probs, temperature_of))
    metrics |= {f"{name}_calibrated": value for name, value in after.items()}
    return EvaluatedRun(run, test, temperature_of, metrics)


def costs_of(run: Run) -> dict:
    """What a run's own files say about its training.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged, or of a version that wrote other fields; names it.
    """
    contents: dict = {
        "result.json": run.result,
        "config.json": run.config.get("parameters"),
    }
    costs = {}
    for file, content in contents.items():
        remedy = "train it again"
        with explain_read_error(run.folder / file, "damaged, or of another version", remedy):
            for name, kind in _TYPES[file].items():
                check_value(name, content[name], kind)
                costs[name] = content[name]
    in_epoch = max(costs["train_faces"], costs.pop("epoch_faces"))
    costs["seen_faces"] = costs.pop("epochs") * in_epoch
    return costs


def first_of_each_recipe(evaluated: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """The run with the lowest seed of each recipe, in the given order, for slow measurements."""
    by_seed = sorted(evaluated, key=lambda run: run.metrics["seed"], reverse=True)
    first = {run.metrics["recipe"]: run for run in by_seed}  # the last one stays
    return [run for run in evaluated if run in first.values()]
