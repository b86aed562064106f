"""Train the `autoencoder` encoder on the training images."""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from fervit_lib.encoders.autoencoder import Autoencoder, load_autoencoder, save_autoencoder
from fervit_lib.system import distributed
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.runtime import seed_everything
from fervit_lib.training.callbacks import FitBar
from fervit_lib.training.data import TensorBatches
from fervit_lib.training.learner import build_learner
from fervit_lib.training.resume import KeepLast
from fervit_lib.training.strategies import single_group

FINE_WEIGHT = 4.0  # the full-size reconstruction counts most; the coarser two order the layers


class _Reconstruct(nn.Module):
    """Images (B, 3, S, S) → the three reconstructions from their codes."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.autoencoder.decode(self.autoencoder(images))


def reconstruction_loss(outputs: list[Tensor], images: Tensor) -> Tensor:
    """Weighted mean squared error; coarse and middle images are compared to the blurred input."""
    coarse, middle, fine = (output.float() for output in outputs)
    loss = FINE_WEIGHT * F.mse_loss(fine, images)
    for output, factor in ((coarse, 8), (middle, 4)):
        loss = loss + F.mse_loss(F.avg_pool2d(output, factor), F.avg_pool2d(images, factor))
    return loss


class FlipHalf(Callback):
    """Flip a random half of every training batch horizontally, inputs and targets alike."""

    def before_batch(self) -> None:
        if self.training:
            # Drawn on the CPU: the same faces are flipped on every device.
            flipped = torch.rand(len(self.x)).to(self.x.device) < 0.5
            images = torch.where(flipped[:, None, None, None], self.x.flip(-1), self.x)
            self.learn.xb = self.learn.yb = (images,)


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
    """Train on images (N, 3, S, S) in [-1, 1] and save to `checkpoint`.

    If `checkpoint` is the result of the same training, it is loaded. An interrupted fit resumes.

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
    # The result is identified by its settings and its images, not by the file's name.
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(train.numpy().tobytes())
    state = checkpoint.with_name("last.safetensors")

    @distributed.rank_zero_only
    def is_trained() -> bool:
        return checkpoint.is_file() and load_autoencoder(checkpoint)[1] == digest.hexdigest()

    # Another step that encodes the same faces may be training it now. One lock per launch.
    lock_file = checkpoint.with_name(f".{checkpoint.name}.lock")
    with hold_lock(lock_file) if distributed.rank() == 0 else nullcontext():
        if not is_trained():
            seed_everything(seed)
            # Channels last: convolutions are 1.5 times as fast, on CPU and GPU.
            model = Autoencoder(train.shape[-1]).to(memory_format=torch.channels_last)
            dls = _make_dls(train, val, batch_size, device)
            learn = build_learner(
                _Reconstruct(model),
                dls,
                single_group(model),
                reconstruction_loss,
                folder=checkpoint.parent.parent,
                metrics=[],
                cbs=[FlipHalf(), FitBar("autoencoder")],
            )
            keep_last = KeepLast(state, {"digest": digest.hexdigest()}, lr)
            learn.fit_one_cycle(epochs, lr, cbs=[keep_last])
            save_autoencoder(checkpoint, model, digest.hexdigest())
        state.unlink(missing_ok=True)
    return load_autoencoder(checkpoint)[0].to(device)


def _make_dls(train: Tensor, val: Tensor, batch_size: int, device: torch.device) -> DataLoaders:
    train = train.to(device, memory_format=torch.channels_last)
    val = val.to(device, memory_format=torch.channels_last)
    return DataLoaders(
        TensorBatches([train], train, bs=min(batch_size, len(train)), shuffle=True),
        TensorBatches([val], val, bs=min(256, len(val))),
        device=device,
    )
