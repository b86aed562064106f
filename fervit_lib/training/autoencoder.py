"""Fit the `autoencoder` encoder to the training images."""

import hashlib
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import fastai.callback.schedule  # noqa: F401  (gives Learner its fit_one_cycle)
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from fervit_lib.encoders.autoencoder import Autoencoder, load_autoencoder, save_autoencoder
from fervit_lib.system import distributed
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.runtime import has_fast_bf16, seed_everything
from fervit_lib.training.callbacks import Bf16, Curves
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.resume import KeepLast, ResumableLearner
from fervit_lib.training.share import Share

FINE_WEIGHT = 4.0  # the full picture counts most; the two coarser ones keep the bands in order


class _Reconstruct(nn.Module):
    """Images → the three pictures that their codes paint."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.autoencoder.decode(self.autoencoder(images))


class MirrorHalf(Callback):
    """Mirror half of every training batch, at random, picture and target alike."""

    def before_batch(self) -> None:
        if self.training:
            mirrored = torch.rand(len(self.x)).to(self.x.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], self.x.flip(-1), self.x)
            self.learn.xb = self.learn.yb = (images,)


def reconstruction_loss(pictures: list[Tensor], images: Tensor) -> Tensor:
    """Weighted mean squared error; coarse and middle pictures are held against the image blurred to their scale."""
    coarse, middle, fine = (picture.float() for picture in pictures)
    loss = FINE_WEIGHT * F.mse_loss(fine, images)
    for picture, factor in ((coarse, 8), (middle, 4)):
        loss = loss + F.mse_loss(F.avg_pool2d(picture, factor), F.avg_pool2d(images, factor))
    return loss


def fit_autoencoder(
    train: Tensor,
    val: Tensor,
    checkpoint: Path,
    *,
    epochs: int,
    lr: float = 2e-3,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device,
) -> Autoencoder:
    """Train on images (N, 3, S, S) in [-1, 1] and save to `checkpoint`; if it holds just this training, load it.

    An interrupted fit goes on after its last whole epoch.

    Returns:
        The model in eval mode.
    """
    settings = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
        "shape": list(train.shape),
    }
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(train.numpy().tobytes())
    state = checkpoint.with_name("last.safetensors")

    @distributed.rank_zero_only
    def is_known() -> bool:
        return checkpoint.is_file() and load_autoencoder(checkpoint)[1] == digest.hexdigest()

    # Another process that encodes these faces, too, may learn it now.
    lock = (
        hold_lock(checkpoint.with_name(f".{checkpoint.name}.lock"))
        if distributed.rank() == 0
        else nullcontext()
    )
    with lock:
        if not is_known():
            keep = KeepLast(state, {"digest": digest.hexdigest()}, lr)
            seed_everything(seed)
            model = _train(
                train, val, checkpoint.parent.parent, epochs, lr, batch_size, device, keep
            )
            save_autoencoder(checkpoint, model, digest.hexdigest())
        state.unlink(missing_ok=True)
    return load_autoencoder(checkpoint)[0].to(device)


def _train(
    train: Tensor,
    val: Tensor,
    folder: Path,
    epochs: int,
    lr: float,
    batch_size: int,
    device: torch.device,
    keep: KeepLast,
) -> Autoencoder:
    """A new one, learned; its curves go to `folder`."""
    # Channels last: convolutions are 1.5 times as fast so, on CPU and GPU.
    model = Autoencoder(train.shape[-1]).to(memory_format=torch.channels_last)
    train, val = (images.to(device, memory_format=torch.channels_last) for images in (train, val))
    dls = DataLoaders(
        TensorBatches([train], train, bs=min(batch_size, len(train)), shuffle=True),
        TensorBatches([val], val, bs=min(256, len(val))),
        device=device,
    )
    learn = ResumableLearner(
        dls,
        _Reconstruct(model),
        loss_func=reconstruction_loss,
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        path=folder,
        cbs=[MirrorHalf(), Share(), Curves(folder), *([Bf16()] if has_fast_bf16(device) else [])],
        what="autoencoder",
    )
    learn.fit_one_cycle(epochs, lr, cbs=[keep])
    return model
