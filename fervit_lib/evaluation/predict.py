"""Predictions of a trained model for tensors and images, and the file that stores them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import coo_array
from torch import Tensor, nn

from fervit_lib.datasets import FaceCrop, face_crop
from fervit_lib.datasets.image_files import read_image, to_grey_or_rgb
from fervit_lib.encoders import (
    LargestBatch,
    encoder_dtype,
    images_to_tensor,
    load_decoder,
    load_encoder,
    prepare_encoder,
)
from fervit_lib.encoders.generator import Generator
from fervit_lib.inputs import images_to_pixels, pixel_side
from fervit_lib.latents import LatentStore, store_identity
from fervit_lib.models import load_model, trained_on
from fervit_lib.runs import Run
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path, get_device, has_fast_bf16, resolve
from fervit_lib.system.shards import MappedRows


@torch.inference_mode()
def predict_probs(
    model: nn.Module, inputs: Tensor | MappedRows, device: torch.device, batch_size: int = 512
) -> np.ndarray:
    """Inputs (N, …), as the model takes them → probabilities (N, num_classes) float32."""
    model = model.eval().to(device)
    # Filled in place: small arrays that are kept per batch hold the memory between them.
    probs = torch.empty(0)
    start = 0
    for batch in inputs.split(batch_size):
        batch = batch.to(device)
        # Stores keep codes in float16, training gives a model float32.
        batch = batch.float() if batch.dtype == torch.float16 else batch
        of_batch = model(batch).float().softmax(-1).cpu()
        if start == 0:
            probs = torch.empty(len(inputs), of_batch.shape[1])
        probs[start : start + len(batch)] = of_batch
        start += len(batch)
    return probs.numpy()


def restrict_probs(probs: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """The probabilities (N, C) of some of the classes, divided by their sum."""
    probs = probs[:, columns]
    return probs / probs.sum(1, keepdims=True).clip(1e-12)


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions for the faces of one split; all metrics are computed from them."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray  # (N,) class indices
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
        """(C, C) counts: one row per true class, one column per predicted class."""
        num_classes = len(self.classes)
        # Cell (true, predicted) of the flattened matrix.
        pairs = self.labels * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    def confusion_by(self, groups: np.ndarray) -> coo_array:
        """(G, C, C) counts, as `confusion`, of each group of faces that `groups` (N,) names."""
        names, group_of = np.unique(groups, return_inverse=True)
        shape = (len(names), len(self.classes), len(self.classes))
        return coo_array((np.ones(len(groups)), (group_of, self.labels, self.predicted)), shape)

    def to_frame(self) -> pd.DataFrame:
        """One row per face: path, label and predicted (names), confidence, `prob_<class>`."""
        classes = np.array(self.classes)
        frame = pd.DataFrame(
            {
                "path": self.paths,
                "label": classes[self.labels],
                "predicted": classes[self.predicted],
                "confidence": self.confidence,
            }
        )
        probs = pd.DataFrame(self.probs, columns=[f"prob_{name}" for name in self.classes])
        return pd.concat([frame, probs], axis=1)


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several models of the same classes, each for other faces, as one."""
    return Predictions(
        parts[0].classes,
        tuple(path for part in parts for path in part.paths),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.probs for part in parts]),
    )


def write_predictions(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Write a parquet file: `Predictions.to_frame` of each split, and a column `split`."""
    frames = [predictions.to_frame().assign(split=split) for split, predictions in splits.items()]
    with atomic_write(path) as temporary:
        pd.concat(frames, ignore_index=True).to_parquet(temporary, index=False)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes images in the way the codes of a store were made."""

    network: nn.Module
    align: FaceCrop

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Images of any size → codes (N, 18, 512) float32 on the CPU."""
        device = next(iter(self.network.state_dict().values())).device  # some have no parameters
        codes = []
        largest = LargestBatch(self.network, 128)
        starts = range(0, len(images), 128)
        for start in progress(starts, desc="encode", unit=" batches"):
            aligned = [self.align(image) for image in images[start : start + 128]]
            batch = images_to_tensor(aligned, self.network.img_size)
            batch = batch.to(device, encoder_dtype(self.network))
            codes.append(largest.encode(batch).float().cpu())
        return torch.cat(codes)


def codes_of(run: Run) -> Path:
    """The store that a run was trained on."""
    return resolve(trained_on(run.best_checkpoint)["store"])


def check_encoding(checkpoint: Path, store: Path) -> None:
    """Check that the codes in `store` are of the encoding that a model was trained on.

    Raises:
        FileNotFoundError: the checkpoint, or the store, is missing.
        ValueError: other weights, precision or alignment made the codes.
    """
    trained = trained_on(checkpoint)["encoding"]
    encoding = store_identity(store)["encoding"]
    if trained != encoding:
        raise ValueError(
            f"{display_path(store)}: expected codes of the encoding that "
            f"{display_path(checkpoint)} was trained on, {trained}; got {encoding}; train again, "
            f"or encode as before"
        )


def find_encoder(latents: Path, device: torch.device) -> Encoder:
    """The encoder that made the codes in `latents`, named by their `store.json`.

    Raises:
        FileNotFoundError: its checkpoint is missing, or the store does not name one.
        ValueError: the checkpoint has changed since.
    """
    store = LatentStore.open(latents, "test")
    # In the precision of the codes, which is also the faster one.
    dtype = store.made_by.get("settings", {}).get("dtype", "float32")
    network = load_encoder(_find_checkpoint(store), store.encoder)
    network = prepare_encoder(network, device, dtype=dtype)
    if store.encoder.startswith("restyle"):
        network.iterations = store.made_by["settings"]["iterations"]
    align = face_crop(store.made_by["landmarks"], store.made_by.get("misses", "whole"))
    return Encoder(network, align)


def find_decoder(latents: Path, device: torch.device) -> nn.Module | None:
    """What draws the codes in `latents`, see `encoders.load_decoder`; None, and why, if nothing.

    StyleGAN2's generator is in bf16 where `device` is fast in it. With random weights, that changes
    a pixel by 1 of 255 levels on average.
    """
    try:
        store = LatentStore.open(latents, "test")
        decoder = load_decoder(_find_checkpoint(store), store.encoder)
        if isinstance(decoder, Generator) and has_fast_bf16(device):
            decoder.to_bfloat16()
        return decoder.to(device)
    except (FileNotFoundError, ValueError) as error:
        print(f"No pictures from codes: {error}")
        return None


def _find_checkpoint(store: LatentStore) -> Path:
    """The file of the encoder that made a store's codes, unchanged since."""
    folder = display_path(store.folder)
    if not store.made_by:
        raise FileNotFoundError(
            f"{folder}: store.json does not name the encoder's checkpoint; encode with 01_encode"
        )
    checkpoint = resolve(store.made_by["checkpoint"])
    remedy = "put the original file back, or run 01_encode again"
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"{display_path(checkpoint)}: missing; it made the codes in {folder}; {remedy}"
        )
    with checkpoint.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != store.made_by["sha256"]:
        raise ValueError(
            f"{display_path(checkpoint)}: changed since it made the codes in {folder}; {remedy}"
        )
    return checkpoint


