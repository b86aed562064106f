from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fervit_lib.distillation import OnnxFeatures, content_key
from fervit_lib.distillation.cache import BoundedCache, model_key
from fervit_lib.distillation.features import cut_graph
from fervit_lib.models.segmentation import denormalise

MIDDLE = "/0/Conv_output_0"


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 8, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Sigmoid())
    axes = {"images": {0: "batch"}, "boxes": {0: "batch"}}
    names = {"input_names": ["images"], "output_names": ["boxes"], "dynamic_axes": axes}
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, 32, 32),),
        str(tmp_path / "d.onnx"),
        dynamo=False,
        opset_version=17,
        **names,
    )
    return tmp_path / "d.onnx"


def test_a_tensor_in_the_middle_is_what_the_whole_graph_computes(
    detector: Path, tmp_path: Path
) -> None:
    images = torch.randn(3, 3, 32, 32)
    found = OnnxFeatures(detector, MIDDLE, torch.device("cpu"))(images)
    whole = onnx.load(detector)
    whole.graph.output.append(
        onnx.helper.make_tensor_value_info(MIDDLE, onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [expected] = session.run([MIDDLE], {"images": denormalise(images).numpy()})
    torch.testing.assert_close(found, torch.from_numpy(expected))
    cut = onnx.load(cut_graph(detector, MIDDLE, tmp_path / "cut.onnx"))
    assert len(cut.graph.node) == 1 < len(whole.graph.node)


def test_an_output_may_be_asked_for_too(detector: Path) -> None:
    assert OnnxFeatures(detector, "boxes", torch.device("cpu"))(
        torch.zeros(1, 3, 32, 32)
    ).shape == (1, 4, 4, 4)


NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_io_binding_equals_numpy(detector: Path, device: str) -> None:
    source = OnnxFeatures(detector, MIDDLE, torch.device(device))
    for number in range(4):  # the memory of one call must not show in the next
        images = torch.randn(2 + number % 2, 3, 32, 32, device=device)
        first = source(images)
        kept = first.clone()
        source(torch.randn_like(images))
        assert first.device.type == device
        torch.testing.assert_close(first, kept, rtol=0, atol=0)
        torch.testing.assert_close(first, source.run_by_numpy(images), rtol=1e-3, atol=1e-4)


def test_a_wrong_name_lists_the_tensors_that_fit(detector: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no '/0/Conv_output_1'.*/0/Conv_output_0 \(batchx6x4x4\)"
    ):
        OnnxFeatures(detector, "/0/Conv_output_1", torch.device("cpu"))


def test_a_missing_or_broken_file_and_a_wrong_size_are_errors(
    detector: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no detector there"):
        OnnxFeatures(tmp_path / "none.onnx", "x", torch.device("cpu"))
    (tmp_path / "bad.onnx").write_bytes(detector.read_bytes()[:100])
    with pytest.raises(ValueError, match="bad.onnx"):
        OnnxFeatures(tmp_path / "bad.onnx", MIDDLE, torch.device("cpu"))
    with pytest.raises(ValueError, match="set image_size to it"):
        OnnxFeatures(detector, MIDDLE, torch.device("cpu"))(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="providers: expected some of"):
        OnnxFeatures(detector, MIDDLE, torch.device("cpu"), providers=["Abacus"])


def test_a_key_is_of_content_and_not_of_memory() -> None:
    one = torch.arange(6, dtype=torch.uint8)
    assert content_key(one) == content_key(one.clone())
    assert content_key(one) != content_key(one.reshape(2, 3))
    key = content_key(one)
    one[0] = 9  # the same memory, other content
    assert content_key(one) != key
    layer = nn.Linear(2, 2)
    before = model_key(layer)
    nn.init.zeros_(layer.bias)
    assert model_key(layer) != before


def test_a_cache_stays_within_its_bound_and_drops_what_was_unused_longest() -> None:
    cache = BoundedCache(3 * 40)
    for number in range(3):
        cache.put(number, (torch.full((10,), float(number)),))
    cache.get(0)
    cache.put(3, (torch.zeros(10),))
    assert cache.get(1) is None
    assert [cache.get(k)[0][0].item() for k in (0, 2, 3)] == [0, 2, 0]
    assert cache.bytes <= cache.max_bytes
    cache.put("large", (torch.zeros(1000),))
    assert cache.get("large") is None
    with pytest.raises(ValueError, match="max_bytes"):
        BoundedCache(-1)


def test_a_cached_part_of_a_batch_does_not_keep_the_batch_alive() -> None:
    cache, batch = BoundedCache(1e6), torch.zeros(100, 10)
    cache.put("x", (batch[3],))
    assert cache.get("x")[0].untyped_storage().nbytes() == 40
