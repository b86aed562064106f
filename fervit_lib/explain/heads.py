"""Do heads differ, and which of them are needed?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.explain.attention import evaluating
from fervit_lib.models.attention import (
    SIMILARITIES,
    attention_modules,
    capture_heads,
    head_similarity,
    scale_heads,
)
from fervit_lib.system.progress import progress


@dataclass(frozen=True)
class HeadStatistics:
    """What the heads of every block do, mean over faces."""

    entropy: Tensor  # (depth, num_heads): 1 looks at every token alike, 0 at one alone
    distance: Tensor  # (depth, num_heads): how many layers of w+ away a token looks, CLS left out
    similarity: dict[
        str, Tensor
    ]  # by kind, (depth, num_heads, num_heads) -1 to 1, see `head_similarity`


@torch.no_grad()
def head_statistics(model: nn.Module, inputs: Tensor, batch_size: int = 128) -> HeadStatistics:
    """Entropy, distance and pairwise similarity of all heads over `inputs` (n, …), a batch at a time."""
    sums: dict[str, Tensor | float] = {"entropy": 0.0, "distance": 0.0} | dict.fromkeys(
        SIMILARITIES, 0.0
    )
    for batch in progress(inputs.split(batch_size), desc="heads", unit=" batches"):
        with evaluating(model), capture_heads(model) as captured:
            model(batch.to(_device(model)))
        maps = torch.stack([heads.attn for heads in captured])  # (depth, B, num_heads, N, N)
        n = maps.shape[-1]
        entropy = torch.special.entr(maps).sum(-1).mean(-1) / np.log(n)
        places = torch.arange(n - 1, device=maps.device)
        tokens = maps[..., 1:, 1:] / maps[..., 1:, 1:].sum(-1, keepdim=True).clamp(min=1e-12)
        distance = (tokens * (places[:, None] - places).abs()).sum(-1).mean(-1)
        found = {"entropy": entropy.mean(1), "distance": distance.mean(1)}
        found |= {
            kind: torch.stack([head_similarity(heads, kind) for heads in captured])
            for kind in SIMILARITIES
        }
        for name, value in found.items():
            sums[name] = sums[name] + value.cpu() * len(batch) / len(inputs)
    return HeadStatistics(
        sums["entropy"], sums["distance"], {kind: sums[kind] for kind in SIMILARITIES}
    )


def head_importance(
    model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 128
) -> Tensor:
    """How much the loss of a face would move if a head's output were scaled, mean over faces: (depth, num_heads) ≥ 0.

    The gradient of the loss with respect to a factor at each head, its size taken face by face (Michel et al. 2019, Are
    Sixteen Heads Really Better than One, eq. 2).
    """
    modules = attention_modules(model)
    total = torch.zeros(len(modules), modules[0].num_heads)
    for batch, target in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        with evaluating(model), torch.enable_grad(), capture_heads(model) as captured:
            logits = model(batch.detach().to(_device(model)).requires_grad_())
            loss = F.cross_entropy(logits, target.to(logits.device), reduction="sum")
        outputs = [heads.outputs for heads in captured]
        gradients = torch.autograd.grad(loss, outputs)
        # The derivative at a factor 1 is the sum of output times gradient: one number a face and head.
        total += torch.stack(
            [
                (o * g).sum((-2, -1)).abs().sum(0).detach().cpu()
                for o, g in zip(outputs, gradients, strict=True)
            ]
        )
    return total / len(inputs)


@torch.no_grad()
def pruning_curve(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: Sequence[int] | Tensor,
    batch_size: int = 512,
) -> np.ndarray:
    """Accuracy with the first 0, 1, …, all heads of `order` switched off: (1 + heads,).

    Args:
        order: heads numbered through all blocks, block 1 first; the first goes first.
    """
    modules = attention_modules(model)
    num_heads = [module.num_heads for module in modules]
    order = [int(head) for head in order]
    if sorted(order) != list(range(sum(num_heads))):
        raise ValueError(
            f"order: expected every head from 0 to {sum(num_heads) - 1} once, got {order}"
        )
    scales, accuracies = torch.ones(sum(num_heads)), []
    for removed in progress([None, *order], desc="prune", unit=" heads"):
        if removed is not None:
            scales[removed] = 0
        with evaluating(model), scale_heads(model, scales.split(num_heads)):
            predicted = torch.cat(
                [
                    model(batch.to(_device(model))).argmax(-1).cpu()
                    for batch in inputs.split(batch_size)
                ]
            )
        accuracies.append((predicted == labels.cpu()).float().mean().item())
    return np.array(accuracies)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
