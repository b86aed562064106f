"""A trained run with the faces it is questioned about."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fervit_lib.encoders import load_encoder
from fervit_lib.evaluation import predict_probs, runs_to_compare
from fervit_lib.explain.importance import Predict
from fervit_lib.latents import LatentStore
from fervit_lib.models import create_model, load_model
from fervit_lib.runs import Run, completed_runs, load_checkpoint
from fervit_lib.runtime import resolve


@dataclass(frozen=True)
class Subject:
    """A model over codes and faces of its test split. The same number and seed give every run the same faces."""

    name: str
    model: nn.Module  # in eval mode, on its device
    classes: tuple[str, ...]
    codes: Tensor  # (n, 18, 512) float32
    labels: np.ndarray  # (n,) class numbers
    fill: Tensor  # (18, 512), the mean training code: what stands in for a layer that is taken away
    synthetic: bool
    run: Run

    @cached_property
    def predict(self) -> Predict:
        """Codes (n, 18, 512) → probabilities (n, num_classes)."""
        # On a CPU a batch that fits its cache is a fifth faster than a large one.
        return partial(predict_probs, self.model, device=next(self.model.parameters()).device, batch_size=64)

    @property
    def inputs(self) -> Tensor:
        """The codes on the model's device."""
        return self.codes.to(next(self.model.parameters()).device)

    def examples(self) -> list[int]:
        """One face of every class: the one that the model is surest of, among those it reads rightly if there are."""
        probs, faces = self.predict(self.codes), []
        for label in np.unique(self.labels):
            members = np.flatnonzero(self.labels == label)
            faces.append(int(members[probs[members, label].argmax()]))
        return faces


def choose_runs(reports: Path, experiment: str, first: str = "", second: str = "") -> list[Run]:
    """The run to look into and the one to compare it with, where there is one; both read codes.

    Args:
        first: name of a training run; empty is the best by macro-F1 on the validation split.
        second: empty is the best of another approach.

    Raises:
        FileNotFoundError: no training run has ended.
        ValueError: no run over codes has that name.
    """
    runs = [run for run in runs_to_compare(reports, experiment) if run.result["approach"] != "image"]
    runs.sort(key=lambda run: run.result["val_macro_f1"], reverse=True)
    by_name = {run.variant: run for run in runs}
    for argument, name in (("run", first), ("other", second)):
        if name and name not in by_name:
            raise ValueError(f"{argument}: expected one of {', '.join(by_name)}, got {name!r}")
    if not runs:
        raise ValueError(f"{reports / experiment}: expected a run over codes, found runs over images alone")
    chosen = by_name[first or runs[0].variant]
    others = [run for run in runs if run.result["approach"] != chosen.result["approach"]]
    return [chosen, *([by_name[second]] if second else others[:1])]


def load_subject(run: Run, num_faces: int, seed: int, device: torch.device) -> Subject:
    """The best weights of a run, and `num_faces` random faces of its test split (all, if there are fewer)."""
    model, classes = load_model(run.best_checkpoint)
    folder = resolve(run.config["parameters"]["latents"])
    store, train = LatentStore.open(folder, "test"), LatentStore.open(folder, "train")
    chosen = torch.randperm(len(store), generator=torch.Generator().manual_seed(seed))[:num_faces].sort().values
    codes, labels, fill = store.codes[chosen].float(), store.labels[chosen].numpy(), train.codes.float().mean(0)
    return Subject(run.variant, model.to(device), classes, codes, labels, fill, store.synthetic, run)


def before_training(subject: Subject) -> nn.Module:
    """The subject's model as its run began, from that run's seed: random, but for what it was given pretrained."""
    _, metadata = load_checkpoint(subject.run.best_checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.run.config["seed"])
        model = create_model(metadata["approach"], len(subject.classes), **metadata["options"])
    return model.to(next(subject.model.parameters()).device).eval()


def find_decoder(subject: Subject) -> nn.Module | None:
    """The encoder that made the subject's codes if it can also paint them, as `autoencoder`; else None."""
    for run in completed_runs(subject.run.reports, subject.run.experiment, "encode"):
        made = resolve(run.result["latents"]) == resolve(subject.run.config["parameters"]["latents"])
        if made and run.best_checkpoint.is_file():
            encoder = load_encoder(run.best_checkpoint, run.result["encoder"])
            if hasattr(encoder, "decode"):
                return encoder
    return None
