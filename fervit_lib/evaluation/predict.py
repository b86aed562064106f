"""Predictions of a model: on tensors, on pictures, and the file that keeps them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from fervit_lib.datasets import face_crop
from fervit_lib.encoders import images_to_tensor, load_encoder
from fervit_lib.inputs import images_to_pixels
from fervit_lib.latents import LatentStore
from fervit_lib.models import load_model
from fervit_lib.runs import Run
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.errors import check_image_size, explain_read_error
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path, get_device, resolve


@torch.inference_mode()
def predict_probs(
    model: nn.Module, inputs: Tensor, device: torch.device, batch_size: int = 512
) -> np.ndarray:
    """`inputs` (N, …) as the model takes them → probabilities (N, num_classes), float32."""
    model = model.eval().to(device)
    batches = [
        model(_whole(batch.to(device))).float().softmax(-1).cpu()
        for batch in inputs.split(batch_size)
    ]
    return torch.cat(batches).numpy()


def _whole(inputs: Tensor) -> Tensor:
    return inputs.float() if inputs.dtype == torch.float16 else inputs


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of the faces of one split; every figure of merit is made from this alone."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray  # (N,) class numbers
    probs: np.ndarray  # (N, C)

    @property
    def predicted(self) -> np.ndarray:
        return self.probs.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        return self.predicted == self.labels

    @property
    def confidence(self) -> np.ndarray:
        return self.probs.max(1)

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) counts, true classes down, predicted across."""
        return confusion_matrix(self.labels, self.predicted, labels=range(len(self.classes)))

    def to_frame(self) -> pd.DataFrame:
        """A row a face: path, label and predicted (class names), confidence, `prob_<class>`."""
        frame = pd.DataFrame({"path": list(self.paths)})
        frame["label"] = [self.classes[i] for i in self.labels]
        frame["predicted"] = [self.classes[i] for i in self.predicted]
        frame["confidence"] = self.confidence
        for i, name in enumerate(self.classes):
            frame[f"prob_{name}"] = self.probs[:, i]
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        columns = [name for name in frame if name.startswith("prob_")]
        classes = tuple(name.removeprefix("prob_") for name in columns)
        labels = frame["label"].map(classes.index).to_numpy()
        return cls(classes, tuple(frame["path"]), labels, frame[columns].to_numpy())


def write_predictions(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Write parquet: `Predictions.to_frame` of each split, with its name in column split."""
    frame = pd.concat(
        [found.to_frame().assign(split=split) for split, found in splits.items()], ignore_index=True
    )
    with atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_predictions(path: Path) -> dict[str, Predictions]:
    """What `write_predictions` wrote, by split. FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no predictions there; run 04_evaluate")
    with explain_read_error(path, "not the predictions of this project", "run 04_evaluate again"):
        frame = pd.read_parquet(path)
        return {
            split: Predictions.from_frame(part)
            for split, part in frame.groupby("split", sort=False)
        }


@dataclass(frozen=True, eq=False)
class Encoder:
    """What turns pictures into codes as those of a store were made."""

    network: nn.Module
    align: Callable[[Image.Image], Image.Image]

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], batch_size: int = 128) -> Tensor:
        """Pictures of any size → codes (N, 18, 512) float32 on the CPU."""
        device = next(self.network.parameters()).device
        codes = []
        with progress(total=len(images), desc="encode", unit=" faces") as bar:
            for first in range(0, len(images), batch_size):
                chunk = [self.align(image) for image in images[first : first + batch_size]]
                codes.append(
                    self.network(images_to_tensor(chunk, self.network.img_size).to(device)).cpu()
                )
                bar.update(len(chunk))
        return torch.cat(codes)


