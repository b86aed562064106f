"""What each term buys: the same student from the same seeds, with and without it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from torch import Tensor

from fervit_lib.distillation.data import PeopleBatches
from fervit_lib.distillation.learner import MONITOR, Targets, build_distiller, fit_distiller
from fervit_lib.distillation.losses import LossWeights
from fervit_lib.distillation.mask_grid import SavePictures
from fervit_lib.distillation.metrics import SCORES, count_pixels, scores_from
from fervit_lib.distillation.student import TappedStudent, with_projector
from fervit_lib.models.segmentation import build_segmenter, load_student, normalise, save_student
from fervit_lib.system import distributed
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import SaveBest

ARMS = ("none", "outputs", "outputs_features", "shuffled_features")
DIFFERENCES = (
    ("outputs", "none"),
    ("outputs_features", "none"),
    ("outputs_features", "outputs"),
    ("outputs_features", "shuffled_features"),
)


@dataclass(frozen=True)
class Arm:
    """One way to train the student."""

    name: str
    weights: LossWeights
    shuffle: bool = False


def make_arms(weights: LossWeights) -> list[Arm]:
    """Masks only; with the teacher's outputs; with features, too; and with the features of other images as control."""
    outputs = replace(weights, feature=0.0)
    none = replace(outputs, kl=0.0, mse=0.0)
    return [Arm("none", none), Arm("outputs", outputs), Arm("outputs_features", weights)] + [
        Arm("shuffled_features", weights, shuffle=True)
    ]


def fit_arm(
    arm: Arm,
    seed: int,
    dls: DataLoaders,
    targets: Targets,
    folder: Path,
    *,
    student: Mapping[str, Any],
    tap: str,
    epochs: int,
    lr: float,
    settings: Mapping[str, Any],
    show: Callable[[Any], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train one student and keep its best epoch by foreground IoU on val; see `build_distiller` for `options`.

    Args:
        folder: of this arm and seed: metrics.csv, tensorboard/, pictures/, checkpoints/{best,last}.safetensors.
        student: keywords of `build_segmenter`.
        settings: everything else that decides the fit, JSON.

    Returns:
        arm, seed, best_epoch (from 0), val_fg_iou, seconds, and checkpoint (its path).
    """
    if arm.shuffle and dls.train.bs < 2:
        raise ValueError(
            "batch_size: expected at least 2, for features to be shuffled among images, got 1"
        )
    seed_everything(seed)
    model = build_segmenter(**student).to(dls.device)
    if (
        arm.weights.feature and targets.source is not None
    ):  # `build_distiller` refuses the one without the other
        tapped = with_projector(model, targets.source, tap, dls.train.size)
    else:
        tapped = TappedStudent(model, tap)
    seed_everything(seed)  # the projector has drawn: from here every arm sees the same batches
    chosen = copy.copy(targets)  # the same teacher, source and cache
    chosen.shuffle = arm.shuffle
    checkpoint = folder / "checkpoints" / "best.safetensors"
    best = SaveBest(lambda: save_student(checkpoint, model, student), MONITOR)
    pictures = SavePictures(folder, shown_batch(dls.valid, targets), max(1, epochs // 5), show)
    learn = build_distiller(
        tapped,
        dls,
        chosen,
        arm.weights,
        folder=folder,
        cbs=[best, pictures],
        what=f"{arm.name} {seed}",
        **options,
    )
    told = {"arm": arm.name, "seed": seed, "tap": tap, **student, **settings}
    fit_distiller(
        learn,
        epochs=epochs,
        lr=lr,
        state=folder / "checkpoints" / "last.safetensors",
        settings=told,
    )
    return {
        "arm": arm.name,
        "seed": seed,
        "best_epoch": best.best_epoch,
        "val_fg_iou": best.best_values[MONITOR],
        "train_seconds": float(pd.read_csv(folder / "metrics.csv")["seconds"].sum()),
        "checkpoint": str(checkpoint.relative_to(folder.parent)),
    }


def shown_batch(
    batches: PeopleBatches, targets: Targets, number: int = 4
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first images and masks, and the teacher's logits of them."""
    parts = [batches.prepare(i) for i in range(min(number, len(batches.people)))]
    images = normalise(torch.stack([image for image, _, _ in parts]).to(batches.device))
    masks = torch.stack([mask for _, mask, _ in parts]).to(batches.device)
    logits = (
        None if targets.teacher is None else targets.logits(images, [key for _, _, key in parts])
    )
    return images, masks, logits


@torch.no_grad()
def count_split(model: torch.nn.Module, batches: PeopleBatches, targets: Targets) -> Tensor:
    """`metrics.count_pixels` of every image of a split, (N, 8)."""
    model = model.eval().to(batches.device)
    counts = []
    for images, masks, keys in batches:
        teacher_logits = None if targets.teacher is None else targets.logits(images, keys)
        counts.append(
            count_pixels(distributed.in_shares(model, images).float(), masks, teacher_logits)
        )
    return torch.cat(counts)


def count_runs(
    rows: Sequence[Mapping[str, Any]], folder: Path, batches: PeopleBatches, targets: Targets
) -> dict[str, Tensor]:
    """Test counts of every run: {arm: (seeds, N, 8)}."""
    found: dict[str, list[Tensor]] = {}
    for row in progress(rows, desc="test", unit=" students"):
        student = load_student(folder / row["checkpoint"])
        found.setdefault(row["arm"], []).append(count_split(student, batches, targets))
    return {arm: torch.stack(counts) for arm, counts in found.items()}


def interval_table(
    counts: Mapping[str, Tensor], *, resamples: int = 1000, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """95% bootstrap intervals, over seeds and test images drawn anew together, the same for every arm.

    Args:
        counts: {arm: (seeds, N, 8)} of the same seeds and images.

    Returns:
        A row an arm: each of `SCORES`, with `_low` and `_high`; and a row a pair of `DIFFERENCES`: `difference` of
        the foreground IoU, `low`, `high`. With one seed the intervals are over images alone.
    """
    shapes = {tuple(value.shape) for value in counts.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"counts: expected the same seeds and images for every arm, got {sorted(shapes)}"
        )
    [(num_seeds, num_images, _)] = shapes
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(
        rng.multinomial(num_images, np.full(num_images, 1 / num_images), resamples)
    ).double()
    seeds = torch.from_numpy(
        rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), resamples)
    ).double()
    rows, drawn = [], {}
    for arm, value in counts.items():
        exact = {name: float(score.mean()) for name, score in scores_from(value).items()}
        drawn[arm] = _resampled(value, images, seeds)
        low, high = (
            {k: float(v.quantile(q)) for k, v in drawn[arm].items()} for q in (0.025, 0.975)
        )
        row = {"arm": arm, "seeds": num_seeds, "test_images": num_images}
        rows.append(
            row | {k: v for name in SCORES for k, v in _named(name, exact, low, high).items()}
        )
    table = pd.DataFrame(rows)
    pairs = []
    for one, other in DIFFERENCES:
        if {one, other} <= set(counts):
            apart = drawn[one][MONITOR] - drawn[other][MONITOR]
            exact = table.set_index("arm")[MONITOR]
            pairs.append(
                {
                    "what": f"{one} - {other}",
                    "difference": exact[one] - exact[other],
                    "low": float(apart.quantile(0.025)),
                    "high": float(apart.quantile(0.975)),
                }
            )
    return table, pd.DataFrame(pairs)


def _named(
    name: str, exact: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float]
) -> dict[str, float]:
    return {name: exact[name], f"{name}_low": low[name], f"{name}_high": high[name]}


