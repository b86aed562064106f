"""Ablation of the loss terms: the same student from the same seeds, with and without each term."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from fervit_lib.distillation.data import PeopleBatches
from fervit_lib.distillation.learner import MONITOR, Targets, build_distiller
from fervit_lib.distillation.losses import FeatureTerm, LossWeights
from fervit_lib.distillation.mask_grid import SaveMaskGrids
from fervit_lib.distillation.metrics import SCORES, count_pixels, region_ious, scores_from
from fervit_lib.distillation.student import (
    TappedStudent,
    build_tapped_student,
    copy_encoder,
)
from fervit_lib.models.segmentation import build_segmenter, load_student, save_student
from fervit_lib.system import distributed
from fervit_lib.system.names import check_choice
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training import STRATEGIES, SaveBest, fit

# How the feature term of an arm differs.
FEATURE_ARMS: dict = {
    "outputs_features": {},
    "shuffled_features": {"shuffle": True},
    "multi_scale": {"stages": (4, 3, 2)},
    "attention": {"attention": True},
    "mixture": {"stages": (4, 3, 2), "mixture": True},
}
DIFFERENCES = (
    ("outputs", "none"),
    ("outputs_features", "none"),
    ("outputs_features", "outputs"),
    ("outputs_features", "shuffled_features"),
    *((arm, "outputs_features") for arm in ("multi_scale", "attention", "mixture")),
)

RESAMPLES = 1000  # bootstrap samples for an interval


@dataclass(frozen=True)
class Ablation:
    """One set of loss terms to train the student with."""

    name: str
    weights: LossWeights
    term: FeatureTerm


def build_ablations(
    weights: LossWeights, term: FeatureTerm, feature_arms: Sequence[str]
) -> list[Ablation]:
    """The mask alone, and what the teacher's outputs and the detector's features add to it.

    The control `shuffled_features` gives each image the features of another one. Terms whose weight
    is 0 are not compared.

    Args:
        feature_arms: names of `FEATURE_ARMS`, which change `term`.

    Raises:
        ValueError: there is no such arm.
    """
    outputs = replace(weights, feature=0.0)
    ablations = [Ablation("none", replace(outputs, kl=0.0, mse=0.0), term)]
    if weights.outputs:
        ablations.append(Ablation("outputs", outputs, term))
    for arm in dict.fromkeys(feature_arms) if weights.feature else ():
        check_choice("feature_arms", arm, FEATURE_ARMS)
        ablations.append(Ablation(arm, weights, replace(term, **FEATURE_ARMS[arm])))
    return ablations


def fit_student(
    ablation: Ablation,
    seed: int,
    dls: DataLoaders,
    targets: Targets,
    folder: Path,
    *,
    student: dict,
    epochs: int,
    lr: float,
    settings: Mapping,
    show: Callable | None = None,
    **options: Any,
) -> dict:
    """Train one student and keep its best epoch by foreground IoU on the validation split.

    Args:
        folder: of this fit, for metrics.csv, tensorboard/, pictures/ and
            checkpoints/{best,last}.safetensors.
        student: keywords of `build_segmenter`; `weights="teacher"` starts from its encoder.
        settings: everything else that decides the fit, JSON.
        show: see `SaveMaskGrids`.
        options: of `build_distiller`.

    Returns:
        arm, seed, best_epoch (from 0), val_fg_iou, train_seconds and checkpoint (its path).
    """
    term = ablation.term
    smallest = 2 * distributed.world_size()  # each rank shuffles the features of its own shard
    if term.shuffle and dls.train.bs < smallest:
        raise ValueError(
            f"batch_size: expected at least {smallest} to shuffle features among images, got "
            f"{dls.train.bs}"
        )
    seed_everything(seed)
    model = build_segmenter(**student).to(dls.device)
    if student.get("weights") == "teacher":
        copy_encoder(model, targets.teacher)
    # `build_distiller` refuses a feature weight without a detector.
    if ablation.weights.feature and targets.source is not None:
        tapped = build_tapped_student(model, targets.source, term, dls.train.size)
    else:
        tapped = TappedStudent(model, term)
    # The projector has drawn random numbers: again, so that all ablations see the same batches.
    seed_everything(seed)
    checkpoints = folder / "checkpoints"
    best = SaveBest(lambda: save_student(checkpoints / "best.safetensors", model, student), MONITOR)
    images, masks, keys = example_batch(dls.valid)
    grids = SaveMaskGrids(folder, (images, masks, targets.logits(images, keys)), show)
    learn = build_distiller(
        tapped,
        dls,
        targets,
        ablation.weights,
        folder=folder,
        cbs=[best, grids],
        what=f"{ablation.name} {seed}",
        **options,
    )
    fit(
        learn,
        STRATEGIES["full"],
        epochs=epochs,
        lr=lr,
        schedule="cosine",
        warmup=0.1,
        state=checkpoints / "last.safetensors",
        settings={"arm": ablation.name, "seed": seed, "term": str(term), **student, **settings},
    )
    return {
        "arm": ablation.name,
        "seed": seed,
        "best_epoch": best.best_epoch,
        "val_fg_iou": best.best_values[MONITOR],
        "train_seconds": float(pd.read_csv(folder / "metrics.csv")["seconds"].sum()),
        "checkpoint": f"{folder.name}/checkpoints/best.safetensors",
    }


def example_batch(batches: PeopleBatches) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The first four images and masks of val or test, and the images' keys, as a batch has them."""
    images, masks, keys = next(iter(batches))
    return images[:4], masks[:4], keys[:4]