@dataclass(frozen=True, eq=False)
class ImagePredictions:
    """A model's predictions for images."""

    table: pd.DataFrame  # one row per image: emotion, confidence, then one column per class
    codes: Tensor | None  # (N, 18, 512) float32; None if the model takes images


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained model, and the encoder that turns an image into its input."""

    model: nn.Module
    classes: tuple[str, ...]
    encoder: Encoder | None  # None if the model takes images
    device: torch.device

    def inputs(self, images: Sequence[Image.Image]) -> Tensor:
        """Face images → the model's inputs: codes (N, 18, 512), or images (N, 3, S, S) uint8."""
        if self.encoder is not None:
            return self.encoder(images)
        side = pixel_side(self.model.image_size, self.model.face_size)
        return images_to_pixels(images, side, self.model.resize_method)

    def predict(self, images: Sequence[Image.Image | Path | str]) -> ImagePredictions:
        """The emotion in each face image, given as a PIL image or a file.

        Faces are aligned as those of the model's codes were. One that the landmark detector does
        not find is taken whole, or by the template, as `misses` says there.

        Raises:
            ValueError: `images` is empty, or a file is not an image.
        """
        if not len(images):
            raise ValueError(
                "images: expected at least one face image, got none; give files or PIL images"
            )
        inputs = self.inputs([open_image(image) for image in images])
        probs = predict_probs(self.model, inputs, self.device)
        table = pd.DataFrame(probs, columns=list(self.classes))
        table.insert(0, "emotion", [self.classes[i] for i in probs.argmax(1)])
        table.insert(1, "confidence", probs.max(1))
        return ImagePredictions(table, None if self.encoder is None else inputs)


def open_image(image: Image.Image | Path | str | bytes, name: str = "") -> Image.Image:
    """A face to predict, in mode L or RGB: a PIL image, a file, or the content of one.

    Files are read by `read_image`, as the faces of a data set are.

    Args:
        name: of the file whose content is given, for error messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not an image, or too large.
    """
    if isinstance(image, Image.Image):
        return to_grey_or_rgb(image)
    try:
        return read_image(image, name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{error}; give another image") from error


def load_predictor(
    folder: Path | str,
    device: str = "auto",
    encoder: Encoder | None = None,
    trust_code: bool = False,
) -> Predictor:
    """The model of a training run, `reports/<experiment>/train/<variant>`, ready for face images.

    Args:
        encoder: the one that made the run's codes, if it is loaded already; None: load it.
        trust_code: run the code that is saved with a model of an own class.

    Raises:
        FileNotFoundError: the run, its weights, or the encoder of its codes is missing.
        ValueError: the weights do not fit this version's model.
    """
    folder = resolve(folder)
    torch_device = get_device(device)
    run = Run(folder.parents[2], folder.parents[1].name, folder.parent.name, folder.name)
    model, classes = load_model(run.best_checkpoint, trust_code)
    if model.reads == "pixels":
        encoder = None
    else:
        check_encoding(run.best_checkpoint, codes_of(run))
        encoder = encoder or find_encoder(codes_of(run), torch_device)
    return Predictor(model.to(torch_device), classes, encoder, torch_device)


def load_predictors(runs: Mapping[str, Run], device: str = "auto") -> dict[str, Predictor]:
    """`load_predictor` of runs by name; those on the same codes share one encoder."""
    predictors: dict[str, Predictor] = {}
    encoders: dict[Path, Encoder | None] = {}
    for name, run in runs.items():
        latents = codes_of(run)
        predictors[name] = load_predictor(run.folder, device, encoders.get(latents), run.trust_code)
        encoders[latents] = encoders.get(latents) or predictors[name].encoder
    return predictors
