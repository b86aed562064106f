"""Outside models: the adapter file, both formats, and their place among the runs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

from fervit_lib.datasets import EMOTIONS, load_faces
from fervit_lib.evaluation import Faces, evaluate_baselines
from fervit_lib.evaluation.baselines import Adapter, predict_baseline
from fervit_lib.evaluation.metrics import summary_metrics
from fervit_lib.system.runtime import PROJECT_ROOT, resolve
from tests.evaluation.conftest import Toy

ORDER = ("surprise", "sadness", "neutral", "happiness", "fear", "disgust", "anger", "contempt")
CONTENT: dict[str, Any] = {
    "file": "a.onnx",
    "input_size": 8,
    "channels": "grey",
    "layout": "nchw",
    "range": [0, 255],
    "softmax": True,
    "classes": list(ORDER),
}


def write_adapter(folder: Path, **changes: Any) -> Path:
    path = folder / "means.yaml"
    path.write_text(yaml.safe_dump(CONTENT | changes))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logits are the means of the rows of an 8×8 picture, so that what comes in can be told."""
    path = tmp_path_factory.mktemp("model") / "means.onnx"
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 8])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 32])
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[1, 3], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "means", [images], [logits], [scale])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def expected_probs(images: list[Image.Image]) -> np.ndarray:
    rows = [
        np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BILINEAR), float).mean(1) / 32
        for image in images
    ]
    exp = np.exp(rows)
    return exp / exp.sum(1, keepdims=True)


class TestInputs:
    image = Image.fromarray(np.array([[[10, 20, 30]] * 4] * 4, np.uint8))

    def inputs(self, **changes: Any) -> np.ndarray:
        return Adapter(**CONTENT | changes).inputs([self.image] * 2)

    @pytest.mark.parametrize(
        ("changes", "shape", "values"),
        [
            ({"channels": "rgb"}, (2, 3, 8, 8), [10, 20, 30]),
            ({"channels": "bgr"}, (2, 3, 8, 8), [30, 20, 10]),
            ({"channels": "rgb", "layout": "nhwc"}, (2, 8, 8, 3), [10, 20, 30]),
            ({"layout": "nhwc"}, (2, 8, 8, 1), [18]),  # ITU-R 601: 0.299, 0.587, 0.114
            (
                {"channels": "rgb", "range": (-1, 1)},
                (2, 3, 8, 8),
                [-235 / 255, -215 / 255, -195 / 255],
            ),
            (
                {"channels": "rgb", "range": [[0, 255], [-20, 235], [0, 510]]},
                (2, 3, 8, 8),
                [10, 0, 60],
            ),
        ],
    )
    def test_a_picture_becomes_what_the_adapter_says(
        self, changes: dict, shape: tuple, values: list
    ) -> None:
        batch = self.inputs(**changes)
        assert batch.shape == shape and batch.dtype == np.float32
        channels = batch if shape[-1] == len(values) else batch.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(channels[0, 3, 3], values, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"inputsize": 8}, "'inputsize'; did you mean 'input_size'"),
        ({"input_size": "8"}, "input_size"),
        ({"channels": "gray"}, "channels"),
        ({"layout": "hw"}, "layout"),
        ({"range": [0]}, "range"),
        ({"range": [0, "x"]}, "range"),
        ({"range": [[0, 1], [0, 1], [0, 1]]}, "range"),  # grey has one channel
        ({"range": [True, False]}, "range"),
        ({"softmax": "yes"}, "softmax"),
        ({"classes": ["happy", "happy"]}, "classes"),
        ({"input_size": 0}, "input_size"),
        ({"classes": "happy"}, "classes"),
        ({"classes": [0, 1]}, "classes"),
        ({"file": 3}, "file"),
        ({"file": "a.pt"}, "file"),
        ({"file": "none.onnx"}, "none.onnx"),
    ],
)
def test_a_mistake_in_an_adapter_names_the_file_and_the_key(
    changes: dict, name: str, toy: Toy, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        evaluate_baselines(str(path), Faces(toy.store))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for name in CONTENT:
        path.write_text(yaml.safe_dump({k: v for k, v in CONTENT.items() if k != name}))
        with pytest.raises(ValueError, match=f"a.yaml: .*{name}: expected"):
            Adapter.read(path)
    for text in ("- 1", "a: [", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match="a.yaml"):
            Adapter.read(path)


def test_an_onnx_model_is_a_row_like_a_run(toy: Toy, model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, file=str(model))
    [row] = evaluate_baselines(str(adapter), Faces(toy.store))
    faces = load_faces(toy.source, "test")
    probs = expected_probs([image for image, _ in faces])
    np.testing.assert_allclose(predict_baseline(Adapter.read(adapter), faces), probs, atol=1e-4)
    # Reordered from the model's classes, of which the faces lack contempt, to those of the faces.
    names = ("surprise", "sad", "neutral", "happy", "fear", "disgust", "angry")
    probs = probs[:, [names.index(name) for name in EMOTIONS]]
    assert row.run is None and row.variant == "means"
    assert row.test.classes == EMOTIONS and row.test.paths == faces.paths
    np.testing.assert_allclose(row.test.probs, probs / probs.sum(1, keepdims=True), atol=1e-4)
    assert row.metrics["accuracy"] == summary_metrics(faces.labels, probs.argmax(1))["accuracy"]
    assert {"accuracy_low", "ece", "nll_calibrated", "num_test"} <= set(row.metrics)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"classes": list(ORDER[:-1])}, "8"),  # outputs
        ({"softmax": False}, "probabilities"),
        ({"channels": "rgb"}, "onnx"),
        ({"classes": [*ORDER[:-2], "calm", "contempt"]}, "'angry'"),
    ],
)
def test_a_model_that_does_not_fit_its_adapter_is_an_error(
    changes: dict, name: str, toy: Toy, model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path, **{"file": str(model)} | changes)
    with pytest.raises(ValueError, match=name):
        evaluate_baselines(str(adapter), Faces(toy.store))


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_damaged_model_is_named(suffix: str, toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=path.name):
        evaluate_baselines(str(write_adapter(tmp_path, file=str(path))), Faces(toy.store))


ADAPTERS = sorted((PROJECT_ROOT / "configs" / "baselines").glob("*.yaml"))


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_a_committed_adapter_is_valid_and_fits_its_file(path: Path, toy: Toy) -> None:
    adapter = Adapter.read(path)
    file = resolve("pretrained_models") / adapter.file
    if not file.is_file():
        pytest.skip(f"{file.name} is not there: make weights")
    [row] = evaluate_baselines(str(path), Faces(toy.store))
    assert len(row.test.labels) == row.metrics["num_test"]
