"""Models of classes that a notebook defines: saved as text, and never run without consent."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn
from traitlets.config import Config

from fervit_lib.evaluation import runs_to_compare
from fervit_lib.models import (
    ExpressionModel,
    LatentViT,
    create_model,
    describe_object,
    load_model,
    save_model,
)
from fervit_lib.runs import start_run
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.training import AugmentCodes, AugmentImages, LossConfig

IMPORTS = """
import torch
import torch.nn.functional as F
from torch import nn
from fervit_lib import models
"""
HEAD = """
WIDTH = 24
def squash(x):
    return F.gelu(x) * SCALE
class Base(nn.Module):
    pass
class OwnHead(Base):
    def __init__(self, width, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, WIDTH), nn.Linear(WIDTH, num_classes))
    def forward(self, x):
        return squash(self.layers(x))
"""
MODEL = """
Head = OwnHead
class OwnViT(models.LatentViT):
    def __init__(self, num_classes=7, *, width=32, sizes=(1, 2)):
        super().__init__(num_classes, embed_dim=width, depth=1, num_heads=2)
        self.head = Head(width, num_classes)
    @property
    def first(self):
        return SCALE
"""
CODES = torch.randn(2, 18, 512, generator=torch.Generator().manual_seed(0))
Cells = Callable[..., dict[str, Any]]


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    """Run cells as a notebook does; returns its variables."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    # A class of its own: the shell that other tests share keeps its variables.
    shell = type("Shell", (InteractiveShell,), {})(config=Config(HistoryManager={"enabled": False}))

    def run(*sources: str) -> dict[str, Any]:
        for source in sources:
            shell.run_cell(source, store_history=True).raise_error()
        return shell.user_ns

    return run


@pytest.fixture
def saved(cells: Cells, tmp_path: Path) -> tuple[ExpressionModel, Path]:
    # The last cell sets a variable of the notebook that has the name of an argument.
    sources = (IMPORTS, "SCALE: int = 2", HEAD, MODEL, HEAD, "num_classes = 3")
    model = cells(*sources, "m = OwnViT(3, width=48)")["m"]
    save_model(tmp_path / "best.safetensors", model, classes="abc")
    return model.eval(), tmp_path / "best.safetensors"


def test_a_class_of_cells_is_found_in_its_process(saved: tuple[ExpressionModel, Path]) -> None:
    model, path = saved
    loaded, classes = load_model(path)
    assert type(loaded) is type(model) and classes == ("a", "b", "c")
    assert torch.equal(loaded(CODES), model(CODES))


def test_elsewhere_it_needs_trust(saved: tuple[ExpressionModel, Path], cells: Cells) -> None:
    model, path = saved
    cells("del OwnViT")
    for trust in (False, "True", 1):
        with pytest.raises(ValueError, match=r"OwnViT.*model\.py.*trust_code=True"):
            load_model(path, trust)
    loaded, _ = load_model(path, trust_code=True)
    assert torch.equal(loaded(CODES), model(CODES))
    assert "num_classes = 3" not in path.with_name("model.py").read_text()
    # The text needs nothing else of the notebook, and a model that is loaded can be saved again.
    (path.parent / "again").mkdir()
    again = path.parent / "again" / "best.safetensors"
    save_model(again, loaded, classes="abc")
    assert again.with_name("model.py").read_text() == path.with_name("model.py").read_text()
    assert torch.equal(load_model(again, trust_code=True)[0](CODES), model(CODES))


def test_what_cannot_be_saved_is_refused(cells: Cells, tmp_path: Path) -> None:
    def refused(problem: str, model: nn.Module) -> None:
        with pytest.raises(ValueError, match=problem):
            save_model(tmp_path / "m.safetensors", model, classes="abc")
        assert not list(tmp_path.iterdir())

    space = cells(IMPORTS, "SCALE = 2", HEAD, MODEL)
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model = create_model("scratch", 3, **small)
    model.head = space["OwnHead"](32, 3)
    refused("OwnHead.*__init__", model)
    model = create_model("scratch", 3, **small)
    model.transformer.blocks[0].mlp.act = nn.ReLU()  # the weights would fit
    refused("ReLU.*__init__", model)
    refused("OwnViT.*sizes.*Linear", space["OwnViT"](3, sizes=nn.Linear(1, 1)))
    refused("ExpressionModel", nn.Linear(1, 1))
    space = cells("SCALE = torch.ones(1)")
    refused("SCALE.*arguments of __init__", space["OwnViT"](3))
    space = cells(
        "SCALE = 2", "squash = nn.Sigmoid()"
    )  # the text has the function of the first cell
    refused("other logits.*arguments of __init__", space["OwnViT"](3))

    class Local(LatentViT):
        pass

    refused("Local", Local(3, **small))