def find_encoder(latents: Path, device: torch.device) -> Encoder:
    """The encoder that made the codes in `latents`, as `store.json` says.

    Raises:
        FileNotFoundError: its checkpoint is not there, or not known.
        ValueError: the checkpoint is another one by now.
    """
    store = LatentStore.open(latents, "test")
    if not store.made_by:
        raise FileNotFoundError(
            f"{display_path(latents)}: its encoder is not known; codes made by 01_encode name it"
        )
    checkpoint = resolve(store.made_by["checkpoint"])
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"{display_path(checkpoint)}: no such checkpoint, which made the codes in {display_path(latents)}; put it "
            f"back, or run 01_encode"
        )
    with checkpoint.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != store.made_by["sha256"]:
            raise ValueError(
                f"{display_path(checkpoint)}: changed since it made the codes in {display_path(latents)}; put the old "
                f"one back, or run 01_encode"
            )
    return Encoder(
        load_encoder(checkpoint, store.encoder).to(device), face_crop(store.made_by["landmarks"])
    )


@dataclass(frozen=True, eq=False)
class PicturePredictions:
    """What a model read in pictures."""

    table: (
        pd.DataFrame
    )  # a row a picture: emotion, confidence, then a column a class with its probability
    codes: Tensor | None  # (N, 18, 512) float32; None from a model over pixels


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model with what turns a picture into its input."""

    model: nn.Module
    classes: tuple[str, ...]
    encoder: Encoder | None  # None for a model over pixels
    device: torch.device

    @property
    def input_format(self) -> tuple[int, str] | None:
        """Side of an image and how it becomes a square; None for codes. Predictors that take the same share inputs."""
        if self.model.reads != "pixels":
            return None
        return self.model.image_size, self.model.resize_method

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of faces → what the model takes: codes (N, 18, 512), or images (N, 3, S, S) uint8."""
        if self.encoder is not None:
            return self.encoder(images)
        return images_to_pixels(images, self.model.image_size, self.model.resize_method)

    def predict(self, images: Sequence[Image.Image | Path | str]) -> PicturePredictions:
        """The emotion in each picture of a face (a PIL image, or a file).

        Raises:
            ValueError: no pictures, or a file that is no picture.
        """
        if not len(images):
            raise ValueError(
                "images: expected at least one picture of a face, got none; give files or PIL images"
            )
        pictures = [_open(image) for image in images]
        inputs = self.inputs(pictures)
        probs = predict_probs(self.model, inputs, self.device)
        table = pd.DataFrame(probs, columns=list(self.classes))
        table.insert(0, "emotion", [self.classes[i] for i in probs.argmax(1)])
        table.insert(1, "confidence", probs.max(1))
        return PicturePredictions(table, None if self.encoder is None else inputs)


def _open(image: Image.Image | Path | str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as file:
            return check_image_size(file).convert("RGB")
    except FileNotFoundError:
        raise
    except (
        Exception
    ) as error:  # on broken bytes Pillow raises anything from SyntaxError to struct.error
        raise ValueError(
            f"images: expected a picture, but {image} does not open as one ({error})"
        ) from error


def load_predictor(
    folder: Path | str, device: str = "auto", encoder: Encoder | None = None
) -> Predictor:
    """The model of a training run, `reports/<experiment>/train/<variant>`, ready for pictures of faces.

    Args:
        encoder: that of the run's codes, where it is loaded already; None: it is found.

    Raises:
        FileNotFoundError: the run, its weights, or the encoder of its codes is not there.
        ValueError: its weights are of another version.
    """
    folder, torch_device = resolve(folder), get_device(device)
    run = Run(folder.parents[2], folder.parents[1].name, folder.parent.name, folder.name)
    model, classes = load_model(run.best_checkpoint)
    if model.reads == "pixels":
        encoder = None
    elif encoder is None:
        encoder = find_encoder(resolve(run.config["parameters"]["latents"]), torch_device)
    return Predictor(model.to(torch_device), classes, encoder, torch_device)


def load_predictors(runs: Sequence[Run], device: str = "auto") -> dict[str, Predictor]:
    """`load_predictor` of runs on the same codes, by variant; they share one encoder."""
    found: dict[str, Predictor] = {}
    for run in runs:
        encoder = next((p.encoder for p in found.values() if p.encoder is not None), None)
        found[run.variant] = load_predictor(run.folder, device, encoder)
    return found
