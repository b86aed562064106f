"""What codes lose: a model over pixels reads the photograph of a face, and the picture of its code.

That a model changes its mind need not be a loss of the code: it was trained on photographs, and
blur, or another crop, may do the same.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

from fervit_lib.datasets import stratified_mask
from fervit_lib.encoders import decode_pixels, number_to_draw
from fervit_lib.evaluation.evaluate import EvaluatedRun, Faces
from fervit_lib.evaluation.predict import codes_of, find_decoder, predict_probs
from fervit_lib.inputs import pixel_side
from fervit_lib.models import load_model


def read_reconstructions(
    evaluated: Sequence[EvaluatedRun],
    faces: Faces,
    device: torch.device,
    seed: int = 0,
    num_faces: int = 1000,
) -> dict[str, pd.DataFrame]:
    """What each run over pixels predicts for test faces, and for the pictures of their codes.

    Of a cross-validation, the faces of the first fold.

    Args:
        num_faces: about, the same share of each class and at least one face; of a StyleGAN2
            fewer, see `encoders.number_to_draw`.

    Returns:
        By variant, one row per face: index (in the test split), label, photograph, reconstruction;
        the last three are class indices. Runs over codes, and those without a decoder, have none.
    """
    find_once = cache(lambda latents: find_decoder(latents, device))

    @cache
    def draw(latents: Path, side: int) -> tuple[np.ndarray, Tensor]:
        """Indices (n,) of test faces, and the pictures of their codes (n, 3, side, side)."""
        store = faces.at(latents).stores["test"]
        decoder = find_once(latents)
        share = min(1.0, number_to_draw(decoder, num_faces) / len(store))
        indices = np.flatnonzero(stratified_mask(store.labels.numpy(), share, seed))
        return indices, decode_pixels(decoder, store.take(indices).float(), side)

    readings = {}
    for one in evaluated:
        run = one.run
        if run is None:  # a model of somebody else
            continue
        model, _ = load_model(run.best_checkpoint, run.trust_code)
        latents = codes_of(run)
        if model.reads != "pixels" or find_once(latents) is None:
            continue
        store = faces.at(latents).stores["test"]
        side = pixel_side(model.image_size, model.face_size or store.face_size)
        indices, pictures = draw(latents, side)
        columns = {
            "index": indices,
            "label": one.test.labels[indices],
            "photograph": one.test.predicted[indices],
            "reconstruction": predict_probs(model, pictures, device).argmax(1),
        }
        readings[one.variant] = pd.DataFrame(columns)
    return readings


def summarise_reconstructions(readings: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run of `read_reconstructions`.

    Returns:
        run, faces; photographs, reconstructions: accuracy on each; differ, low, high: share of the
        faces that are read differently, with its 95% interval (Wilson 1927); chance: that share if
        the picture were of the code of any of these faces.
    """
    rows = []
    for run, table in readings.items():
        label, before, after = (table[name] for name in ("label", "photograph", "reconstruction"))
        differ = before != after
        # Not by bootstrap: if none differs, its interval would be empty, however few the faces.
        interval = binomtest(int(differ.sum()), len(table)).proportion_ci(method="wilson")
        same = before.value_counts(normalize=True) * after.value_counts(normalize=True)
        row: dict[str, Any] = {"run": run, "faces": len(table), "differ": differ.mean()}
        row |= {"low": interval.low, "high": interval.high, "chance": 1 - same.sum()}
        row |= {"photographs": (before == label).mean(), "reconstructions": (after == label).mean()}
        rows.append(row)
    columns = ["faces", "photographs", "reconstructions", "differ", "low", "high", "chance"]
    return pd.DataFrame(rows, columns=["run", *columns])


def reconstructions_by_class(
    readings: Mapping[str, pd.DataFrame], classes: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """By score, one row per run and one column per true class: share read differently, recall."""
    scores = {
        "read differently": lambda t: t["photograph"] != t["reconstruction"],
        "recall on photographs": lambda t: t["photograph"] == t["label"],
        "recall on reconstructions": lambda t: t["reconstruction"] == t["label"],
    }
    return {
        name: pd.DataFrame(
            {run: score(t).groupby(t["label"]).mean() for run, t in readings.items()},
            index=range(len(classes)),
        ).T.set_axis(list(classes), axis=1)
        for name, score in scores.items()
    }
