"""Random changes of training batches, computed on the device, different for every sample."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import Brightness, Contrast, Flip, Rotate, Zoom, setup_aug_tfms
from fastai.vision.core import TensorImage
from torch import Tensor, nn

from fervit_lib.models import ImageModel
from fervit_lib.system.names import check_range
from fervit_lib.training.resume import preserve_random_state


class Batch(NamedTuple):
    """A training batch as the model gets it."""

    inputs: Tensor  # (B, …), augmented
    targets: Tensor  # (B,), or (B, C) shares
    faces: np.ndarray  # (B,) indices of the faces in the store's training split


@preserve_random_state()
def preview_batch(dls: DataLoaders, augment: Sequence[Callback]) -> Batch:
    """A batch of `face_dls`, changed by the callbacks `augment`; a later fit draws the same."""
    learn = Learner(dls, nn.Identity(), loss_func=CrossEntropyLossFlat(), cbs=augment)
    *inputs, targets = next(iter(dls.train))
    learn.training = True
    learn.xb = tuple(inputs)
    learn.yb = (targets,)
    for callback in augment:  # fastai's MixUp draws its distribution here
        callback("before_train")
    learn("before_batch")
    # A small training set is repeated in an epoch.
    faces = dls.chosen[dls.train.batch_indices.cpu().numpy() % len(dls.chosen)]
    return Batch(learn.xb[0].as_subclass(Tensor), learn.yb[0].as_subclass(Tensor), faces)


class AugmentCodes(Callback):
    """Move training codes along the direction of their label, add noise, scale, and mask layers.

    Every view of a face moves along the same direction.

    Args:
        noise: standard deviation of the noise, relative to that of each dimension in the batch.
        scale: codes are multiplied by a number from [1 - scale, 1 + scale].
        mask: probability of each layer to be set to zero.
        move: largest step; that of each code is drawn from [0, move).
        directions: (num_classes, layers, dim), see `explain.training_directions`. That of soft
            labels is the mean weighted by the shares.
    """

    order = -5  # before mixup (0), which mixes the augmented samples

    def __init__(
        self,
        noise: float = 0.0,
        scale: float = 0.0,
        mask: float = 0.0,
        move: float = 0.0,
        directions: Tensor | None = None,
    ) -> None:
        check_range("latent_noise", noise, 0, 1)
        check_range("latent_scale", scale, 0, 1)
        check_range("latent_mask", mask, 0, 1)
        check_range("latent_move", move, 0)
        if move and directions is None:
            raise ValueError(f"directions: expected a tensor for latent_move {move}, got None")
        self.noise = noise
        self.scale = scale
        self.mask = mask
        self.move = move
        self.directions = torch.zeros(()) if directions is None else directions

    def before_batch(self) -> None:
        if self.training:
            codes = self.move_codes(self.x, self.y) if self.move else self.x
            self.learn.xb = (self.augment(codes),)

    def move_codes(self, codes: Tensor, targets: Tensor) -> Tensor:
        """(B, 18, 512) and labels (B,), or shares (B, C) → (B, 18, 512)."""
        self.directions = self.directions.to(codes.device)  # copied in the first batch only
        if targets.ndim == 1:
            directions = self.directions[targets]
        else:
            directions = torch.tensordot(targets, self.directions, 1)
        steps = self.move * torch.rand(len(codes), 1, 1, device=codes.device)
        return codes + steps * directions

    def augment(self, codes: Tensor) -> Tensor:
        """(B, 18, 512) → (B, 18, 512)."""
        if self.noise:
            # (18, 512) spreads: layers of a code differ tenfold in spread.
            # Not corrected for the sample: a batch of one face has a spread of 0, not NaN.
            spread = codes.std(0, correction=0, keepdim=True)
            codes = codes + self.noise * spread * torch.randn_like(codes)
        if self.scale:
            uniform = 2 * torch.rand(len(codes), 1, 1, device=codes.device) - 1  # in [-1, 1)
            codes = codes * (1 + self.scale * uniform)
        if self.mask:
            codes = codes * (torch.rand(*codes.shape[:2], 1, device=codes.device) >= self.mask)
        return codes


def add_noise(images: Tensor, std: float) -> Tensor:
    """Images (B, 3, H, W) with noise, whose standard deviation is drawn per image from [0, std]."""
    std_of_image = std * torch.rand(len(images), 1, 1, 1, device=images.device)
    return images + std_of_image * torch.randn_like(images)


class AugmentImages(Callback):
    """Flip, rotate, zoom and light training images by fastai's batch transforms.

    Converts uint8 to float in [0, 1].

    Args:
        strength: 1: up to 10° of rotation and 10 % of zoom; 0: horizontal flips only.
        noise: largest standard deviation of the noise, see `add_noise`.
    """

    order = -5  # before mixup (0)

    def __init__(self, strength: float = 1.0, noise: float = 0.0) -> None:
        if not 0 <= strength <= 3:
            raise ValueError(f"image_augment: expected a strength in [0, 3], got {strength}")
        self.strength = strength
        # Bicubic: fastai reads a value of the zoom of every batch to interpolate bilinearly.
        self.transforms = [Flip(p=0.5, mode="bicubic", pad_mode="border")]
        if strength:
            zoom = 0.1 * strength
            lighting = min(0.2 * strength, 0.9)  # fastai takes the logarithm of 1 - it
            self.transforms += [
                Rotate(max_deg=10 * strength, p=0.75),
                Zoom(min_zoom=1 - zoom, max_zoom=1 + zoom, p=0.75),
                Brightness(max_lighting=lighting, p=0.75),
                Contrast(max_lighting=lighting, p=0.75),
            ]
            # As the first: together they interpolate once.
            self.transforms = setup_aug_tfms(self.transforms)
        check_range("image_noise", noise, 0, 1)
        self.noise = noise

    def before_batch(self) -> None:
        if not self.training:
            return
        images = TensorImage(self.x if self.x.is_floating_point() else self.x.float() / 255)
        # split_idx 0 is the training split, to which the transforms are limited.
        for transform in self.transforms:
            images = transform(images, split_idx=0)
        images = torch.Tensor(images)
        if self.noise:
            images = add_noise(images, self.noise)
        self.learn.xb = (images.clamp(0, 1),)


class GrowImages(Callback):
    """Progressive resizing: train at a smaller image size in the first half of the epochs.

    Args:
        side: pixels, below the model's `image_size`.

    Raises:
        ValueError: the model has a fixed image size, as a ViT; or `side` is out of range.
    """

    def __init__(self, model: ImageModel, side: int) -> None:
        if not model.any_size:
            raise ValueError(
                "grow_from: expected 0 for a model of one image size, such as a ViT; use a CNN"
            )
        check_range("grow_from", side, 32, model.image_size)
        self.side = side

    def before_epoch(self) -> None:
        first_half = 2 * (self.epoch + 1) <= self.n_epoch
        self.model.seen_size = self.side if first_half else self.model.image_size

    def after_fit(self) -> None:
        self.model.seen_size = self.model.image_size
