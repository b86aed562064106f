"""Token maps of one face, and scores of the layers, by every method in `METHODS`."""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from fervit_lib.explain.attention import (
    attention_maps,
    attention_rollout,
    gradient_maps,
    gradient_rollout,
)
from fervit_lib.explain.similarity import layer_features, token_similarity
from fervit_lib.system.names import check_choice

# By name in the figures: whether a block and a head can be chosen; a rollout combines all of them.
METHODS = {
    "attention": True,
    "gradient × attention": True,
    "rollout": False,
    "gradient rollout": False,
    "cosine": True,
}


def token_map(
    model: nn.Module, code: Tensor, method: str, block: int = -1, head: int | None = None
) -> np.ndarray:
    """The map of one face: (N, N) from token to token, or (1, N) from CLS for a rollout.

    Args:
        code: (1, layers, 512); there are N = 1 + layers tokens.
        method: one of `METHODS`.
        block: index; -1 is the last.
        head: index; None is the mean of all heads. Ignored by `cosine`.
    """
    check_choice("method", method, METHODS)
    if method == "cosine":
        features = list(layer_features(model, code).values())
        return token_similarity(features[block][0]).cpu().numpy()
    maps = gradient_maps(model, code) if "gradient" in method else attention_maps(model, code)
    if method == "rollout":
        return attention_rollout(maps).cpu().numpy()
    if method == "gradient rollout":
        return gradient_rollout(maps).cpu().numpy()
    heads = maps[block][0]  # (num_heads, N, N)
    return (heads.mean(0) if head is None else heads[head]).cpu().numpy()


def _cls_scores(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Score of each token for CLS, mean over heads: method → (B, N); see `method_scores`."""
    maps = attention_maps(model, x)
    weighted = gradient_maps(model, x)
    return {
        "attention": maps[-1].mean(1)[:, 0],
        "gradient × attention": weighted[-1].mean(1)[:, 0],
        "rollout": attention_rollout(maps),
        "gradient rollout": gradient_rollout(weighted),
    }


def method_scores(model: nn.Module, codes: Tensor) -> dict[str, Tensor]:
    """Score of each layer of `w+` for CLS, mean over heads: method → (n, layers).

    Attention, gradient × attention and cosine are those of the last block.
    """
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for batch in codes.split(64):
        scores = _cls_scores(model, batch)
        *_, last = layer_features(model, batch).values()
        scores["cosine"] = torch.cosine_similarity(last[:, :1], last, dim=-1)
        for name, score in scores.items():
            parts[name].append(score[:, 1:].cpu())  # CLS left out
    return {name: torch.cat(batches) for name, batches in parts.items()}


def image_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Where an image ViT looks in `images` (B, 3, H, W) uint8: by method, maps (B, side, side).

    `attention` is that of CLS in the last block, mean over heads; `gradient rollout` is for the
    predicted class.
    """
    scores = _cls_scores(model, images.float() / 255)  # a gradient needs floats
    prefix = model.body.num_prefix_tokens  # CLS and registers
    side = round((scores["rollout"].shape[1] - prefix) ** 0.5)
    # (B, N) → (B, side, side): the patches are rows of a square image, one after another.
    return {
        name: scores[name][:, prefix:].unflatten(1, (side, side)).cpu()
        for name in ("attention", "rollout", "gradient rollout")
    }
