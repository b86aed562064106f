"""Exact resume: everything that decides how a fit goes on, kept after every epoch in one file.

`last.safetensors` holds as tensors the weights, the optimiser's moments, averaged weights and the random states, and in
its header, as JSON, what the callbacks count. It is written whole: a fit killed at any moment goes on from the last
epoch that was over, and ends with the weights of one that was never killed, on a CPU bit for bit.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastcore.basics import noop
from torch import Tensor

from fervit_lib.system import distributed
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.training.callbacks import FitBar


class ResumableLearner(Learner):
    """A Learner that can begin a fit at a later epoch, and that can be used again after a fit that was interrupted.

    (fastai's `start_epoch` walks through the skipped epochs and calls every callback at their ends; and what its
    callbacks changed for a fit stays changed where that ends by an interrupt or an error.)

    Args:
        what, unit: of the bar, see `progress`.
    """

    first_epoch = 0

    def __init__(
        self, *arguments: Any, what: str = "train", unit: str = " faces", **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.remove_cb(ProgressCallback)
        self.add_cb(FitBar(what, unit))
        self.logger = noop  # the bar shows what would be printed

    def _do_fit(self) -> None:
        try:
            for epoch in range(self.first_epoch, self.n_epoch):
                self.epoch = epoch
                self._with_events(self._do_epoch, "epoch", CancelEpochException)
        except CancelFitException:
            raise  # an end like any other
        except BaseException:
            if (
                distributed.world_size() == 1
            ):  # else the others may be elsewhere, and nobody uses it again
                self("after_cancel_fit")
                self("after_fit")
                self._end_cleanup()
                self.model.zero_grad()  # the next fit would add to what this one left
            raise


class KeepLast(Callback):
    """Write the state of the fit before the first epoch and after every one, and take it up again at the beginning.

    Args:
        path: of `last.safetensors`.
        fit: what has to be the same for a fit to go on: JSON.
        peak: the fit's peak rate, which a search may have found.
    """

    order = 90  # after every other callback has counted this epoch, and reset itself before the fit

    def __init__(self, path: Path, fit: Mapping[str, Any], peak: float) -> None:
        self.path, self.fit, self.peak = path, dict(fit), peak

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder")
        self.learn.first_epoch = 0
        if not self.run:
            return
        if state := read_state(self.path, self.fit):
            self._restore(*state)
        else:
            self._keep(
                epoch=-1
            )  # else what an interrupt within the first epoch left would be trained on

    def after_fit(self) -> None:
        self.run = True
        self.learn.first_epoch = 0

    def after_epoch(self) -> None:
        self._keep(self.epoch)

    def _keep(self, epoch: int) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        index = {id(p): i for i, p in enumerate(self.model.parameters())}
        for parameter, moments in self.opt.opt.state.items():
            tensors |= {
                f"optimiser.{index[id(parameter)]}.{name}": value for name, value in moments.items()
            }
        counts = {}
        for callback in self.learn.cbs:
            if hasattr(type(callback), "state_dict"):
                counts[callback.name] = callback.state_dict()
            if hasattr(type(callback), "tensors"):
                tensors |= {
                    f"{callback.name}.{name}": tensor for name, tensor in callback.tensors().items()
                }
        tensors |= {f"random.{name}": state for name, state in _random_state().items()}
        smooth = self.recorder.smooth_loss
        metadata = {
            "kind": "training state",
            "fit": self.fit,
            "peak": self.peak,
            "epoch": epoch,
            "callbacks": counts,
            "smooth_loss": [float(smooth.val), smooth.count],
        }
        save_checkpoint(self.path, tensors, metadata)

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): t
                for name, t in tensors.items()
                if name.startswith(prefix)
            }

        self.model.load_state_dict(part("model."))
        for i, parameter in enumerate(self.model.parameters()):
            if moments := part(f"optimiser.{i}."):
                # A fused optimiser keeps even its count of steps beside the weights, and walks through moments and
                # weights in memory order, which a file does not keep.
                self.opt.opt.state[parameter] = {
                    name: torch.empty_like(parameter).copy_(t)
                    if t.shape == parameter.shape
                    else t.to(parameter.device)
                    for name, t in moments.items()
                }
        for callback in self.learn.cbs:
            if hasattr(type(callback), "load_state_dict"):
                callback.load_state_dict(metadata["callbacks"][callback.name])
            if hasattr(type(callback), "load_tensors"):
                callback.load_tensors(part(f"{callback.name}."))
        smooth = self.recorder.smooth_loss
        smooth.val, smooth.count = (
            torch.tensor(metadata["smooth_loss"][0]),
            metadata["smooth_loss"][1],
        )
        self.learn.first_epoch = metadata["epoch"] + 1
        _set_random_state(part("random."))


@distributed.rank_zero_only  # whether there is one: all processes go the same way
def read_state(
    path: Path, fit: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The state at `path` if it is of the same `fit`; None if there is none, or what was fitted has changed since.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return None
    tensors, metadata = load_checkpoint(path)
    return (tensors, metadata) if metadata.get("fit") == dict(fit) else None


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Leave the random states as they were: what comes after draws the same, however much was drawn within."""
    state = _random_state()
    try:
        yield
    finally:
        _set_random_state(state)


def _random_state() -> dict[str, Tensor]:
    """Python's, numpy's and torch's generators as tensors."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    keys, position = numpy["state"]["key"], numpy["state"]["pos"]
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, numpy["has_gauss"]], dtype=torch.int64),
        "numpy_gauss": torch.tensor([numpy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor]) -> None:
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, np.uint32), position, has_gauss, state["numpy_gauss"].item())
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
