"""Every run on the test faces of other data sets: trained on × tested on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fervit_lib.evaluation.evaluate import Faces, predict_split, scores_with_intervals
from fervit_lib.evaluation.predict import (
    Predictions,
    codes_of,
    join_predictions,
    restrict_probs,
)
from fervit_lib.latents import LatentStore, store_identity
from fervit_lib.models import ExpressionModel, load_model
from fervit_lib.pipeline import encodings_by_name
from fervit_lib.runs import Run
from fervit_lib.system.errors import describe_error
from fervit_lib.system.names import near, split_names
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path, resolve

TestSets = Mapping[str, Sequence[Faces]]  # by name, the test faces in each of their encodings


def find_test_sets(reports: Path, experiment: str, test_on: str) -> dict[str, list[Faces]]:
    """The test faces that `test_on` names: data sets, or variants of `encode`, of the experiment.

    A data set with several encodings has them all, so that each model finds its own.

    Raises:
        ValueError: the experiment has no such codes.
    """
    latents = {}
    parameters = {}
    for path in sorted((reports / experiment / "encode").glob("*/result.json")) if test_on else []:
        run = Run(reports, experiment, "encode", path.parent.name)
        try:
            latents[run.variant] = resolve(run.result["latents"])
            parameters[run.variant] = dict(run.config["parameters"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{display_path(run.folder)}: not for test_on ({describe_error(error)})")
    by_name = encodings_by_name(parameters)
    test_sets: dict[str, list[Faces]] = {}
    for name in split_names(test_on):
        if name not in by_name:
            raise ValueError(
                f"test_on: expected data sets or variants of encode in {experiment}, got {name!r}; "
                f"{near(name, by_name)}"
            )
        test_sets[name] = []
        for variants in by_name[name].values():
            first, *folds = (latents[variant] for variant in variants)
            test_sets[name].append(Faces(first, tuple(folds)))
    return test_sets


def cross_evaluate(
    runs: Sequence[Run], test_sets: TestSets, device: torch.device, seed: int = 0
) -> pd.DataFrame:
    """Every run on every test set, on the classes that both have.

    Probabilities are restricted to these classes and divided by their sum. Faces of other classes,
    and those that the run was trained or selected on, are left out and counted.

    Returns:
        One row per pair: run, trained_on, tested_on, num_test, other_classes and seen (faces left
        out), num_classes, the scores of `summary_metrics` with their intervals (over subjects,
        where they are known), and reason, if there are no scores.
    """
    rows = []
    for run in progress(runs, desc="other data sets", unit=" runs"):
        model, classes = load_model(run.best_checkpoint, run.trust_code)
        for name, encodings in test_sets.items():
            trained_on = codes_of(run).parent.name
            row = {"run": run.variant, "trained_on": trained_on, "tested_on": name}
            faces = _faces_for(model, run, encodings)
            if faces:
                rows.append(row | _score(run, model, classes, faces, device, seed))
            else:
                reason = "codes of another encoder; add a block of encode with that of"
                rows.append(row | {"reason": f"{reason} {trained_on}"})
    return pd.DataFrame(rows)


def _faces_for(model: ExpressionModel, run: Run, encodings: Sequence[Faces]) -> Faces | None:
    """The faces as the model takes them: codes of its own encoding, or those it was trained on."""
    own = codes_of(run)
    encoding = store_identity(own)["encoding"]
    # Its own store first, as others may hold other faces of the set.
    for faces in sorted(encodings, key=lambda faces: faces.latents != own):
        stores = [fold.latents for fold in faces.folds]
        same = all(store_identity(store)["encoding"] == encoding for store in stores)
        if model.reads == "pixels" or same:
            return faces
    return None


def _score(
    run: Run,
    model: ExpressionModel,
    classes: tuple[str, ...],
    faces: Faces,
    device: torch.device,
    seed: int,
) -> dict:
    """The scores of one cell of the matrix."""
    tested = faces.stores["test"].classes
    common = tuple(name for name in tested if name in classes)
    if len(common) < 2:
        return {
            "reason": f"expected two common classes, got {len(common)}: the model has "
            f"{', '.join(classes)}, the faces have {', '.join(tested)}"
        }
    folds = faces.folds
    everything = join_predictions([predict_split(model, classes, f, "test", device) for f in folds])
    known: set = set()
    for split in ("train", "val"):
        known.update(_contents(LatentStore.open(codes_of(run), split)))
    contents = [content for fold in folds for content in _contents(fold.stores["test"])]
    seen = np.array([content in known for content in contents])
    label_of = np.array([common.index(name) if name in common else -1 for name in tested])
    labels = label_of[everything.labels]
    used = (labels >= 0) & ~seen
    row = {
        "num_test": int(used.sum()),
        "other_classes": int((labels < 0).sum()),
        "seen": int(seen.sum()),
        "num_classes": len(common),
    }
    if not used.any():
        return row | {"reason": "no face is left"}
    probs = restrict_probs(everything.probs[used], [classes.index(name) for name in common])
    subjects = faces.tested_subjects
    subjects = None if subjects is None else subjects[used]
    test = Predictions(common, (), labels[used], probs)
    return row | scores_with_intervals(test, subjects, seed)


def _contents(store: LatentStore) -> Sequence:
    """What identifies each face: the hash of its content, or its name, if that is unknown.

    By content, a picture that two data sets share is found.
    """
    if store.hashes is None:
        return [(store.faces, path) for path in store.paths]
    return [row.tobytes() for row in store.hashes]
