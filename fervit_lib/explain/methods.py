"""One face, one block, one head, by any of the methods that claim to show what a model looks at."""

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

# Name as shown, and whether block and head count: a rollout goes through all of them.
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
    """What `method` shows of one face: (19, 19) from token to token, or (1, 19) of CLS alone for a rollout.

    Args:
        code: (1, 18, 512).
        block: counted from 0; -1 is the last.
        head: counted from 0; None is the mean of all. `cosine` knows no heads.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "cosine":
        return token_similarity(list(layer_features(model, code).values())[block][0]).cpu().numpy()
    maps = gradient_maps(model, code) if "gradient" in method else attention_maps(model, code)
    if not METHODS[method]:
        roll = gradient_rollout if "gradient" in method else attention_rollout
        return roll(maps).cpu().numpy()
    chosen = maps[block][0]
    return (chosen.mean(0) if head is None else chosen[head]).cpu().numpy()


def method_scores(model: nn.Module, codes: Tensor, batch_size: int = 64) -> dict[str, Tensor]:
    """What each method says of each layer of w+, for CLS and the mean head: method → (n, 18).

    Attention, gradient × attention and cosine are those of the last block.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in codes.split(batch_size):
        batch = batch.to(next(model.parameters()).device)
        maps, weighted = attention_maps(model, batch), gradient_maps(model, batch)
        last = list(layer_features(model, batch).values())[-1]
        scores = {
            "attention": maps[-1].mean(1)[:, 0],
            "gradient × attention": weighted[-1].mean(1)[:, 0],
            "rollout": attention_rollout(maps),
            "gradient rollout": gradient_rollout(weighted),
            "cosine": torch.cosine_similarity(last[:, :1], last, dim=-1),
        }
        for name, score in scores.items():
            found.setdefault(name, []).append(score[:, 1:].cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}
