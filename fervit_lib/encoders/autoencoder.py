"""The encoder that needs no download: a small network over the training images.

Its codes have pSp's shape (18 codes of 512; coarse, middle and fine from feature maps of increasing
size; Richardson et al. 2021, section 3.1) and none of its prior: they belong to no StyleGAN. Its
decoder draws coarse, then middle, then fine, so each band learns what the bands before it cannot
represent.
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fervit_lib.encoders.images import tensor_to_images
from fervit_lib.latents import BANDS, LATENT_DIM
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1),
    )


def _map_to_codes(in_channels: int, map_size: int, channels: int, num_codes: int) -> nn.Sequential:
    """A feature map to the codes of one band, (B, C, S, S) → (B, num_codes, 512).

    The last batch norm gives every dimension mean 0 and variance 1 over the training set, a scale
    at which a transformer's linear input layer trains well.
    """
    dim = num_codes * LATENT_DIM
    layers = OrderedDict(
        reduce=_conv(in_channels, channels, stride=2),
        flatten=nn.Flatten(),
        linear=nn.Linear(channels * (map_size // 2) ** 2, dim),
        norm=nn.BatchNorm1d(dim, affine=False),
        unflatten=nn.Unflatten(1, (num_codes, LATENT_DIM)),
    )
    return nn.Sequential(layers)


def _codes_to_map(num_codes: int, channels: int, map_size: int) -> nn.Sequential:
    """The codes of one band to a feature map, (B, num_codes, 512) → (B, C, S, S)."""
    layers = OrderedDict(
        flatten=nn.Flatten(),
        linear=nn.Linear(num_codes * LATENT_DIM, channels * map_size**2),
        unflatten=nn.Unflatten(1, (channels, map_size, map_size)),
    )
    return nn.Sequential(layers)


class Autoencoder(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] → `w_plus` (B, 18, 512); `decode` is the way back.

    Args:
        img_size: height and width in pixels that images are resized to, a multiple of 16 of at
            least 32.
    """

    def __init__(self, img_size: int = 64) -> None:
        super().__init__()
        if img_size % 16 or img_size < 32:
            raise ValueError(f"img_size: expected a multiple of 16 of at least 32, got {img_size}")
        self.img_size = img_size
        eighth = img_size // 8
        # Coarse codes from maps of S/8 pixels, middle from S/4, fine from S/2: as pSp, one scale
        # per band.
        num_codes = {name: band.stop - band.start for name, band in BANDS.items()}
        self.fine_features = nn.Sequential(_conv(3, 32, stride=2), _conv(32, 32))
        self.middle_features = nn.Sequential(_conv(32, 64, stride=2), _conv(64, 64))
        self.coarse_features = nn.Sequential(_conv(64, 128, stride=2), _conv(128, 128))
        self.coarse_codes = _map_to_codes(128, eighth, 64, num_codes["coarse"])
        self.middle_codes = _map_to_codes(64, 2 * eighth, 16, num_codes["middle"])
        self.fine_codes = nn.Sequential(
            _conv(32, 32, stride=2), _map_to_codes(32, 2 * eighth, 16, num_codes["fine"])
        )
        self.coarse_map = _codes_to_map(num_codes["coarse"], 64, eighth // 2)
        self.middle_map = _codes_to_map(num_codes["middle"], 16, eighth)
        self.fine_map = _codes_to_map(num_codes["fine"], 16, eighth)
        self.paint_coarse = _conv(64, 64)
        self.paint_middle = _conv(64 + 16, 48)
        self.paint_fine = nn.Sequential(
            _conv(48 + 16, 48), nn.Upsample(scale_factor=2), _conv(48, 32)
        )
        self.to_rgb = nn.ModuleList(
            nn.Conv2d(channels, 3, 3, padding=1) for channels in (64, 48, 32)
        )

    @property
    def weight(self) -> Tensor:
        """A parameter, for the dtype and device that inputs are moved to."""
        return self.to_rgb[0].weight

    def forward(self, images: Tensor) -> Tensor:
        """Encode images of any height and width."""
        size = (self.img_size, self.img_size)
        images = images.to(self.weight)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        fine = self.fine_features(images)  # (B, 32, S/2, S/2)
        middle = self.middle_features(fine)  # (B, 64, S/4, S/4)
        coarse = self.coarse_features(middle)  # (B, 128, S/8, S/8)
        bands = (self.coarse_codes(coarse), self.middle_codes(middle), self.fine_codes(fine))
        return torch.cat(bands, dim=1).float()

    def decode(self, w_plus: Tensor) -> list[Tensor]:
        """`w_plus` (B, 18, 512) → three images (B, 3, S, S): coarse, + middle, + fine codes."""
        w_plus = w_plus.to(self.weight)
        # (B, 3, 512), (B, 4, 512), (B, 11, 512)
        coarse, middle, fine = (w_plus[:, band] for band in BANDS.values())
        x = self.paint_coarse(F.interpolate(self.coarse_map(coarse), scale_factor=2))
        images = [self.to_rgb[0](x)]
        x = self.paint_middle(torch.cat([x, self.middle_map(middle)], dim=1))
        images.append(self.to_rgb[1](x))
        x = F.interpolate(torch.cat([x, self.fine_map(fine)], dim=1), scale_factor=2)
        images.append(self.to_rgb[2](self.paint_fine(x)))
        return [F.interpolate(image, self.img_size, mode="bilinear") for image in images]


@torch.inference_mode()
def reconstruct(model: Autoencoder, images: Tensor) -> dict[str, list[Image.Image]]:
    """Reconstruct images (B, 3, S, S) in [-1, 1] from coarse codes, + middle, + fine codes."""
    names = ("coarse", "+ middle", "+ fine")
    reconstructed = zip(names, model.decode(model(images)), strict=True)
    return {name: tensor_to_images(tensor) for name, tensor in reconstructed}


@torch.inference_mode()
def decode_images(decoder: Autoencoder, codes: Tensor) -> list[Image.Image]:
    """The images that the decoder makes of codes (B, 18, 512)."""
    return tensor_to_images(decoder.decode(codes)[-1])


@torch.inference_mode()
def reconstruction_error(model: Autoencoder, images: Tensor) -> float:
    """Mean squared error over the pixels of images (N, 3, S, S) in [-1, 1]."""
    total = 0.0  # a sum, since the last batch may be smaller than the others
    for batch in images.to(model.weight.device).split(256):
        reconstructed = model.decode(model(batch))[-1].float()
        total += (reconstructed - batch).square().mean((1, 2, 3)).sum().item()
    return total / len(images)


def save_autoencoder(path: Path, model: Autoencoder, trained_on: str) -> None:
    """Write the weights as safetensors.

    Args:
        trained_on: fingerprint of images and settings, to avoid the same training twice.
    """
    metadata = {"kind": "autoencoder", "img_size": model.img_size, "trained_on": trained_on}
    save_checkpoint(path, model.state_dict(), metadata)


def load_autoencoder(path: Path) -> tuple[Autoencoder, str]:
    """Load an autoencoder in eval mode, and the fingerprint of what it was trained on.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of checkpoint, or damaged.
    """
    tensors, metadata = load_checkpoint(path)
    if metadata.get("kind") != "autoencoder":
        raise ValueError(
            f"{path}: expected an autoencoder, got a checkpoint of kind {metadata.get('kind')!r}; "
            f"give one that 01_encode wrote"
        )
    remedy = "remove it and run 01_encode, which trains one"
    with explain_read_error(path, "not the weights of this autoencoder", remedy):
        model = Autoencoder(metadata["img_size"])
        model.load_state_dict(tensors)
    return model.eval(), metadata["trained_on"]
