"""Pretrain a ViT on unlabelled inputs by masked-token modelling."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from fervit_lib.models import MaskedAutoencoder
from fervit_lib.system.checkpoints import save_checkpoint
from fervit_lib.training.callbacks import FitBar
from fervit_lib.training.learner import OptimConfig, build_learner, fit
from fervit_lib.training.resume import preserve_random_state, read_state
from fervit_lib.training.strategies import STRATEGIES, single_group


class _InputsAsTargets(Callback):
    order = -6  # before augmentation (-5): the targets are the unchanged inputs

    def before_batch(self) -> None:
        self.learn.yb = self.learn.xb


# The training that follows draws the same numbers, whether the pretraining has run or was loaded.
@preserve_random_state()
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
    """Pretrain `model` in place on the inputs of `dls`, and save it as `folder/masked.safetensors`.

    If that file is the result of the same pretraining, it is loaded. An interrupted one resumes.

    Args:
        model: a ViT of this project, see `MaskedAutoencoder`.
        precision: see `OptimConfig`.
        settings: everything else that determines the result, as JSON values.

    Returns:
        The masked autoencoder around `model`, and the curves (epoch, train_loss, valid_loss).
    """
    if not hasattr(model, "embed"):
        raise ValueError(f"pretrained: mae needs a ViT, got a {type(model).__name__}; use none")
    # The decoder is trained with the model, and dropped afterwards.
    masked = MaskedAutoencoder(model, mask_ratio=mask_ratio).to(dls.device)
    checkpoint = folder / "masked.safetensors"
    state = folder / "masked_last.safetensors"
    made_by = {
        "epochs": epochs,
        "lr": lr,
        "mask_ratio": mask_ratio,
        "precision": precision,
        "settings": settings or {},
    }
    if complete := read_state(checkpoint, made_by):
        tensors, metadata = complete
        masked.load_state_dict(tensors)
        state.unlink(missing_ok=True)
        return masked, pd.DataFrame(metadata["curves"])
    learn = build_learner(
        masked,
        dls,
        single_group(masked),
        lambda outputs, inputs: masked.loss(*outputs, inputs),
        OptimConfig(precision=precision),
        folder=folder / "masked",
        metrics=[],
        cbs=[_InputsAsTargets(), FitBar("pretrain")],
    )
    fit(learn, STRATEGIES["full"], epochs=epochs, lr=lr, state=state, settings=made_by)
    curves = learn.curves.rows
    save_checkpoint(
        checkpoint, masked.state_dict(), {"kind": "masked", "fit": made_by, "curves": curves}
    )
    state.unlink(missing_ok=True)
    return masked, pd.DataFrame(curves)


@torch.inference_mode()
def reconstruct(masked: MaskedAutoencoder, dls: DataLoaders) -> tuple[Tensor, Tensor, Tensor]:
    """Mask and reconstruct the first eight validation inputs.

    Returns:
        Targets and predictions (8, N, T), and the mask (8, N), True where hidden.
    """
    inputs = next(iter(dls.valid))[0][:8]
    predictions, mask = masked.eval()(inputs)
    return masked.targets(inputs).cpu(), predictions.float().cpu(), mask.cpu()
