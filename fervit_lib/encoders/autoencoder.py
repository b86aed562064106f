"""The encoder that needs no download: it is computed from the training images in closed form.

Its codes have pSp's shape (18 codes of 512; Richardson et al. 2021, section 3.1) and none of its
prior: they belong to no StyleGAN. As there, each band sees the face at a scale of its own. It keeps
two descriptions: how the picture looks at this scale, as principal components of the pixels
(eigenfaces, Turk and Pentland 1991), and where its edges run, as principal components of histograms
of oriented gradients (Dalal and Triggs 2005), which light hardly changes. The decoder draws the
pixels: coarse, then what middle and fine add.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.latents import BANDS, LATENT_DIM, NUM_LAYERS
from fervit_lib.system import distributed
from fervit_lib.system.checkpoints import load_checkpoint, save_checkpoint
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.locks import hold_lock
from fervit_lib.system.runtime import seed_everything

FIT_FACES = 2048  # images that the components are computed from, and their mirror images
COMPONENTS = 56  # of the pixels of a band, and as many of its edges
REACH = 4  # ranges of components from which on a code has none of them
DIRECTIONS = 8  # of gradients
_WINDOW = 9  # pixels whose contrast gradients are divided by


class _Components(nn.Module):
    """The first principal components of (N, dim), together of variance 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.eye(dim, COMPONENTS))
        self.register_buffer("spread", torch.ones(()))

    def fit(self, inputs: Tensor) -> None:
        self.mean.copy_(inputs.mean(0))
        # Few images have fewer components; the others stay 0.
        number = min(*inputs.shape, COMPONENTS)
        _, singular, basis = torch.svd_lowrank(inputs - self.mean, q=number)
        self.basis.zero_()[:, :number] = basis
        # Images without edges have no spread of them.
        self.spread.copy_((singular.norm() / len(inputs) ** 0.5).clamp(min=1e-2))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) @ self.basis / self.spread

    def inverse(self, components: Tensor) -> Tensor:
        return self.spread * components @ self.basis.T + self.mean


