"""Mixed precision: the forward pass in bf16 or fp16, losses and metrics in float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from fastai.callback.core import Callback, CancelStepException
from fastai.callback.fp16 import MixedPrecision
from torch import Tensor, nn

PRECISIONS = ("auto", "float32", "bf16", "fp16")


@contextmanager
def bf16_autocast(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run calls of `model` under bf16 autocast.

    On a CPU depthwise convolutions stay in float32: with a stride, their gradient has no fast bf16
    kernel and takes eight times as long.
    """
    with ExitStack() as stack:
        for module in model.modules() if device.type == "cpu" else ():
            if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
                stack.enter_context(module.register_forward_pre_hook(_leave_autocast))
                stack.enter_context(module.register_forward_hook(_enter_autocast, always_call=True))
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


def _leave_autocast(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    torch.set_autocast_enabled("cpu", False)
    return (inputs[0].float(),)


def _enter_autocast(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    torch.set_autocast_enabled("cpu", True)


class Bf16(Callback):
    """The forward pass under bf16 autocast.

    fastai's MixedPrecision supports only CUDA, and leaves autocast on if a batch is interrupted.
    """

    order = 10  # as MixedPrecision

    def around_forward(self) -> AbstractContextManager:
        return bf16_autocast(self.model, self.dls.device)

    def after_pred(self) -> None:
        if isinstance(self.pred, Tensor):
            self.learn.pred = self.pred.float()


class Fp16(MixedPrecision):
    """fastai's fp16 with a scaled loss, with autocast around the forward pass only.

    The scale of the loss is part of the training state.
    """

    resumed = ("scaler_state",)

    def before_batch(self) -> None:
        pass  # `around_forward` enters autocast

    def before_step(self) -> None:
        # As in fastai, without its list of scales: a second value read per batch. The first is
        # GradScaler's own, whether the gradients have overflowed.
        self.skipped = True
        self.scaler.step(self)
        if self.skipped:
            raise CancelStepException

    def after_loss(self) -> None:
        pass  # and leaves it, even if the batch is interrupted

    def around_forward(self) -> AbstractContextManager:
        return self.autocast

    @property
    def scaler_state(self) -> dict:
        return self.learn.scaler.state_dict()

    @scaler_state.setter
    def scaler_state(self, state: dict) -> None:
        self.learn.scaler.load_state_dict(state)
