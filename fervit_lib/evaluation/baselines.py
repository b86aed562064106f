"""Outside models as baselines: ONNX and TFLite files, each described by an adapter file.

An adapter is a YAML file such as `configs/baselines/fer_mini_xception.yaml`:

    file: fer_mini_xception.tflite   # in pretrained_models/, or with its whole path
    input_size: 64                   # side of the input in pixels
    channels: grey                   # grey, rgb or bgr
    layout: nhwc                     # nhwc or nchw
    range: [-1, 1]                   # values of black and white; or one such pair per channel
    softmax: false                   # whether the outputs are logits, which need a softmax
    classes: [angry, disgust, fear, happy, sad, surprise, neutral]   # in the order of the outputs
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image
from scipy.special import softmax

from fervit_lib.datasets import FaceDataset
from fervit_lib.datasets.class_names import emotion_of
from fervit_lib.evaluation.evaluate import EvaluatedRun, Faces, compute_metrics
from fervit_lib.evaluation.predict import Predictions, restrict_probs
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.names import check_choice, check_range, check_value, near, split_names
from fervit_lib.system.progress import progress
from fervit_lib.system.runtime import display_path, resolve
from fervit_lib.system.yaml_files import read_yaml

# A batch of inputs → outputs (B, C).
Model = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Adapter:
    """How an outside model takes a face, and what its outputs mean; see the head of this module."""

    file: str
    input_size: int
    channels: str
    layout: str
    range: list
    softmax: bool
    classes: list[str]

    def __post_init__(self) -> None:
        check_choice("channels", self.channels, ("grey", "rgb", "bgr"))
        check_choice("layout", self.layout, ("nhwc", "nchw"))
        for name, type_ in (("file", "str"), ("softmax", "bool"), ("input_size", "int")):
            check_value(name, getattr(self, name), type_)
        check_range("input_size", self.input_size, 1)
        names = self.classes
        is_list = isinstance(names, list) and {type(name) for name in names} == {str}
        if not is_list or len(set(names)) < len(names):
            raise ValueError(f"classes: expected a list of different names, got {names}")
        values = np.array(self.range, dtype=object)
        shapes = [(2,), (1 if self.channels == "grey" else 3, 2)]
        if values.shape not in shapes or not {type(v) for v in values.flat} <= {int, float}:
            raise ValueError(f"range: expected two numbers, or two per channel, got {self.range}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an adapter file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a key is unknown, missing or has another value than expected.
        """
        with explain_read_error(path, "not an adapter of a baseline", "correct it"):
            content = read_yaml(path)
            known = [field.name for field in fields(cls)]
            for key in content:
                if key not in known:
                    raise ValueError(f"unknown key {key!r}; {near(key, known)}")
            if missing := [key for key in known if key not in content]:
                raise ValueError(f"{missing[0]}: expected a value, got none")
            return cls(**content)

    def inputs(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Faces as the model takes them: (B, S, S, C), or (B, C, S, S), float32."""
        mode = "L" if self.channels == "grey" else "RGB"
        size = (self.input_size, self.input_size)
        resized = [image.convert(mode).resize(size, Image.Resampling.BILINEAR) for image in images]
        batch = np.stack([np.asarray(image, np.float64) for image in resized])
        batch = batch.reshape(*batch.shape[:3], -1)  # (B, S, S, C)
        if self.channels == "bgr":
            batch = batch[..., ::-1]
        low, high = np.array(self.range, float).T
        batch = low + (high - low) * batch / 255
        if self.layout == "nchw":
            batch = batch.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(batch, dtype=np.float32)


def _load_onnx(path: Path, input_shape: tuple[int, ...]) -> Model:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    return lambda batch: session.run(None, {model_input.name: batch})[0]


def _load_tflite(path: Path, input_shape: tuple[int, ...]) -> Model:
    from fervit_lib.system.tflite import TFLiteModel

    model = TFLiteModel(path, input_shape)
    return lambda batch: np.stack([model(face)[0] for face in batch])


_LOADERS = {".onnx": _load_onnx, ".tflite": _load_tflite}


def predict_baseline(adapter: Adapter, faces: FaceDataset) -> np.ndarray:
    """Faces → probabilities (N, C) float32 in the order of the adapter's classes.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the file is not a model, or it does not take or return what the adapter says.
    """
    path = resolve("pretrained_models") / adapter.file
    check_choice("file", path.suffix, tuple(_LOADERS))
    if not path.is_file():
        raise FileNotFoundError(
            f"{display_path(path)}: missing; put the file of the baseline there"
        )
    explain = partial(explain_read_error, path, "does not fit its adapter", "correct the adapter")
    shape = adapter.inputs([Image.new("L", (1, 1))])[0].shape
    with explain():
        model = _LOADERS[path.suffix](path, shape)
    outputs = []
    images = iter(progress(faces, desc=path.stem, unit=" faces"))
    while batch := [image for image, _ in islice(images, 256)]:
        with explain():
            outputs.append(model(adapter.inputs(batch)).reshape(len(batch), -1))
    with explain():
        probs = np.concatenate(outputs).astype(np.float32)
        if probs.shape[1] != len(adapter.classes):
            raise ValueError(
                f"expected {len(adapter.classes)} outputs per face, one per class of the adapter, "
                f"got {probs.shape[1]}"
            )
        probs = softmax(probs, axis=1) if adapter.softmax else probs
        if not np.isfinite(probs).all() or probs.min() < 0 or abs(probs.sum(1) - 1).max() > 0.02:
            raise ValueError("expected probabilities as outputs, got others; is it softmax: true?")
    return probs


def evaluate_baselines(baselines: str, faces: Faces, seed: int = 0) -> list[EvaluatedRun]:
    """Predict the val and test faces with each outside model, and compute its metrics.

    Args:
        baselines: adapter files, separated by commas.
        faces: those that the runs are compared on.

    Raises:
        FileNotFoundError: no such adapter, or no such model.
        ValueError: an adapter is wrong, or its model lacks a class of the faces.
    """
    return [_evaluate(resolve(path), faces, seed) for path in split_names(baselines)]


def _evaluate(path: Path, faces: Faces, seed: int) -> EvaluatedRun:
    adapter = Adapter.read(path)
    classes = faces.stores["test"].classes
    columns = [_column(name, adapter, path) for name in classes]
    parts = []
    for fold in faces.folds:
        predictions = {}
        for split in ("val", "test"):
            tested = fold.dataset(split)
            # Classes that these faces do not have, as contempt, are no possible answer.
            probs = restrict_probs(predict_baseline(adapter, tested), columns)
            predictions[split] = Predictions(classes, tested.paths, tested.labels, probs)
        parts.append(predictions)
    about = {"variant": path.stem, "recipe": path.stem, "approach": "outside model"}
    return compute_metrics(about, parts, faces.tested_subjects, seed)


def _column(name: str, adapter: Adapter, path: Path) -> int:
    """The output of the adapter for a class of the faces."""
    for position, other in enumerate(adapter.classes):
        if name in (other, emotion_of(other)):
            return position
    raise ValueError(
        f"{display_path(path)}: classes: expected all classes of the faces, got none for {name!r}; "
        f"leave out the baseline, or that class by leave_out of 01_encode"
    )
