from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fervit_lib.evaluation import export_segmenter, measure_segmenters, segmenter_difference
from fervit_lib.models.segmentation import build_segmenter


def test_a_student_ships_with_a_free_batch_and_agrees_with_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build_segmenter("mobilenet_v2", "slim")
    path = export_segmenter(student, tmp_path / "student.onnx", 64)
    for batch in (1, 3):
        assert segmenter_difference(path, student, torch.randn(batch, 3, 64, 64)) <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"images": np.zeros((5, 3, 64, 64), np.float32)})
    assert logits.shape == (5, 1, 64, 64)
    other = build_segmenter("mobilenet_v2", "slim")
    with pytest.raises(ValueError, match="ONNX Runtime differs from torch"):
        segmenter_difference(path, other, torch.randn(1, 3, 64, 64))


def test_the_table_compares_with_the_first_model_in_the_same_runtime(tmp_path: Path) -> None:
    models = {"teacher": build_segmenter("resnet18"), "student": build_segmenter("mobilenet_v2", "slim")}
    table = measure_segmenters(models, tmp_path, 32, torch.device("cpu"), repeats=1)
    assert list(table["runtime"]) == ["torch", "ONNX Runtime"] * 2
    assert list(table["speedup"][:2]) == [1, 1]
    assert table["parameters"].nunique() == 2
    assert (table["megabytes"] > 3.9 * table["parameters"] / 1e6).all()
