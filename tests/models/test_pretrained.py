from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fervit_lib.models import create_model
from fervit_lib.models.pretrained import create_timm

VIT = "vit_tiny_patch16_224"


def weights(num_classes: int, model_name: str = VIT) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(model_name, num_classes=0)
    model.reset_classifier(num_classes)  # the rest is the same for every number of classes
    return model.state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in weights(7).items()}


OPTIMISER = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
# Who writes it so, and what a file then holds.
FILES = {
    "torch, 7 classes": ("w.pth", weights(7)),
    "torch, 21,843 classes": ("w.pth", weights(21843)),
    "torch, no head": ("w.pt", weights(0)),
    "timm": ("w.pth.tar", {"epoch": 3, "state_dict": weights(7), "optimizer": OPTIMISER}),
    "timm with an average": (
        "w.pth.tar",
        {"state_dict": {"a": torch.ones(1)}, "state_dict_ema": weights(7)},
    ),
    "DeiT and MAE": ("w.pth", {"model": weights(0), "optimizer": OPTIMISER, "epoch": 3}),
    "DistributedDataParallel": ("w.pth", prefixed("module.")),
    "torch.compile": ("w.pth", {"model": prefixed("_orig_mod.")}),
    "both": ("w.pth", {"model": prefixed("module._orig_mod.")}),
    "Lightning": ("w.ckpt", {"state_dict": prefixed("model."), "global_step": 9}),
    "another name": ("w.bin", {"net": weights(7), "step": 3}),
    "safetensors": ("w.safetensors", weights(7)),
}


def write(path: Path, content: dict) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_weights_with_any_head_and_any_wrapping(tmp_path: Path, name: str, content: dict) -> None:
    body = create_timm(VIT, str(write(tmp_path / name, content))).state_dict()
    expected = weights(0)
    assert body.keys() == expected.keys()
    assert all(torch.equal(body[key], expected[key]) for key in body)


@pytest.mark.parametrize(
    "model_name", ["deit_tiny_distilled_patch16_224", "convnext_atto", "resnet18", "densenet121"]
)
@pytest.mark.parametrize("num_classes", [0, 7])
def test_other_architectures(tmp_path: Path, model_name: str, num_classes: int) -> None:
    file = write(tmp_path / "w.pth", weights(num_classes, model_name))
    body = create_timm(model_name, str(file)).state_dict()
    expected = weights(0, model_name)
    assert body.keys() == expected.keys()
    assert all(torch.equal(body[key], expected[key]) for key in body)


def test_every_approach_takes_them(tmp_path: Path) -> None:
    file = str(write(tmp_path / "w.pth", weights(5)))
    for approach in ("image", "hybrid"):
        model = create_model(approach, 7, model_name=VIT, pretrained=file)
        state = model.state_dict()
        key = next(key for key in state if key.endswith("blocks.3.attn.qkv.weight"))
        assert torch.equal(state[key], weights(0)["blocks.3.attn.qkv.weight"])


@pytest.mark.parametrize("num_classes", [0, 7, 1000])
def test_weights_that_lack_something_are_refused_by_its_name(
    tmp_path: Path, num_classes: int
) -> None:
    content = weights(num_classes)
    del content["blocks.3.attn.qkv.weight"]
    file = write(tmp_path / "w.pth", content)
    with pytest.raises(ValueError, match=r"w\.pth: .*blocks\.3\.attn\.qkv\.weight"):
        create_timm(VIT, str(file))


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {}}, [1, 2], {"model": {"a": 1}}], ids=str
)
def test_a_file_without_weights_is_refused(tmp_path: Path, monkeypatch, content) -> None:
    def download(*_, **__) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    file = write(tmp_path / "w.pth", content)
    with pytest.raises(ValueError, match=r"w\.pth"):
        create_timm(VIT, str(file))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "w.pth", weights(7, "vit_small_patch16_224"))
    with pytest.raises(ValueError, match=r"w\.pth: not the weights of"):
        create_timm(VIT, str(file))
