"""Published weights of an encoder, given as a file: exact, and nothing missing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from fervit_lib.models import pretrained
from fervit_lib.models.segmentation import build_segmenter


def of_timm(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = timm.create_model(name, num_classes=7).eval()
    return model, lambda images: model.forward_intermediates(images, intermediates_only=True)[-1]


def of_torchvision(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = torchvision.models.get_model(name, num_classes=7).eval()
    body = model.features if name == "mobilenet_v2" else nn.Sequential(*list(model.children())[:-2])
    return model, body


PUBLISHED = {
    "resnet18": lambda: of_torchvision("resnet18"),
    "mobilenet_v2": lambda: of_torchvision("mobilenet_v2"),
    "timm-efficientnet-b0": lambda: of_timm("efficientnet_b0"),
    "tu-convnext_atto": lambda: of_timm("convnext_atto"),
    "tu-test_resnet": lambda: of_timm("test_resnet"),
}


@pytest.mark.parametrize("encoder", PUBLISHED)
def test_an_encoder_computes_what_the_published_model_does(tmp_path: Path, encoder: str) -> None:
    torch.manual_seed(0)
    model, last_map = PUBLISHED[encoder]()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.2, 0.4)
    file = tmp_path / ("w.safetensors" if encoder == "resnet18" else "w.pt")
    if file.suffix == ".pt":
        torch.save({"state_dict": model.state_dict(), "epoch": 1}, file)
    else:
        save_file(model.state_dict(), file)
    student = build_segmenter(encoder, "slim", str(file)).eval().double()
    model.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = last_map(images)
        torch.testing.assert_close(student.encoder(images)[-1], expected)
        assert expected.std() > 1e-3


def without_a_layer(file: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, file)


def with_one_more(file: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict() | {"layer9.weight": torch.ones(1)}, file)


def with_code(file: Path) -> None:
    torch.save({"state_dict": torchvision.models.resnet18().state_dict(), "x": Path}, file)


MISTAKES = {
    "a layer is missing": ("w.pt", without_a_layer, "w.pt: .*layer2.0.conv1"),
    "one more layer": ("w.pt", with_one_more, "w.pt: .*layer9"),
    "another model": (
        "w.pt",
        lambda file: torch.save(torchvision.models.resnet34().state_dict(), file),
        "w.pt: .*resnet18",
    ),
    "code": ("w.pt", with_code, "w.pt: .*(weights_only|Unsupported)"),
    "no file": ("w.pt", lambda file: None, "student_weights: .*w.pt"),
    "another kind of file": ("w.onnx", Path.touch, "student_weights: .*imagenet.*w.onnx"),
}


@pytest.mark.parametrize(("name", "write", "message"), MISTAKES.values(), ids=MISTAKES)
def test_other_files_are_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        build_segmenter("resnet18", weights=str(tmp_path / name))


def test_a_layer_of_a_timm_encoder_may_not_be_missing_either(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="w.pt: .*layer2.0.conv1"):
        build_segmenter("tu-test_resnet", weights=str(tmp_path / "w.pt"))


def test_imagenet_means_the_file_of_the_encoders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    model = torchvision.models.resnet18()
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    student = build_segmenter("resnet18", weights="imagenet")
    assert torch.equal(student.encoder.conv1.weight, model.conv1.weight)
