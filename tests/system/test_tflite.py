from pathlib import Path

import numpy as np
import pytest

from fervit_lib.system.runtime import PROJECT_ROOT
from fervit_lib.system.tflite import TFLiteModel
from tests.model_files import needs

MESH = PROJECT_ROOT / "pretrained_models/face_mesh_468.tflite"


@needs(MESH.name)
def test_outputs_of_one_sample() -> None:
    points, logit = TFLiteModel(MESH, (192, 192, 3))(np.zeros((192, 192, 3)))
    assert (points.size, logit.size) == (1404, 1)


@needs(MESH.name)
def test_a_model_of_another_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"face_mesh_468\.tflite: .*128, 128, 3"):
        TFLiteModel(MESH, (128, 128, 3))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\0\0\0TFL3" + bytes(100)])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.tflite: .*make weights"):
        TFLiteModel(path, (4, 4, 3))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.tflite: .*make weights"):
        TFLiteModel(tmp_path / "none.tflite", (4, 4, 3))
