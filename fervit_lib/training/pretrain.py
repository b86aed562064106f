"""Pretrain a ViT on unlabelled inputs by masked-token modelling."""

import json
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor, nn

from fervit_lib.models import MaskedAutoencoder
from fervit_lib.models.layers import without_adapters
from fervit_lib.system import distributed
from fervit_lib.system.checkpoints import content_key, load_checkpoint, save_checkpoint
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training.callbacks import FitBar
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.learner import OptimConfig, build_learner, fit
from fervit_lib.training.resume import preserve_random_state
from fervit_lib.training.strategies import STRATEGIES, single_group

LR = 4e-3
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
    shared: Path,
    *,
    epochs: int,
    mask_ratio: float = 0.5,
    precision: str = "auto",
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pretrain `model` in place on the inputs of `dls`, and save it as `folder/masked.safetensors`.

    Adapters take no part: they start as identities behind the pretrained blocks. So runs of several
    strategies share one pretraining: the first one fits it, the others load it. An interrupted one
    resumes.

    Args:
        model: a ViT of this project, see `MaskedAutoencoder`.
        shared: folder of pretrainings. A file's name has a hash of inputs, weights and settings.
        precision: see `OptimConfig`.
        seed: of the decoder and the masks.

    Returns:
        The curves (epoch, train_loss, valid_loss), and the result of `compare_reconstructions`.
    """
    if not hasattr(model, "embed"):
        raise ValueError(f"pretrained: mae needs a ViT, got a {type(model).__name__}; use none")
    seed_everything(seed)
    with without_adapters(model):
        # The decoder is trained with the model, and dropped afterwards.
        masked = MaskedAutoencoder(model, mask_ratio=mask_ratio).to(dls.device)
        masked.fit_scale(_sample(dls.train))
        made_by = {"epochs": epochs, "lr": LR, "precision": precision, "seed": seed}
        made_by |= {"batch_size": dls.train.bs, "mask_ratio": mask_ratio}
        # What no tensor shows: heads, dropout, the kind of attention.
        arguments, options = model.built_with
        made_by["model"] = [type(model).__name__, arguments, {**options, "adapter_dim": 0}]
        checkpoint = shared / f"masked-{_digest(masked, dls, made_by)[:16]}.safetensors"
        # Another run of the same pretraining may be fitting it now. One lock per launch.
        lock_file = checkpoint.with_name(f".{checkpoint.name}.lock")
        with hold_lock(lock_file) if distributed.rank() == 0 else nullcontext():
            if not distributed.rank_zero_only(checkpoint.is_file)():
                _fit(masked, dls, checkpoint, epochs, precision)
        tensors, metadata = load_checkpoint(checkpoint)
        masked.load_state_dict(tensors)
        save_checkpoint(folder / "masked.safetensors", tensors, metadata)
    return pd.DataFrame(metadata["curves"]), pd.DataFrame(metadata["r2"]).rename_axis("token")


def _fit(
    masked: MaskedAutoencoder,
    dls: DataLoaders,
    checkpoint: Path,
    epochs: int,
    precision: str,
) -> None:
    state = checkpoint.with_suffix(".last")
    learn = build_learner(
        masked,
        dls,
        single_group(masked),
        lambda outputs, inputs: masked.loss(outputs[0], outputs[1], inputs),
        OptimConfig(precision=precision),
        folder=checkpoint.with_suffix(""),
        metrics=[],
        cbs=[_InputsAsTargets(), FitBar("pretrain")],
    )
    fit(learn, STRATEGIES["full"], epochs=epochs, lr=LR, state=state)
    r2 = compare_reconstructions(masked, dls).to_dict("list")
    metadata = {"kind": "masked", "curves": learn.curves.rows, "r2": r2}
    save_checkpoint(checkpoint, masked.state_dict(), metadata)
    distributed.rank_zero_only(state.unlink)()


@distributed.rank_zero_only  # all ranks must agree on it
def _digest(masked: MaskedAutoencoder, dls: DataLoaders, made_by: dict) -> str:
    settings = json.dumps(made_by, sort_keys=True).encode()
    views = (*dls.train.views, *dls.valid.views)
    inputs = (content_key(part).encode() for view in views for part in view.split(SAMPLE))
    return content_key(settings, *masked.state_dict().values(), *inputs)


def _sample(batches: TensorBatches) -> Tensor:
    """Up to `SAMPLE` inputs, evenly spaced."""
    inputs = batches.views[0]
    chosen = torch.linspace(0, len(inputs) - 1, min(SAMPLE, len(inputs))).long()
    return inputs[chosen].to(batches.device)


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
        visible_tokens = (~mask).nonzero().T.expand(len(inputs), -1)
        by_model, _ = masked(inputs, visible_tokens.to(inputs.device))
        predicted["model"][:, mask] = by_model.float().cpu()[:, mask]
        # Few faces and many dimensions: in float32, equal runs would differ in visible digits.
        visible, seen = (t[:, ~mask].flatten(1).double().numpy() for t in (train, targets))
        # Inputs are fewer than their dimensions: products of inputs take a quarter of the time.
        kernel, seen_kernel = visible @ visible.T, seen @ visible.T
        hidden_train = train[:, mask].flatten(1).double().numpy()
        for penalty in PENALTIES:
            ridge = KernelRidge(alpha=penalty, kernel="precomputed")
            by_ridge = ridge.fit(kernel, hidden_train).predict(seen_kernel)
            by_ridge = torch.from_numpy(by_ridge).float()
            predicted[penalty][:, mask] = by_ridge.unflatten(1, (-1, token_dim))
    total = targets.square().sum((0, 2))
    r2 = {name: 1 - (p - targets).square().sum((0, 2)) / total for name, p in predicted.items()}
    ridge_r2 = max((r2[penalty] for penalty in PENALTIES), key=torch.mean)
    table = pd.DataFrame({"model": r2["model"].numpy(), "ridge": ridge_r2.numpy()})
    return table.assign(faces=len(inputs)).rename_axis("token")
