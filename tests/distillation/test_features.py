from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from fervit_lib.distillation import BoundedCache, OnnxFeatures
from fervit_lib.distillation.features import cut_graph
from fervit_lib.models.segmentation import denormalise
from fervit_lib.system.checkpoints import content_key, model_key

MIDDLE = "/0/Conv_output_0"
CPU = torch.device("cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 8, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Sigmoid()
    ).eval()


@pytest.fixture
def detector(model: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "d.onnx"
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, 32, 32),),
        str(path),
        input_names=["images"],
        output_names=["boxes"],
        dynamic_axes={"images": {0: "batch"}, "boxes": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    return path


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_middle_tensor_equals_torch_and_survives_the_next_call(
    model: nn.Module, detector: Path, device: str
) -> None:
    source = OnnxFeatures(detector, MIDDLE, torch.device(device))
    for number in range(4):
        images = torch.randn(2 + number % 2, 3, 32, 32, device=device)
        features = source(images)
        first = features.clone()
        source(torch.randn_like(images))
        assert features.device.type == device
        assert torch.equal(features, first)
        expected = model[0](denormalise(images.cpu()))
        torch.testing.assert_close(features.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_the_cut_graph_computes_nothing_after_the_tensor(detector: Path) -> None:
    cut = cut_graph(detector, MIDDLE)
    assert len(cut.graph.node) == 1 < len(onnx.load(detector).graph.node)


def test_an_output_of_the_graph_is_a_tensor_like_any_other(detector: Path) -> None:
    assert OnnxFeatures(detector, "boxes", CPU)(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 4, 4)


def test_an_unknown_tensor_is_an_error_that_lists_feature_maps(detector: Path) -> None:
    with pytest.raises(ValueError, match=r"tensor: .*/0/Conv_output_0.*batchx6x4x4"):
        OnnxFeatures(detector, "/0/Conv_output_1", CPU)


def test_images_of_another_size_are_an_error(detector: Path) -> None:
    with pytest.raises(ValueError, match="images: .*image_size"):
        OnnxFeatures(detector, MIDDLE, CPU)(torch.zeros(1, 3, 64, 64))


def test_the_key_changes_with_weights_in_a_file_of_their_own(
    model: nn.Module, detector: Path, tmp_path: Path
) -> None:
    split = tmp_path / "split.onnx"
    graph = onnx.load(detector)
    onnx.save(graph, split, save_as_external_data=True, location="weights", size_threshold=0)
    before = OnnxFeatures(split, MIDDLE, CPU)
    assert OnnxFeatures(split, MIDDLE, CPU).key == before.key
    weights = bytearray((tmp_path / "weights").read_bytes())
    graph_bytes = split.read_bytes()
    weights[3] ^= 0x40  # an exponent of the first weight
    (tmp_path / "weights").write_bytes(weights)
    assert split.read_bytes() == graph_bytes
    after = OnnxFeatures(split, MIDDLE, CPU)
    assert after.key != before.key
    assert not torch.equal(after(torch.ones(1, 3, 32, 32)), before(torch.ones(1, 3, 32, 32)))


def test_a_key_depends_on_content_alone() -> None:
    one = torch.arange(6, dtype=torch.uint8)
    assert content_key(one) == content_key(one.clone())
    assert content_key(one) != content_key(one.reshape(2, 3))
    key = content_key(one)
    one[0] = 9  # other content in the same memory
    assert content_key(one) != key
    layer = nn.Linear(2, 2)
    before = model_key(layer)
    nn.init.zeros_(layer.bias)
    assert model_key(layer) != before


def test_the_cache_drops_the_least_recently_used_entry() -> None:
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


def test_a_cached_row_does_not_keep_its_batch_in_memory() -> None:
    cache = BoundedCache(1e6)
    cache.put("x", (torch.zeros(100, 10)[3],))
    assert cache.get("x")[0].untyped_storage().nbytes() == 40
