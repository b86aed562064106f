"""Exact resume: the whole state of a fit in one file, written after every epoch.

`last.safetensors` holds tensors (weights, optimiser moments, averaged weights, random states), and
the counters of the callbacks as JSON in its header. It is written atomically: a fit killed at any
moment resumes from the last whole epoch, and on a CPU ends with bit-identical weights.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import CancelEpochException, CancelFitException
from fastai.learner import Learner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fervit_lib.system import distributed
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.training.callbacks import FitCallback


class ResumableLearner(Learner):
    """A Learner that can start at a later epoch, and is usable after an interrupted fit.

    fastai's `start_epoch` calls all callbacks for the skipped epochs, too, and after an interrupt
    or error the changes that callbacks made for the fit stay.

    Whatever changes the forward pass does so around the one call of the model: a callback's method
    `around_forward` returns a context manager. They are entered in the callbacks' order, and left
    even after an error. Other callbacks see the plain model.
    """

    first_epoch = 0
    ddp: DistributedDataParallel | None = None  # set by `DataParallel`: the model in training

    def _do_one_batch(self) -> None:
        # As in fastai, except for the call of the model.
        self.pred = self.forward(*self.xb)
        self("after_pred")
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        self.loss = self.loss_grad.clone()
        self("after_loss")
        if self.training:
            self._do_grad_opt()

    def forward(self, *inputs: Tensor) -> Any:
        """The predictions of the model, within every callback's `around_forward`."""
        with ExitStack() as stack:
            for callback in self.cbs.sorted("order"):
                # Ask the type: fastai looks up missing attributes of a callback in the model.
                if hasattr(type(callback), "around_forward"):
                    stack.enter_context(callback.around_forward())
            network = self.ddp if self.training and self.ddp is not None else self.model
            return network(*inputs)

    def _do_fit(self) -> None:
        try:
            for epoch in range(self.first_epoch, self.n_epoch):
                self.epoch = epoch
                self._with_events(self._do_epoch, "epoch", CancelEpochException)
        except CancelFitException:
            raise  # a regular end
        except BaseException:
            # Not with several ranks: callbacks may wait for the other ranks, which may not come.
            if distributed.world_size() == 1:
                self("after_cancel_fit")
                self("after_fit")
                self._end_cleanup()
                self.model.zero_grad()  # else the next fit adds to these gradients
            raise


class KeepLast(FitCallback):
    """Write the state of the fit before the first and after every epoch, and resume from it.

    A callback's class attribute `resumed` names the attributes to save, which are JSON values. Its
    `resumed_tensors`, if it has some at the start of a fit, are saved as well, and restored in
    place.

    Args:
        path: `last.safetensors`.
        settings: JSON values that determine the fit; a state with other ones is not resumed.
        peak: the peak learning rate, which `lr_find` may have found.
    """

    order = 90  # after all other callbacks have updated their counters, or reset them before a fit

    def __init__(self, path: Path, settings: Mapping, peak: float) -> None:
        self.path = path
        self.settings = dict(settings)
        self.peak = peak

    def before_fit(self) -> None:
        self.learn.first_epoch = 0
        if state := read_state(self.path, self.settings):
            self._restore(*state)
            if state[1]["epoch"] >= 0 and distributed.rank() == 0:
                print(f"An interrupted fit continues after epoch {state[1]['epoch'] + 1}.")
        else:
            self._save(epoch=-1)  # an interrupt within the first epoch resumes from here

    def after_fit(self) -> None:
        self.learn.first_epoch = 0

    def after_epoch(self) -> None:
        self._save(self.epoch)

    def _save(self, epoch: int) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        # torch identifies parameters by object; their order is the same in the next process.
        index = {id(p): i for i, p in enumerate(self.model.parameters())}
        for parameter, moments in self.opt.opt.state.items():
            for name, value in moments.items():
                tensors[f"optimiser.{index[id(parameter)]}.{name}"] = value
        counters = {}
        for callback in self.learn.cbs:
            # Ask the type: fastai looks up missing attributes of a callback in the model.
            names = getattr(type(callback), "resumed", ())
            counters[callback.name] = {name: getattr(callback, name) for name in names}
            for i, tensor in enumerate(vars(callback).get("resumed_tensors", ())):
                tensors[f"{callback.name}.{i}"] = tensor
        random_tensors, random_values = get_random_state()
        tensors |= {f"random.{name}": tensor for name, tensor in random_tensors.items()}
        metadata = {
            "kind": "training state",
            "fit": self.settings,
            "peak": self.peak,
            "epoch": epoch,
            "callbacks": counters,
            "random": random_values,
        }
        save_checkpoint(self.path, tensors, metadata)

    def _restore(self, tensors: dict[str, Tensor], metadata: dict) -> None:
        def select(prefix: str) -> dict[str, Tensor]:
            names = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): tensors[name] for name in names}

        self.model.load_state_dict(select("model."))
        for i, parameter in enumerate(self.model.parameters()):
            # The fused optimiser keeps its step beside the weights, and needs its moments in their
            # memory format, which a file does not keep.
            if moments := select(f"optimiser.{i}."):
                self.opt.opt.state[parameter] = {
                    name: torch.empty_like(parameter).copy_(value)
                    if value.shape == parameter.shape
                    else value.to(parameter.device)
                    for name, value in moments.items()
                }
        for callback in self.learn.cbs:
            for name, value in metadata["callbacks"].get(callback.name, {}).items():
                setattr(callback, name, value)
            for i, tensor in enumerate(vars(callback).get("resumed_tensors", ())):
                tensor.copy_(tensors[f"{callback.name}.{i}"])
        self.learn.first_epoch = metadata["epoch"] + 1
        # Last, because nothing may draw random numbers between here and the first batch.
        set_random_state(select("random."), metadata["random"])


@distributed.rank_zero_only  # all ranks must agree on whether there is a state
def read_state(path: Path, settings: Mapping) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and metadata of the state at `path`; None if there is none, or of other `settings`.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return None
    tensors, metadata = load_checkpoint(path)
    return (tensors, metadata) if metadata.get("fit") == dict(settings) else None


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the random states at the end: what follows does not depend on the draws within."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(*state)


def get_random_state() -> tuple[dict[str, Tensor], dict]:
    """The generators of torch as tensors, and those of Python and NumPy for `save_checkpoint`."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}


def set_random_state(tensors: dict[str, Tensor], values: dict) -> None:
    """Restore what `get_random_state` returned."""
    version, words, gauss = values["python"]  # JSON has turned the tuples into lists
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(values["numpy"])
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