@torch.no_grad()
def _count_split(model: nn.Module, batches: PeopleBatches, targets: Targets) -> Tensor:
    """`metrics.count_pixels` of every image of a split, (N, 11)."""
    counts = []
    for images, masks, keys in batches:
        logits = model(images).float()
        counts_of_shard = count_pixels(logits, masks, targets.logits(images, keys))
        counts.append(distributed.gather(counts_of_shard, batches.batch_len))
    return torch.cat(counts).cpu()


def teacher_iou(batches: PeopleBatches, targets: Targets) -> float:
    """The teacher's own foreground IoU on a split."""
    return float(scores_from(_count_split(targets.teacher, batches, targets))[MONITOR])


def evaluate_students(
    rows: Sequence[Mapping], folder: Path, batches: PeopleBatches, targets: Targets
) -> dict[str, Tensor]:
    """Pixel counts of the fits that `rows` describe: {arm: (seeds, N, 11)}."""
    counts: dict[str, list[Tensor]] = {}
    for row in progress(rows, desc="test", unit=" students"):
        student = load_student(folder / row["checkpoint"]).to(batches.device)
        counts.setdefault(row["arm"], []).append(_count_split(student, batches, targets))
    return {arm: torch.stack(seeds) for arm, seeds in counts.items()}


def interval_table(
    counts: Mapping[str, Tensor], *, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and their differences with 95 % bootstrap intervals.

    Seeds and test images are resampled together, the same for all arms. With one seed the intervals
    are over images alone.

    Args:
        counts: {arm: (seeds, N, 11)} for the same seeds and images.

    Returns:
        One row per arm: arm, seeds, test_images, and each of `SCORES` with `_low` and `_high`.
        One row per pair of `DIFFERENCES`: what, difference of the foreground IoU, low, high.
    """
    num_seeds, num_images, _ = next(iter(counts.values())).shape
    rng = np.random.default_rng(seed)
    image_counts, seed_counts = (
        torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)).double()
        for n in (num_images, num_seeds)
    )
    rows = []
    samples = {}
    for arm, value in counts.items():
        scores = scores_from(value)
        samples[arm] = _resample(value, image_counts, seed_counts)
        row = {"arm": arm, "seeds": num_seeds, "test_images": num_images}
        for name in SCORES:
            row[name] = float(scores[name].mean())
            row[f"{name}_low"], row[f"{name}_high"] = _interval(samples[arm][name])
        rows.append(row)
    table = pd.DataFrame(rows)
    exact = table.set_index("arm")[MONITOR]
    pairs = []
    for first, second in DIFFERENCES:
        if first in counts and second in counts:
            interval = _interval(samples[first][MONITOR] - samples[second][MONITOR])
            pairs.append((f"{first} - {second}", exact[first] - exact[second], *interval))
    return table, pd.DataFrame(pairs, columns=["what", "difference", "low", "high"])


def _interval(samples: Tensor) -> list[float]:
    """The 2.5 % and 97.5 % quantiles."""
    return samples.quantile(samples.new_tensor([0.025, 0.975])).tolist()


def _resample(counts: Tensor, image_counts: Tensor, seed_counts: Tensor) -> dict[str, Tensor]:
    """Each score (R,) of R bootstrap samples.

    Args:
        counts: (S, N, 11) of S seeds and N images.
        image_counts, seed_counts: (R, N) and (R, S), how often each sample contains an image or a
            seed.
    """
    totals = torch.einsum("rn,snk->rsk", image_counts, counts)  # (R, S, 11)
    scores = scores_from(totals[:, :, None])
    image_iou = region_ious(counts)[..., 0]  # (S, N)
    scores["fg_iou_per_image"] = image_counts @ image_iou.T / image_counts.sum(1, keepdim=True)
    weights = seed_counts / seed_counts.sum(1, keepdim=True)
    return {name: (score * weights).sum(1) for name, score in scores.items()}


def load_curves(rows: Sequence[Mapping], folder: Path) -> pd.DataFrame:
    """metrics.csv of every fit that `rows` describe, with columns arm and seed."""
    return pd.concat(
        pd.read_csv((folder / row["checkpoint"]).parents[1] / "metrics.csv").assign(
            arm=row["arm"], seed=row["seed"]
        )
        for row in rows
    )


def choose_student(rows: Sequence[Mapping]) -> dict:
    """The row of the student to ship, by foreground IoU on the validation split.

    It is the best seed of the arm with the highest mean; the control is no candidate.
    """
    fits = pd.DataFrame(rows)
    fits = fits[fits["arm"] != "shuffled_features"]
    arm = fits.groupby("arm")["val_fg_iou"].mean().idxmax()
    return dict(rows[fits[fits["arm"] == arm]["val_fg_iou"].idxmax()])


def summary(table: pd.DataFrame, pairs: pd.DataFrame, shipped: Mapping) -> str:
    """The result in words: the shipped student, which terms had an effect, what was not tested."""
    arm = shipped["arm"]
    score = table.set_index("arm")[MONITOR][arm]
    lines = [
        f"Shipped: {arm}, seed {shipped['seed']}, the best arm on the validation images; "
        f"foreground IoU of that arm on the test images: {score:.1%}."
    ]
    if arm == "none" and len(table) > 1:
        lines.append("The teacher did not help here: the masks alone gave the best student.")
    # With one seed, the interval does not contain the difference that another seed would make.
    over = "over images and seeds" if table["seeds"].max() > 1 else "over images, with one seed"
    for row in pairs.to_dict("records"):
        low = 100 * row["low"]
        high = 100 * row["high"]
        verdict = "no significant difference" if low <= 0 <= high else "significant"
        lines.append(
            f"{row['what']}: {100 * row['difference']:+.1f} points "
            f"[{low:+.1f}, {high:+.1f}]: {verdict} {over}."
        )
    lines.append(f"Seeds: {table['seeds'].max()}. Not tested: images outside this test split.")
    return "\n".join(lines).replace("_", " ")