class _Band(nn.Module):
    """Pixels (B, P) and edges (B, E) ↔ components (B, num_codes, 2 · COMPONENTS) of a band.

    Each code has a range of the components, the first code those of the largest spread, and less
    and less of the ranges beside it. So the codes of a band differ, and yet tell of each other.
    """

    def __init__(self, num_codes: int, pixels: int, edges: int) -> None:
        super().__init__()
        self.pixels, self.edges = _Components(pixels), _Components(edges)
        ranges = torch.arange(2 * COMPONENTS) * num_codes // (2 * COMPONENTS)
        distance = (ranges - torch.arange(num_codes)[:, None]).abs()
        self.register_buffer("gains", (1 - distance / REACH).clamp(min=0))

    def fit(self, pixels: Tensor, edges: Tensor) -> None:
        self.pixels.fit(pixels)
        self.edges.fit(edges)
        spread = self(pixels, edges).square().sum(2).mean(0).sqrt()
        # Few images leave components without spread, which are rounding errors.
        self.gains *= (LATENT_DIM**0.5 / spread.clamp(min=0.05))[:, None]

    def forward(self, pixels: Tensor, edges: Tensor) -> Tensor:
        components = torch.stack([self.pixels(pixels), self.edges(edges)], dim=2).flatten(1)
        return components[:, None] * self.gains

    def decode(self, components: Tensor) -> Tensor:
        """The pixels (B, P): the least-squares solution, as the codes may be of several faces."""
        weighted = (components * self.gains).sum(1) / self.gains.square().sum(0)
        return self.pixels.inverse(weighted[:, ::2])


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
        self.bands = nn.ModuleDict()
        for scale, (name, band) in zip((4, 2, 1), BANDS.items(), strict=True):
            pixels = 3 * (img_size // scale) ** 2
            edges = DIRECTIONS * (16 // scale) ** 2
            self.bands[name] = _Band(band.stop - band.start, pixels, edges)
        # One rotation for all layers, as all layers of `w+` are of one space.
        self.register_buffer("rotation", torch.empty(2 * COMPONENTS, LATENT_DIM))
        nn.init.orthogonal_(self.rotation)
        # The components, and so the codes, have a mean of 0.
        self.register_buffer("mean_code", torch.zeros(NUM_LAYERS, LATENT_DIM), persistent=False)

    @property
    def weight(self) -> Tensor:
        """A tensor of the model, for the dtype and device that inputs are moved to."""
        return self.rotation

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Compute the components of images (N, 3, S, S) in [-1, 1] and their mirror images.

        Raises:
            ValueError: all images are equal.
        """
        images = torch.cat([images, images.flip(-1)])
        if images.std(0).max() < 1e-3:
            raise ValueError(
                "faces: expected different faces to compute an autoencoder from, got equal ones; "
                "look at the pictures, and give others"
            )
        for band, (pixels, edges) in zip(self.bands.values(), self._describe(images), strict=True):
            band.fit(pixels, edges)

    def _describe(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pixels and edges of each band, (B, P) and (B, E).

        Pixels of middle and fine are what the band before does not show.
        """
        coarse, middle = F.avg_pool2d(images, 4), F.avg_pool2d(images, 2)
        pixels = (coarse, middle - _double(coarse), images - _double(middle))
        histograms = F.avg_pool2d(_gradients(images), self.img_size // 16)
        return [
            # The square root of a histogram: large gradients count less (as in RootSIFT).
            (part.flatten(1), F.avg_pool2d(histograms, scale).sqrt().flatten(1))
            for part, scale in zip(pixels, (4, 2, 1), strict=True)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Encode images of any height and width."""
        size = (self.img_size, self.img_size)
        images = images.to(self.weight)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        described = zip(self.bands.values(), self._describe(images), strict=True)
        components = torch.cat([band(*parts) for band, parts in described], dim=1)
        return (components @ self.rotation).float()

    def decode(self, w_plus: Tensor) -> Tensor:
        """`w_plus` (B, 18, 512) → images (B, 3, S, S)."""
        components = w_plus.to(self.weight) @ self.rotation.T
        coarse, middle, fine = (
            band.decode(components[:, BANDS[name]]).unflatten(1, (3, self.img_size // scale, -1))
            for (name, band), scale in zip(self.bands.items(), (4, 2, 1), strict=True)
        )
        return _double(_double(coarse) + middle) + fine


def _double(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2, mode="bilinear")


def _gradients(images: Tensor) -> Tensor:
    """Gradients (B, 8, S, S) of the brightness in eight directions, as a share of local contrast.

    In each direction only rises count; falls are rises in the opposite one.
    """
    grey = images.mean(1, keepdim=True)
    around = nn.AvgPool2d(_WINDOW, stride=1, padding=_WINDOW // 2)
    mean, square = around(grey), around(grey.square())
    contrast = ((square - mean.square()).clamp(min=0) + 0.01).sqrt()
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / contrast
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / contrast
    angles = torch.arange(DIRECTIONS).to(images)[:, None, None] * (2 * torch.pi / DIRECTIONS)
    return F.relu(across * angles.cos() + down * angles.sin())


@distributed.rank_zero_only
def fit_autoencoder(images: Tensor, checkpoint: Path, *, seed: int = 0) -> None:
    """Compute an autoencoder from images (N, 3, S, S) in [-1, 1] and save it to `checkpoint`.

    If `checkpoint` was computed from the same images, it is kept.
    """
    images = images.contiguous()
    digest = hashlib.sha256(f"closed form 1, seed {seed}, {tuple(images.shape)}".encode())
    digest.update(images.numpy())
    # Another step that encodes the same faces may be computing it now.
    with hold_lock(checkpoint.with_name(f".{checkpoint.name}.lock")):
        # Only the metadata is read: the weights of an earlier version had other names.
        metadata = load_checkpoint(checkpoint)[1] if checkpoint.is_file() else {}
        if metadata.get("fingerprint") == digest.hexdigest():
            return
        seed_everything(seed)
        model = Autoencoder(images.shape[-1])
        model.fit(images)
        save_autoencoder(checkpoint, model, digest.hexdigest())


def save_autoencoder(path: Path, model: Autoencoder, fingerprint: str) -> None:
    """Write the weights as safetensors.

    Args:
        fingerprint: of the images that it was computed from.
    """
    metadata = {"kind": "autoencoder", "img_size": model.img_size, "fingerprint": fingerprint}
    save_checkpoint(path, model.state_dict(), metadata)


def load_autoencoder(path: Path) -> Autoencoder:
    """Load an autoencoder in eval mode.

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
    remedy = "remove it and run 01_encode, which computes one"
    with explain_read_error(path, "not the weights of this autoencoder", remedy):
        with torch.random.fork_rng(devices=[]):  # a training that shows pictures draws the same
            model = Autoencoder(metadata["img_size"])
        model.load_state_dict(tensors)
    return model.eval()
