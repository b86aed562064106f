"""Nothing per batch reads a tensor's value on the host, for which a GPU would have to finish."""

import warnings
from collections import Counter
from collections.abc import Callable as Function
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fervit_lib import distillation, models, training
from fervit_lib.datasets import draw_toy_people
from fervit_lib.models import ExpressionModel
from fervit_lib.models.segmentation import build_segmenter
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training.data import TensorBatches

CODES = {"embed_dim": 16, "depth": 1, "num_heads": 2}
CNN = {"model_name": "resnet10t", "pretrained": "none", "image_size": 32}
# Python's ways to a value. `.cpu()` and `.tolist()` of a CPU tensor call no operator.
READS = {
    "__array__",
    "__bool__",
    "__float__",
    "__index__",
    "__int__",
    "cpu",
    "item",
    "numpy",
    "tolist",
}
# Operators that read a value, or whose result has a size that depends on values.
VALUE_OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}
# On a GPU, these copy Python's numbers to it and wait.
UPLOADS = {"tensor", "as_tensor", "new_tensor"}


class _Operators(TorchDispatchMode):
    def __init__(self, reads: Counter[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        name = function.overloadpacket.__name__
        if name in ("index", "index_put", "index_put_"):
            if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
                self.reads["index by mask"] += 1
        elif name in VALUE_OPERATORS:
            self.reads[name] += 1
        return function(*args, **(kwargs or {}))


class HostReads(TorchFunctionMode):
    """Count by name what reads the values of tensors in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.operators = _Operators(self.reads)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        # `.to(device)` with the device of the training moves nothing if it is there.
        to_host = name == "to" and "cpu" in args
        upload = name in UPLOADS and (name == "new_tensor" or "device" in kwargs)
        if name in READS or to_host or upload:
            self.reads[name] += 1
        return function(*args, **kwargs)

    def __enter__(self) -> Self:
        self.operators.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.operators.__exit__(*error)


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        int,
        lambda value: [0, 1][value],
        lambda value: value.item(),
        lambda value: value.tolist(),
        lambda value: value.cpu(),
        lambda value: value.to("cpu"),
        lambda value: value.numpy(),
        lambda value: np.asarray(value),
        lambda value: 1 if value > 0 else 0,
        lambda value: torch.ones(1)[value.view(1) > 0],
        lambda value: value.nonzero(),
        lambda value: value.view(1).masked_select(torch.ones(1) > 0),
        lambda value: torch.tensor([0.5], device=value.device),
        lambda value: value.new_tensor([0.5]),
    ],
)
def test_each_way_to_read_a_value_is_counted(read: Function[[Tensor], Any]) -> None:
    value = torch.tensor(1)
    with HostReads() as counter:
        value + 1
    assert not counter.reads
    with HostReads() as counter:
        read(value)
    assert sum(counter.reads.values()) >= 1


# Prepares a fit of that many training batches, and of more batches for validation, too.
Prepare = Function[[int, torch.device, Path], Function[[], object]]


def make_dls(
    views: list[Tensor], targets: Tensor, batches: int, device: torch.device
) -> DataLoaders:
    """Batches of four: as many of training as of validation."""
    views = [view[: 4 * batches].to(device) for view in views]
    targets = targets[: 4 * batches].to(device)
    dls = DataLoaders(
        TensorBatches(views, targets, bs=4, shuffle=True),
        TensorBatches(views[:1], targets, bs=4),
        device=device,
    )
    dls.classes = ("a", "b", "c")
    return dls


def codes_dls(batches: int, device: torch.device) -> DataLoaders:
    codes = torch.randn(32, 18, 512)
    return make_dls([codes.half(), 2 * codes.half()], torch.arange(32) % 3, batches, device)


def prepare_fit(
    model: ExpressionModel, dls: DataLoaders, folder: Path, *cbs: Callback
) -> Function[[], object]:
    plan = training.get_strategy("full")
    best = training.SaveBest(
        lambda: models.save_model(folder / "best.safetensors", model, classes=dls.classes)
    )
    loss = training.LossConfig(mixup=0.4, weighted=True, label_smoothing=0.1)
    optim = training.OptimConfig(ema=0.9, grad_clip=1.0)
    cbs = (best, training.Steps(), *cbs)
    learn = training.build_learner(
        model.to(dls.device), dls, plan, loss, optim, folder=folder, cbs=cbs
    )
    state = folder / "last.safetensors"
    return partial(training.fit, learn, plan, epochs=1, lr=1e-3, patience=3, state=state)


def latent_vit(batches: int, device: torch.device, folder: Path) -> Function[[], object]:
    model = models.create_model("scratch", 3, **CODES)
    heads = training.head_penalties(disagreement="output", head_margin=0.5)
    return prepare_fit(
        model, codes_dls(batches, device), folder, training.AugmentCodes(0.1, 0.1, 0.1), *heads
    )


def taught_cnn(batches: int, device: torch.device, folder: Path) -> Function[[], object]:
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    teacher = models.create_model("image", 3, **CNN).eval().requires_grad_(False)
    teach = training.TeacherLoss(teacher, training.TeacherConfig())
    dls = make_dls([images], torch.arange(32) % 3, batches, device)
    model = models.create_model("image", 3, **CNN)
    return prepare_fit(model, dls, folder, training.AugmentImages(noise=0.1), teach)


def masked(batches: int, device: torch.device, folder: Path) -> Function[[], object]:
    model = models.create_model("scratch", 3, **CODES)
    return partial(training.fit_masked, model, codes_dls(batches, device), folder, folder, epochs=1)


def distiller(batches: int, device: torch.device, folder: Path) -> Function[[], object]:
    people = draw_toy_people(folder / "people", num_scenes=32, size=32)
    dls = distillation.people_dls(people, size=32, batch_size=3, device=device)
    detector = distillation.train_toy_detector(dls, folder, epochs=1, seed=0, settings={})
    dls.train.bs = 2 * (8 // batches)
    dls.valid.bs = 8 // batches
    source = distillation.OnnxFeatures(detector, distillation.TOY_TENSOR, device)
    targets = distillation.Targets(build_segmenter("resnet18", "slim").to(device), source)
    student = build_segmenter("mobilenet_v2", "slim")
    term = distillation.FeatureTerm()
    model = distillation.build_tapped_student(student, source, term, 32)
    learn = distillation.build_distiller(
        model, dls, targets, distillation.LossWeights(), folder=folder
    )
    return partial(training.fit, learn, training.get_strategy("full"), epochs=1, lr=1e-3)


FITS = [latent_vit, taught_cnn, masked, distiller]


@pytest.mark.parametrize("prepare", FITS)
def test_an_epoch_of_more_batches_reads_no_more_values(prepare: Prepare, tmp_path: Path) -> None:
    def reads_of(batches: int) -> Counter[str]:
        seed_everything(0)
        fit = prepare(batches, torch.device("cpu"), tmp_path / str(batches))
        with HostReads() as counter:
            fit()
        return counter.reads

    assert reads_of(8) == reads_of(4)


@pytest.mark.gpu
@pytest.mark.parametrize("prepare", FITS)
def test_an_epoch_of_more_batches_makes_the_host_wait_no_more_often(
    prepare: Prepare, tmp_path: Path
) -> None:
    def waits_of(batches: int) -> int:
        seed_everything(0)
        fit = prepare(batches, torch.device("cuda"), tmp_path / str(batches))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                fit()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA" in str(warning.message) for warning in caught)

    assert waits_of(8) == waits_of(4)
