"""The training runs of an experiment, each on the test split of the codes it was trained on."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
from fervit_lib.system.runtime import resolve

_KEPT = (
    "approach",
    "strategy",
    "seed",
    "total_parameters",
    "trainable_parameters",
    "train_seconds",
    "peak_memory_gb",
)
_PART = ("data_fraction", "shots", "data_seed")
_DRAWN = re.compile(r"-(seed\d+|(data_fraction|shots|data_seed)=[^-]+)")


@dataclass(frozen=True)
class Comparison:
    """The runs that can be compared, all on the same faces, and why the others cannot."""

    latents: Path
    runs: list[Run]
    skipped: dict[str, str]  # reason by variant

    @property
    def full_runs(self) -> list[Run]:
        """Those trained on all faces; all where none was."""
        return [run for run in self.runs if not _takes_part(run)] or self.runs

    @property
    def subset_runs(self) -> list[Run]:
        """Those trained on a part of the faces: the points of a learning curve."""
        return [run for run in self.runs if _takes_part(run)]


def _takes_part(run: Run) -> bool:
    parameters = run.config["parameters"]
    return parameters.get("data_fraction", 1) < 1 or parameters.get("shots", 0) > 0


def recipe(variant: str) -> str:
    """A variant's name without what is drawn by chance or from how many faces: runs of one recipe differ in these."""
    return _DRAWN.sub("", variant)


def runs_to_compare(reports: Path, experiment: str) -> Comparison:
    """The training runs of an experiment that are whole, of this version, and of the classes of the codes.

    Where runs were trained on different codes, those that most were trained on count.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = reports / experiment / "train"
    runs, skipped = [], {}
    for path in sorted(folder.glob("[!.]*/")):
        run = Run(reports, experiment, "train", path.name)
        if reason := _reason_to_skip(run):
            skipped[run.variant] = reason
        else:
            runs.append(run)
    if not runs:
        reasons = "".join(f"; {name}: {reason}" for name, reason in skipped.items())
        raise FileNotFoundError(
            f"{folder}: no finished training run there; run 02_train first{reasons}"
        )
    places = Counter(run.config["parameters"]["latents"] for run in runs)
    common = places.most_common(1)[0][0]
    for run in runs:
        if (place := run.config["parameters"]["latents"]) != common:
            skipped[run.variant] = f"trained on other codes, {place}; most were trained on {common}"
    return Comparison(resolve(common), [run for run in runs if run.variant not in skipped], skipped)


def _reason_to_skip(run: Run) -> str:
    """Why a run cannot be compared, for a reader; empty if it can."""
    try:
        result, parameters = run.result, run.config["parameters"]
    except FileNotFoundError as error:
        return f"not finished: it has no {Path(error.filename).name}"
    except (KeyError, ValueError) as error:
        return str(error)
    if missing := [name for name in _KEPT if name not in result]:
        return f"made by another version: result.json has no {', '.join(missing)}; train again"
    try:
        _, classes = load_model(run.best_checkpoint)
        store = LatentStore.open(resolve(parameters["latents"]), "test")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        return str(error).split("\n")[0]
    if store.classes != classes:
        return (
            f"trained on the classes {', '.join(classes)}, but its codes now have {', '.join(store.classes)}; "
            f"train again on these codes"
        )
    return ""


@dataclass(frozen=True, eq=False)
class Faces:
    """The val and test faces of a store, as pictures and as each model takes them; each is read once."""

    latents: Path
    _kept: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def stores(self) -> dict[str, LatentStore]:
        return {split: LatentStore.open(self.latents, split) for split in ("train", "val", "test")}

    def pictures(self, split: str) -> FaceDataset:
        """The faces of a split in the order of its codes. Raises ValueError where one is gone."""
        if split not in self._kept:
            store = self.stores[split]
            self._kept[split] = load_store_faces(store, np.arange(len(store)))
        return self._kept[split]

    def stratified_sample(self, split: str, num_faces: int, seed: int) -> FaceDataset:
        """About so many faces of a split, the same share of every class; all where `num_faces` is 0 or too many."""
        faces = self.pictures(split)
        return (
            faces.stratified(num_faces / len(faces), seed) if 0 < num_faces < len(faces) else faces
        )

    def inputs(self, model: nn.Module, split: str) -> Tensor:
        """As `inputs.inputs_for`, without reading pictures twice."""
        if model.reads != "pixels":
            return inputs_for(model, self.stores[split])
        if (key := (split, model.image_size, model.resize_method)) not in self._kept:
            faces = self.pictures(split)
            self._kept[key] = images_to_pixels([face for face, _ in faces], *key[1:])
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """One run: what it said of the test faces, as it is and at the temperature fitted on val; and a flat row."""

    run: Run
    test: Predictions
    val: Predictions
    temperature: float
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
    """Predict val and test with the run's best weights; keep the predictions as `predictions-<variant>.parquet`."""
    model, classes = load_model(run.best_checkpoint)
    found = {}
    for split in ("val", "test"):
        store = faces.stores[split]
        probs = predict_probs(model, faces.inputs(model, split), device)
        found[split] = Predictions(classes, tuple(store.paths), store.labels.numpy(), probs)
    write_predictions(folder / f"predictions-{run.variant}.parquet", found)
    return evaluate_predictions(run, found, seed)


