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

# Name as shown, and whether block and head can be chosen: a rollout combines all of them.
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
    """The map of one face: (19, 19) from token to token, or (1, 19) from CLS for a rollout.

    Args:
        code: (1, 18, 512).
        method: one of `METHODS`.
        block: index; -1 is the last.
        head: index; None is the mean of all heads. Ignored by `cosine`.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "cosine":
        features = list(layer_features(model, code).values())
        return token_similarity(features[block][0]).cpu().numpy()
    maps = gradient_maps(model, code) if "gradient" in method else attention_maps(model, code)
    if method == "rollout":
        return attention_rollout(maps).cpu().numpy()
    if method == "gradient rollout":
        return gradient_rollout(maps).cpu().numpy()
    heads = maps[block][0]  # (num_heads, 19, 19)
    return (heads.mean(0) if head is None else heads[head]).cpu().numpy()


def method_scores(model: nn.Module, codes: Tensor, batch_size: int = 64) -> dict[str, Tensor]:
    """Score of each layer of `w+` for CLS, mean over heads: method → (n, 18).

    Attention, gradient × attention and cosine are those of the last block.
    """
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for batch in codes.split(batch_size):
        maps = attention_maps(model, batch)
        weighted = gradient_maps(model, batch)
        *_, last = layer_features(model, batch).values()
        scores = {
            "attention": maps[-1].mean(1)[:, 0],
            "gradient × attention": weighted[-1].mean(1)[:, 0],
            "rollout": attention_rollout(maps),
            "gradient rollout": gradient_rollout(weighted),
            "cosine": torch.cosine_similarity(last[:, :1], last, dim=-1),
        }
        for name, score in scores.items():
            parts[name].append(score[:, 1:].cpu())  # CLS left out
    return {name: torch.cat(batches) for name, batches in parts.items()}
