"""Faces to shards of codes, shard by shard, so that an interrupted run goes on where it stood."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from tqdm.auto import tqdm

from fervit_lib.datasets import FaceDataset
from fervit_lib.latents import SHARD_SIZE, read_fingerprint, shard_fingerprint, shard_path, write_shard


def images_to_tensor(images: Sequence[Image.Image], size: int) -> Tensor:
    """PIL images of any mode → (B, 3, size, size) float32 RGB in [-1, 1]; others are resized by bicubic."""
    pixels = [np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def tensor_to_images(tensor: Tensor) -> list[Image.Image]:
    """The way back: (B, 3, H, W) in [-1, 1], clipped → PIL images in RGB."""
    pixels = tensor.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]


# Small enough that the expression stays, large enough that its place in the image does not give it away.
_MOVE = v2.RandomAffine(degrees=5, translate=(0.03, 0.03), scale=(0.95, 1.05), interpolation=InterpolationMode.BILINEAR)


def change_view(images: Tensor, view: int, seed: int) -> Tensor:
    """Another view of the same faces: 0 as they are, 1 mirrored, then slightly moved (even) and both (odd).

    Args:
        images: (B, 3, S, S) in [-1, 1].
        seed: draws the moves, each image its own; the global random state is left as it was.
    """
    if view % 2:
        images = images.flip(-1)
    if view < 2:
        return images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000_003 * view + seed)
        return torch.stack([_MOVE(image) for image in images])


@torch.inference_mode()
def encode_faces(
    encoder: nn.Module,
    encoder_sha256: str,
    faces: FaceDataset,
    folder: Path,
    split: str,
    *,
    device: torch.device,
    batch_size: int = 128,
    view: int = 0,
) -> int:
    """Encode `faces` into the shards of `split`; shards that are there from the same encoder and faces are kept.

    Args:
        encoder: (B, 3, S, S) in [-1, 1] → (B, 18, 512), with its side S as `img_size`.
        encoder_sha256: identifies the encoder's weights.
        view: which view of the faces is encoded, see `change_view`.

    Returns:
        The number of codes made now.
    """
    encoder = encoder.eval().to(device)
    made = 0
    with tqdm(total=len(faces), desc=f"encode {split}", unit="face") as progress:
        for index, start in enumerate(range(0, len(faces), SHARD_SIZE)):
            shard = faces.subset(np.arange(start, min(start + SHARD_SIZE, len(faces))))
            path = shard_path(folder, split, index)
            fingerprint = shard_fingerprint(encoder_sha256, shard.paths, shard.labels)
            if read_fingerprint(path) != fingerprint:
                codes = []
                for first in range(0, len(shard), batch_size):
                    images = [shard[i][0] for i in range(first, min(first + batch_size, len(shard)))]
                    pixels = change_view(images_to_tensor(images, encoder.img_size), view, seed=start + first)
                    codes.append(encoder(pixels.to(device)).cpu())
                    progress.update(len(images))
                write_shard(path, torch.cat(codes), shard.labels, shard.paths, fingerprint)
                made += len(shard)
            else:
                progress.update(len(shard))
    return made


@torch.inference_mode()
def decode_images(decoder: nn.Module, codes: Tensor) -> list[Image.Image]:
    """What an encoder that can decode paints of all 18 layers of `codes` (B, 18, 512)."""
    device = next(decoder.parameters()).device
    return tensor_to_images(decoder.decode(codes.float().to(device))[-1])