def test_losses_and_callbacks_are_told_apart(cells: Cells) -> None:
    define = "class Loss:\n    def __init__(self, gamma):\n        self.gamma = gamma\n"
    define += "    def value(self, x):\n        return x\n"
    space = cells(define + "gamma = 2\ndef focal(x, gamma=gamma):\n    return x")
    loss = space["Loss"]
    weighted = (
        nn.CrossEntropyLoss(weight=torch.ones(2)),
        nn.CrossEntropyLoss(weight=torch.eye(2)[0]),
    )
    different = [
        space["focal"],
        partial(space["focal"], gamma=3),
        loss(2),
        loss(3),
        *weighted,
        LossConfig(),
        LossConfig(label_smoothing=0.9),
        AugmentCodes(0.1),
        AugmentCodes(0.2),
        AugmentImages(0.5),
        AugmentImages(1.0),
        loss(2).value,
        loss(3).value,
    ]
    once = [describe_object(item) for item in different]
    assert len(set(once)) == len(once)
    assert [describe_object(item) for item in different] == once
    space = cells("gamma = 9", "def focal(x, gamma=gamma):\n    return x")
    assert describe_object(space["focal"]) != once[0]
    space = cells("def focal(x):\n    return 2 * x")
    assert describe_object(space["focal"]) != once[0]
    with pytest.raises(ValueError, match="lambda"):
        describe_object(lambda x: x)


def test_a_class_that_was_defined_again_is_not_taken_for_the_saved_one(
    saved: tuple[ExpressionModel, Path], cells: Cells, tmp_path: Path
) -> None:
    model, path = saved
    cells(MODEL.replace("return SCALE", "return SCALE + 1"))
    with pytest.raises(ValueError, match=r"OwnViT.*trust_code=True"):
        load_model(path)
    # Nor is its code saved beside the weights of the old one.
    cells(MODEL.replace("Head(width, num_classes)", "nn.Linear(width, num_classes)"))
    with pytest.raises(ValueError, match="OwnViT"):
        save_model(tmp_path / "other.safetensors", model, classes="abc")


def test_no_code_of_an_earlier_model_stays(saved: tuple[ExpressionModel, Path]) -> None:
    _, path = saved
    model = create_model("scratch", 3, embed_dim=32, depth=1, num_heads=2)
    save_model(path, model, classes="abc")
    assert not path.with_name("model.py").exists()


def test_a_replaced_method_is_refused(tmp_path: Path) -> None:
    model = create_model("scratch", 3, embed_dim=32, depth=1, num_heads=2)
    model.forward_head = lambda tokens: model.head(tokens.mean(1))
    with pytest.raises(ValueError, match="other logits"):
        save_model(tmp_path / "m.safetensors", model, classes="abc")


HOSTILE = {
    "text": ("__main__", "OwnViT"),
    "function": ("os", "system"),
    "module beside": ("hostile", "OwnViT"),
    "path": ("hostile.deep", "OwnViT"),
    "class of the library": ("torch.nn.modules.linear", "Linear"),
    "dotted name": ("os", "path.join"),
    "no text": (["os"], {"a": 1}),
}


@pytest.mark.parametrize(("module", "name"), HOSTILE.values(), ids=HOSTILE)
def test_nothing_of_a_hostile_run_is_executed(
    module: Any, name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: Callable
) -> None:
    store = make_store(tmp_path / "store")
    run = start_run(
        tmp_path, "e", "train", "hostile", parameters={"latents": str(store)}, seed=0, device="cpu"
    )
    write = f"open({str(tmp_path / 'ran')!r}, 'w').write('x')"
    text = f"{write}\nfrom fervit_lib.models import LatentViT\nclass OwnViT(LatentViT): pass\n"
    metadata = {
        "approach": name,
        "module": module,
        "positional": [f"touch {tmp_path / 'ran'}"],
        "options": {},
        "classes": ["a"],
    }
    save_checkpoint(run.best_checkpoint, {"w": torch.zeros(1)}, metadata)
    run.best_checkpoint.with_name("model.py").write_text(text)
    run.write_result(approach="scratch")
    (tmp_path / "hostile.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"best\.safetensors"):
        load_model(run.best_checkpoint)
    with pytest.raises(FileNotFoundError, match=r"hostile: .*best\.safetensors"):
        runs_to_compare(tmp_path, "e")
    assert not (tmp_path / "ran").exists()


def test_the_header_holds_arguments_not_code(saved: tuple[ExpressionModel, Path]) -> None:
    _, path = saved
    _, metadata = load_checkpoint(path)
    del metadata["code"], metadata["codes"]  # a hash of model.py, and of what it was trained on
    assert metadata == {
        "approach": "OwnViT",
        "module": "__main__",
        "positional": [3],
        "options": {"width": 48},
        "classes": ["a", "b", "c"],
    }
