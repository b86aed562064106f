"""A trained run with the faces it is questioned about."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.encoders import load_encoder
from fervit_lib.evaluation import predict_probs, runs_to_compare
from fervit_lib.explain.importance import Predict
from fervit_lib.inputs import inputs_for, load_pixels
from fervit_lib.latents import LatentStore
from fervit_lib.models import APPROACHES, create_model, load_model
from fervit_lib.models.latent_vit import CodeViT
from fervit_lib.runs import Run, completed_runs
from fervit_lib.system.checkpoints import load_checkpoint
from fervit_lib.system.runtime import resolve


@dataclass(frozen=True)
class ExaminedRun:
    """A model over codes and faces of its test split. The same number and seed give every run the same faces."""

    name: str
    model: nn.Module  # in eval mode, on its device
    classes: tuple[str, ...]
    codes: Tensor  # (n, 18, 512) float32; of a model over pixels its images (n, 3, S, S) uint8
    labels: np.ndarray  # (n,) class numbers
    mean_code: (
        Tensor  # (18, 512), the mean training code: what stands in for a layer that is taken away
    )
    store: LatentStore  # the split that the faces are of
    indices: np.ndarray  # (n,) their places in it
    run: Run

    @cached_property
    def predict(self) -> Predict:
        """Codes (n, 18, 512) → probabilities (n, num_classes)."""
        # On a CPU a batch that fits its cache is a fifth faster than a large one.
        return partial(
            predict_probs, self.model, device=next(self.model.parameters()).device, batch_size=64
        )

    @property
    def has_patch_tokens(self) -> bool:
        """Whether its tokens are patches of an image."""
        return isinstance(getattr(self.model, "body", None), VisionTransformer)

    @property
    def inputs(self) -> Tensor:
        """The codes on the model's device."""
        return self.codes.to(next(self.model.parameters()).device)

    def pictures(self, faces: Sequence[int], size: int = 128) -> list[Image.Image]:
        """The photographs of some of the faces; none where they are no longer where they were encoded."""
        if not self.store.faces.exists():
            return []
        pixels = load_pixels(self.store, self.indices[list(faces)], size)
        return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).numpy()]

    def examples(self) -> list[int]:
        """One face of every class: the one that the model is surest of, among those it reads rightly if there are."""
        probs, faces = self.predict(self.codes), []
        for label in np.unique(self.labels):
            members = np.flatnonzero(self.labels == label)
            faces.append(int(members[probs[members, label].argmax()]))
        return faces


def _by_score(reports: Path, experiment: str) -> list[Run]:
    """All runs that ended, the best on the validation split first."""
    return sorted(
        runs_to_compare(reports, experiment).full_runs,
        key=lambda run: run.result["val_macro_f1"],
        reverse=True,
    )


def _over_layers(run: Run) -> bool:
    """Whether a run's model attends to the layers of a code."""
    return issubclass(APPROACHES[run.result["approach"]], CodeViT)


def choose_runs(reports: Path, experiment: str, first: str = "", second: str = "") -> list[Run]:
    """The run to look into and the one to compare it with, where there is one: ViTs over codes.

    Args:
        first: name of a training run; empty is the best by macro-F1 on the validation split.
        second: empty is the best of another approach.

    Raises:
        FileNotFoundError: no training run has ended.
        ValueError: no ViT over codes has that name, or there is none at all.
    """
    runs = [run for run in _by_score(reports, experiment) if _over_layers(run)]
    if not runs:
        raise ValueError(
            f"{reports / experiment}: expected a run of scratch or hybrid, whose ViT looks at the layers of a code, "
            f"found none; train one, or leave this step out (`explain: []` in the configuration)"
        )
    by_name = {run.variant: run for run in runs}
    for argument, name in (("run_name", first), ("other_name", second)):
        if name and name not in by_name:
            raise ValueError(f"{argument}: expected one of {', '.join(by_name)}, got {name!r}")
    chosen = by_name[first or runs[0].variant]
    others = [run for run in runs if run.result["approach"] != chosen.result["approach"]]
    return [chosen, *([by_name[second]] if second else others[:1])]


def companion_runs(reports: Path, experiment: str) -> list[Run]:
    """The best run of each other architecture, to set beside the chosen: CNNs, and models over pixels."""
    best: dict[tuple, Run] = {}
    for run in _by_score(reports, experiment):
        if not _over_layers(run):
            best.setdefault((run.result["approach"], run.config["parameters"]["model_name"]), run)
    return list(best.values())


def load_examined_run(run: Run, num_faces: int, seed: int, device: torch.device) -> ExaminedRun:
    """The best weights of a run, and `num_faces` random faces of its test split (all, if there are fewer)."""
    model, classes = load_model(run.best_checkpoint)
    if _over_layers(run) and model.tokens.num_prefix_tokens > 1:
        raise ValueError(
            f"{run.variant}: expected tokens of CLS and 18 layers, got {model.tokens.num_prefix_tokens - 1} registers beside "
            f"them, which these figures have no place for; choose another run by run_name or other_name"
        )
    folder = resolve(run.config["parameters"]["latents"])
    store, train = LatentStore.open(folder, "test"), LatentStore.open(folder, "train")
    indices = (
        torch.randperm(len(store), generator=torch.Generator().manual_seed(seed))[:num_faces]
        .sort()
        .values
    )
    codes, labels = inputs_for(model, store, indices.numpy()), store.labels[indices].numpy()
    codes = codes.float() if codes.is_floating_point() else codes
    fill = sum(shard["codes"].float().sum(0) for shard in train.shards) / len(
        train
    )  # a shard at a time: sets are large
    return ExaminedRun(
        run.variant, model.to(device), classes, codes, labels, fill, store, indices.numpy(), run
    )


def load_initial_model(subject: ExaminedRun) -> nn.Module:
    """The subject's model as its run began to fine-tune it: random, but for what was pretrained."""
    _, metadata = load_checkpoint(subject.run.best_checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.run.config["seed"])
        model = create_model(metadata["approach"], len(subject.classes), **metadata["options"])
    masked = subject.run.best_checkpoint.with_name("masked.safetensors")
    if metadata["options"].get("pretrained") == "mae" and masked.is_file():
        tensors, _ = load_checkpoint(masked)
        model.load_state_dict(
            {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
        )
    return model.to(next(subject.model.parameters()).device).eval()


def find_decoder(subject: ExaminedRun) -> nn.Module | None:
    """The encoder that made the subject's codes if it can also paint them, as `autoencoder`; else None."""
    for run in completed_runs(subject.run.reports, subject.run.experiment, "encode"):
        made = resolve(run.result["latents"]) == resolve(
            subject.run.config["parameters"]["latents"]
        )
        if made and run.best_checkpoint.is_file():
            encoder = load_encoder(run.best_checkpoint, run.result["encoder"])
            if hasattr(encoder, "decode"):
                return encoder
    return None
