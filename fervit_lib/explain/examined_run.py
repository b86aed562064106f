"""A trained run, with the faces on which it is examined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.evaluation import codes_of, predict_probs
from fervit_lib.evaluation.compare import Comparison
from fervit_lib.inputs import inputs_for, load_face_images
from fervit_lib.latents import LatentStore
from fervit_lib.models import load_class, load_model, load_untrained
from fervit_lib.models.latent_vit import CodeViT
from fervit_lib.models.layers import without_adapters
from fervit_lib.runs import Run
from fervit_lib.system.checkpoints import load_checkpoint


@dataclass(frozen=True)
class ExaminedRun:
    """A model and faces of its test split, the same for all runs with one num_faces and seed."""

    name: str
    model: nn.Module  # in eval mode, on its device
    classes: tuple[str, ...]
    codes: Tensor  # (n, layers, 512) float32; of a model over pixels, images (n, 3, S, S) uint8
    labels: np.ndarray  # (n,) class indices
    mean_code: Tensor  # (layers, 512), the mean training code, which replaces a removed layer
    store: LatentStore  # the test split
    indices: np.ndarray  # (n,) indices of the faces in it
    run: Run

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def predict(self, codes: Tensor) -> np.ndarray:
        """Codes (n, layers, 512) → probabilities (n, num_classes)."""
        # Batches that fit a CPU's cache are a fifth faster than large ones.
        return predict_probs(self.model, codes, self.device, batch_size=64)

    @property
    def has_patch_tokens(self) -> bool:
        """Whether the tokens of the model are patches of an image."""
        return isinstance(getattr(self.model, "body", None), VisionTransformer)

    def images(self, faces: Sequence[int]) -> list[Image.Image]:
        """Images of some of the faces; an empty list if the set of faces has been moved."""
        return load_face_images(self.store, self.indices[list(faces)])

    def examples(self) -> list[int]:
        """One face per class: the one with the highest probability of its true class."""
        probs = self.predict(self.codes)[np.arange(len(self.labels)), self.labels]
        return pd.Series(probs).groupby(self.labels).idxmax().tolist()


def _by_score(runs: Sequence[Run]) -> list[Run]:
    """The best on the validation split first."""
    return sorted(runs, key=lambda run: run.result["val_macro_f1"], reverse=True)


def _is_code_vit(run: Run) -> bool:
    return issubclass(load_class(run.best_checkpoint, run.trust_code), CodeViT)


def choose_runs(comparison: Comparison, first: str = "", second: str = "") -> list[Run]:
    """The run to examine and, if there is one, the run to compare it with: ViTs over codes.

    Args:
        comparison: the runs of an experiment, see `evaluation.runs_to_compare`.
        first: name of a training run; empty: the best by macro-F1 on the validation split.
        second: likewise; empty: the best of another approach.

    Raises:
        ValueError: there is no ViT over codes, or none of that name.
    """
    runs = {run.variant: run for run in _by_score(comparison.full_runs) if _is_code_vit(run)}
    for argument, name in (("run_name", first), ("other_name", second)):
        if name and name not in runs:
            reason = comparison.skipped.get(name, f"expected one of {', '.join(runs)}")
            raise ValueError(f"{argument}: got {name!r}; {reason}")
    if not runs:
        raise ValueError(
            f"{comparison.stores[0]}: expected a run of scratch or hybrid, whose tokens are the "
            "layers of a code, found none; train one, or set `explain: []` in the configuration"
        )
    chosen = runs[first] if first else next(iter(runs.values()))
    if second:
        return [chosen, runs[second]]
    approach = chosen.result["approach"]
    others = [run for run in runs.values() if run.result["approach"] != approach]
    return [chosen, *others[:1]]


def companion_runs(comparison: Comparison) -> list[Run]:
    """The best run of each other architecture, for comparison: CNNs, and models over pixels."""
    # `setdefault` below keeps the first of each architecture, and runs are sorted by score.
    best: dict[tuple[str, str], Run] = {}
    for run in _by_score(comparison.full_runs):
        if not _is_code_vit(run):
            key = (run.result["approach"], run.config["parameters"]["model_name"])
            best.setdefault(key, run)
    return list(best.values())


def load_examined_run(run: Run, num_faces: int, seed: int, device: torch.device) -> ExaminedRun:
    """A run's best weights, and `num_faces` random faces of its test split (all if fewer).

    Raises:
        ValueError: the transformer has registers or a distillation token, for which the figures
            have no place.
    """
    model, classes = load_model(run.best_checkpoint, run.trust_code)
    if isinstance(model, CodeViT) and model.tokens.num_prefix_tokens > 1:
        raise ValueError(
            f"{run.variant}: expected tokens of CLS and the layers, got "
            f"{model.tokens.num_prefix_tokens - 1} more, which are not supported here; "
            "choose another run by run_name or other_name"
        )
    latents = codes_of(run)
    store = LatentStore.open(latents, "test")
    train = LatentStore.open(latents, "train")
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(seed))
    indices = np.sort(order[:num_faces].numpy())
    codes = inputs_for(model, store, indices)[:]
    # Shard by shard, as a set may be larger than memory.
    total = sum(shard["codes"].float().sum(0) for shard in train.shards)
    return ExaminedRun(
        name=run.variant,
        model=model.to(device),
        classes=classes,
        codes=codes.float() if codes.is_floating_point() else codes,
        labels=store.labels[indices].numpy(),
        mean_code=total / len(train),
        store=store,
        indices=indices,
        run=run,
    )


def load_initial_model(examined: ExaminedRun) -> nn.Module:
    """The model before its run fine-tuned it: pretrained, or random from the seed of the run."""
    checkpoint = examined.run.best_checkpoint
    # As 02_train does: the model is the first that draws from the seeded state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(examined.run.config["seed"])
        model = load_untrained(checkpoint, examined.run.trust_code)
    masked = checkpoint.with_name("masked.safetensors")
    if examined.run.config["parameters"].get("pretrained") == "mae" and masked.is_file():
        tensors, _ = load_checkpoint(masked)
        encoder = {
            n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")
        }
        with without_adapters(model):
            model.load_state_dict(encoder)
    return model.to(examined.device).eval()
