"""Pretrain a model on the inputs alone, by masked-token modelling."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from fervit_lib.models import MaskedAutoencoder, set_fused_attention
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.runtime import use_bf16
from fervit_lib.training.callbacks import Bf16, Curves, StopOnNan
from fervit_lib.training.resume import KeepLast, ResumableLearner, randomness_kept
from fervit_lib.training.schedule import Phase, Schedule
from fervit_lib.training.share import Share


class _Unlabelled(Callback):
    """The inputs are the targets; labels are not looked at."""

    order = -6

    def before_batch(self) -> None:
        self.learn.yb = self.learn.xb


class _HiddenError(nn.Module):
    def __init__(self, masked: MaskedAutoencoder) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, painted: tuple[Tensor, Tensor], inputs: Tensor) -> Tensor:
        return self.masked.loss(*painted, inputs)


@randomness_kept()  # or a model that is loaded would go another way than one that has just been pretrained
def fit_masked(
    model: nn.Module,
    dls: DataLoaders,
    folder: Path,
    *,
    epochs: int,
    lr: float = 1e-3,
    mask_ratio: float = 0.5,
    precision: str = "auto",
    settings: dict[str, Any] | None = None,
) -> tuple[MaskedAutoencoder, pd.DataFrame]:
    """Pretrain `model` in place on the inputs of `dls`, and keep the result in `folder/masked.safetensors`.

    Where that file holds just this pretraining, it is loaded instead; one that was interrupted goes on.

    Args:
        model: a ViT of this project, see `MaskedAutoencoder`.
        precision: see `runtime.use_bf16`.
        settings: everything else that decides the outcome, JSON: where it differs, the model is pretrained anew.

    Returns:
        The masked autoencoder around `model`, and the curves (epoch, train_loss, valid_loss).
    """
    if not hasattr(model, "embed"):
        raise ValueError(f"pretrained: mae needs a ViT, got a {type(model).__name__}; use none")
    masked = MaskedAutoencoder(model, mask_ratio=mask_ratio).to(dls.device)
    set_fused_attention(masked, dls.device.type != "cpu")
    checkpoint = folder / "masked.safetensors"
    state = folder / "masked_last.safetensors"
    made_by = {
        "epochs": epochs,
        "lr": lr,
        "mask_ratio": mask_ratio,
        "precision": precision,
        "settings": settings or {},
    }
    if checkpoint.is_file():
        tensors, metadata = load_checkpoint(checkpoint)
        if metadata.get("made_by") == made_by:
            masked.load_state_dict(tensors)
            state.unlink(missing_ok=True)
            return masked, pd.DataFrame(metadata["curves"])
    curves = Curves(folder / "masked")
    schedule = Schedule([Phase(1.0, np.array([lr]), 0)], "one_cycle")
    bf16 = [Bf16()] if use_bf16(precision, dls.device) else []
    learn = ResumableLearner(
        dls,
        masked,
        loss_func=_HiddenError(masked),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        path=folder,
        cbs=[_Unlabelled(), Share(), StopOnNan(), curves, schedule, *bf16],
        what="pretrain",
    )
    learn.fit(epochs, cbs=[KeepLast(state, made_by, lr)])
    save_checkpoint(
        checkpoint,
        masked.state_dict(),
        {"kind": "masked", "made_by": made_by, "curves": curves.rows},
    )
    state.unlink(missing_ok=True)
    return masked, pd.DataFrame(curves.rows)


@torch.inference_mode()
def reconstruct(
    masked: MaskedAutoencoder, dls: DataLoaders, number: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """`number` validation inputs, half hidden and painted.

    Returns:
        What was to be painted and what was painted (number, N, T), and the mask (number, N), True where hidden.
    """
    masked = masked.eval()
    inputs = dls.valid.views[0][:number]
    inputs = inputs.float() if inputs.dtype == torch.float16 else inputs
    painted, mask = masked(inputs)
    return masked.targets(inputs).cpu(), painted.float().cpu(), mask.cpu()