def _resampled(counts: Tensor, images: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    """Counts (S, N, 8), and how often images (R, N) and seeds (R, S) were drawn → each score (R,)."""
    totals = torch.einsum("rn,snk->rsk", images, counts)  # (R, S, 8)
    scores = scores_from(totals[:, :, None])
    each = torch.where(
        counts[..., 1] > 0, counts[..., 0] / counts[..., 1].clamp(min=1), 1.0
    )  # (S, N)
    scores["fg_iou_per_image"] = images @ each.T / images.sum(1, keepdim=True)
    share = seeds / seeds.sum(1, keepdim=True)
    return {name: (score * share).sum(1) for name, score in scores.items()}


def read_curves(rows: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """metrics.csv of every fit, with arm and seed."""
    return pd.concat(
        pd.read_csv((folder / row["checkpoint"]).parents[1] / "metrics.csv").assign(
            arm=row["arm"], seed=row["seed"]
        )
        for row in rows
    )


def summary(table: pd.DataFrame, pairs: pd.DataFrame | None, toy: bool) -> str:
    """The result in words: what of it is more than chance, and what was not tested."""
    score, name = (MONITOR, "foreground IoU") if MONITOR in table else ("accuracy", "accuracy")
    students = table[table["arm"] != "teacher"]
    best, seeds = students.loc[students[score].idxmax()], int(students["seeds"].max())
    texts = [
        f"Highest {name} of a student: {best['arm'].replace('_', ' ')} with {best[score]:.1%}."
    ]
    for row in [] if pairs is None else pairs.to_dict("records"):
        sign = "more" if row["low"] > 0 else "less" if row["high"] < 0 else "no proven difference"
        interval = f"{100 * row['difference']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        texts.append(f"{row['what'].replace('_', ' ')}: {interval}: {sign}.")
    texts.append(f"{seeds} seed{'s'[: seeds != 1]}. Not tested: other images than this test split.")
    if toy:
        texts.append("The teacher was trained here: this says nothing about the published one.")
    return "\n".join(texts)
