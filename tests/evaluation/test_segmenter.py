from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fervit_lib.evaluation import export_segmenter, measure_segmenters, segmenter_difference
from fervit_lib.figures.distill import table_of_sizes
from fervit_lib.models.segmentation import build_segmenter
from fervit_lib.system.runtime import has_fast_bf16


@pytest.mark.slow
def test_an_exported_student_has_a_dynamic_batch_size_and_equals_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build_segmenter("resnet18", "slim")
    path = export_segmenter(student, tmp_path / "student.onnx", 64)
    for batch in (1, 3):
        assert segmenter_difference(path, student, torch.randn(batch, 3, 64, 64)) <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"images": np.zeros((5, 3, 64, 64), np.float32)})
    assert logits.shape == (5, 1, 64, 64)
    other = build_segmenter("resnet18", "slim")
    with pytest.raises(ValueError, match=r"student\.onnx: expected the logits of torch"):
        segmenter_difference(path, other, torch.randn(1, 3, 64, 64))


@pytest.mark.slow
def test_the_table_compares_models_and_marks_equal_runtimes(tmp_path: Path) -> None:
    models = {
        "teacher": build_segmenter("resnet18"),
        "student": build_segmenter("resnet18", "slim"),
    }
    cpu = torch.device("cpu")
    table = measure_segmenters(models, tmp_path, 32, cpu, repeats=1)
    runtimes = ["torch", "ONNX Runtime"]
    if has_fast_bf16(cpu):
        runtimes.insert(1, "torch bf16")
    n = len(runtimes)
    assert list(table["runtime"]) == runtimes * 2
    ms = table["ms"].to_numpy()
    assert list(table["speedup"][:n]) == [1] * n
    assert list(table["speedup"][n:]) == pytest.approx(list(ms[:n] / ms[n:]))
    assert table["parameters"].nunique() == 2
    assert (table["megabytes"] > 3.9 * table["parameters"] / 1e6).all()

    table["speedup"] = 4.25
    html = table_of_sizes(table).to_html()
    assert "speed-up over teacher" in html
    assert html.count("4.25") == 2 * n