def evaluate_predictions(run: Run, found: dict[str, Predictions], seed: int = 0) -> EvaluatedRun:
    """Every figure of merit of a run from its predictions of val and test, without its model."""
    test, val, result, parameters = (
        found["test"],
        found["val"],
        run.result,
        run.config["parameters"],
    )
    temperature = fit_temperature(val.labels, val.probs)
    row = {"variant": run.variant, "recipe": recipe(run.variant), "num_test": len(test.labels)}
    row |= summary_metrics(test.labels, test.predicted) | score_intervals(test.confusion, seed=seed)
    row |= {
        "roc_auc": float(np.nanmean(class_roc_auc(test.labels, test.probs))),
        "temperature": temperature,
    }
    row |= calibration_metrics(test.labels, test.probs)
    after = calibration_metrics(test.labels, apply_temperature(test.probs, temperature))
    row |= {f"{name}_calibrated": value for name, value in after.items()}
    row |= {name: result[name] for name in _KEPT}
    row |= {
        "train_faces": result.get("train_faces"),
        **{name: parameters.get(name) for name in _PART},
    }
    return EvaluatedRun(run, test, val, temperature, row)


def first_of_each_recipe(evaluated: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """The run with the lowest seed of each recipe, in the order given: what costs time need not be told twice."""
    first: dict[str, EvaluatedRun] = {}
    for e in sorted(evaluated, key=lambda e: e.metrics["seed"]):
        first.setdefault(e.metrics["recipe"], e)
    return [e for e in evaluated if first[e.metrics["recipe"]] is e]


def learning_curves(points: pd.DataFrame) -> pd.DataFrame:
    """Accuracy over the number of training faces: recipe, kind (fraction or shots), share, runs, mean, low, high.

    `low` and `high` are one standard deviation about the mean of several runs (seeds and draws), and the interval over
    the test faces where there is one run alone. A recipe without a point on a part of the faces is left out; its runs
    on all faces are the right end of its curve.

    Args:
        points: the rows of `EvaluatedRun.metrics` of runs on parts and on all of the faces.
    """
    points = points.assign(
        data_fraction=points["data_fraction"].fillna(1.0),
        shots=points["shots"].fillna(0).astype(int),
    )
    rows = []
    for name, group in points.groupby("recipe", sort=False):
        few, shares = group[group["shots"] > 0], group[group["shots"] == 0]
        kinds = {"fraction": (shares, "data_fraction"), "shots": (few, "shots")}
        for kind, (part, column) in kinds.items():
            if not len(part) or (kind == "fraction" and (part["data_fraction"] == 1).all()):
                continue
            for share, runs in part.groupby(column):
                mean, sd = runs["accuracy"].mean(), runs["accuracy"].std()
                several = len(runs) > 1
                low = mean - sd if several else runs["accuracy_low"].iloc[0]
                high = mean + sd if several else runs["accuracy_high"].iloc[0]
                faces = runs["train_faces"].iloc[0]
                rows.append((name, kind, share, faces, len(runs), mean, low, high))
    return pd.DataFrame(
        rows, columns=["recipe", "kind", "share", "faces", "runs", "mean", "low", "high"]
    )
