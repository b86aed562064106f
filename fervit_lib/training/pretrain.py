"""Pretrain a ViT on unlabelled inputs by masked-token modelling."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from fervit_lib.models import MaskedAutoencoder
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.training.callbacks import FitBar
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.learner import OptimConfig, build_learner, fit
from fervit_lib.training.resume import preserve_random_state, read_state
from fervit_lib.training.strategies import STRATEGIES, single_group

SAMPLE = 1024  # inputs that give the scale of the targets, and that ridge regression is fitted on
PENALTIES = (100, 1000, 10_000)  # of ridge regression


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
    lr: float = 3e-3,
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
    masked.fit_scale(_sample(dls.train))
    checkpoint = folder / "masked.safetensors"
    state = folder / "masked_last.safetensors"
    made_by = {
        "epochs": epochs,
        "lr": lr,
        "mask_ratio": mask_ratio,
        "precision": precision,
        "settings": settings or {},
    }
    if not read_state(checkpoint, made_by):
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
        metadata = {"kind": "masked", "fit": made_by, "curves": learn.curves.rows}
        save_checkpoint(checkpoint, masked.state_dict(), metadata)
    tensors, metadata = load_checkpoint(checkpoint)
    masked.load_state_dict(tensors)
    state.unlink(missing_ok=True)
    return masked, pd.DataFrame(metadata["curves"])


def _sample(batches: TensorBatches) -> Tensor:
    """Up to `SAMPLE` inputs, evenly spaced."""
    inputs = batches.views[0]
    chosen = torch.linspace(0, len(inputs) - 1, min(SAMPLE, len(inputs))).long()
    return inputs[chosen.to(inputs.device)].to(batches.device)


@torch.inference_mode()
def compare_reconstructions(masked: MaskedAutoencoder, dls: DataLoaders) -> pd.DataFrame:
    """How well hidden tokens of validation inputs are predicted from the visible ones.

    The tokens are split at random into groups that are hidden in turn, alike for all inputs, so
    that ridge regression (fitted on a sample of the training inputs) can predict them, too. Its
    penalty is the best of three on the same validation inputs, in its favour.

    Returns:
        One row per token: `model` and `ridge`, R² = 1 - error / error of the training mean, with
        squared errors summed over a token's dimensions; and `faces`, their number.
    """
    train = masked.targets(_sample(dls.train)).cpu()
    inputs = _sample(dls.valid)
    targets = masked.eval().targets(inputs).cpu()  # (B, N, T)
    num_tokens, token_dim = targets.shape[1:]
    predicted = {name: torch.empty_like(targets) for name in ("model", *PENALTIES)}
    order = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(0))
    for hidden in order.split(max(1, round(masked.mask_ratio * num_tokens))):
        mask = torch.zeros(num_tokens, dtype=torch.bool).index_fill(0, hidden, True)
        by_model, _ = masked(inputs, mask.expand(len(inputs), -1).to(inputs.device))
        predicted["model"][:, mask] = by_model.float().cpu()[:, mask]
        # Few faces and many dimensions: in float32, equal runs would differ in visible digits.
        visible, seen = (t[:, ~mask].flatten(1).double().numpy() for t in (train, targets))
        for penalty in PENALTIES:
            ridge = Ridge(penalty, fit_intercept=False)
            by_ridge = ridge.fit(visible, train[:, mask].flatten(1).numpy()).predict(seen)
            by_ridge = torch.from_numpy(by_ridge).float()
            predicted[penalty][:, mask] = by_ridge.unflatten(1, (-1, token_dim))
    total = targets.square().sum((0, 2))
    r2 = {name: 1 - (p - targets).square().sum((0, 2)) / total for name, p in predicted.items()}
    ridge_r2 = max((r2[penalty] for penalty in PENALTIES), key=torch.mean)
    table = pd.DataFrame({"model": r2["model"].numpy(), "ridge": ridge_r2.numpy()})
    return table.assign(faces=len(inputs)).rename_axis("token")
