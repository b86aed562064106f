"""Do attention heads differ, and which of them are needed?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fervit_lib.explain.attention import evaluating, forward_with_heads, to_device_of
from fervit_lib.models.attention import (
    SIMILARITIES,
    Heads,
    attention_modules,
    head_similarity,
    scale_heads,
)
from fervit_lib.system.progress import progress


@dataclass(frozen=True)
class HeadStatistics:
    """Statistics of the heads of every block, mean over faces; float64."""

    entropy: Tensor  # (depth, num_heads): 1 for uniform attention, 0 for attention to one token
    distance: Tensor  # (depth, num_heads): mean distance of attention in layers of w+, without CLS
    similarity: dict[str, Tensor]  # by kind, (depth, num_heads, num_heads), see `head_similarity`


@torch.no_grad()
def head_statistics(model: nn.Module, inputs: Tensor, batch_size: int = 128) -> HeadStatistics:
    """Entropy, distance and pairwise similarity of all heads for inputs (n, …)."""
    sums: dict[str, Tensor | float] = defaultdict(float)
    for batch in progress(inputs.split(batch_size), desc="heads", unit=" batches"):
        _, captured = forward_with_heads(model, batch)
        # In float32 the sums over faces and tokens lose digits as batches grow (9e-5 of a
        # similarity at 1,000 faces).
        blocks = [Heads(h.attn.double(), h.values.double(), h.outputs.double()) for h in captured]
        maps = torch.stack([heads.attn for heads in blocks])  # (depth, B, num_heads, N, N)
        n = maps.shape[-1]
        entropy = torch.special.entr(maps).sum(-1).mean(-1) / np.log(n)
        layers = torch.arange(n - 1, device=maps.device)
        to_layers = maps[..., 1:, 1:]
        to_layers = to_layers / to_layers.sum(-1, keepdim=True).clamp(min=1e-12)
        distance = (to_layers * (layers[:, None] - layers).abs()).sum(-1).mean(-1)
        values = {"entropy": entropy.mean(1), "distance": distance.mean(1)}
        for kind in SIMILARITIES:
            values[kind] = torch.stack([head_similarity(heads, kind) for heads in blocks])
        for name, value in values.items():
            sums[name] = sums[name] + value.cpu() * len(batch) / len(inputs)
    similarity = {kind: sums[kind] for kind in SIMILARITIES}
    return HeadStatistics(sums["entropy"], sums["distance"], similarity)


@torch.enable_grad()
def head_importance(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Sensitivity of the loss to a factor at each head's output: (depth, num_heads) ≥ 0.

    The absolute gradient of a face's loss, mean over faces (Michel et al. 2019, Are Sixteen Heads
    Really Better than One, eq. 2).
    """
    total: Tensor | float = 0.0
    for batch, target in zip(inputs.split(128), labels.split(128), strict=True):
        logits, captured = forward_with_heads(model, batch)
        loss = F.cross_entropy(logits, target.to(logits.device), reduction="sum")
        outputs = [heads.outputs for heads in captured]
        gradients = torch.autograd.grad(loss, outputs)
        # The derivative at factor 1 is the sum of output times gradient, one per face and head.
        slopes = [
            (output * gradient).sum((-2, -1)).abs().sum(0)
            for output, gradient in zip(outputs, gradients, strict=True)
        ]
        total = total + torch.stack(slopes).detach().cpu()
    return total / len(inputs)


@torch.no_grad()
def pruning_curve(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: Sequence[int] | Tensor,
    batch_size: int = 512,
) -> np.ndarray:
    """Accuracy with the first 0, 1, …, all heads of `order` switched off: (1 + len(order),).

    Args:
        order: indices of heads, counted through the blocks; the first is switched off first.
    """
    num_heads = [module.num_heads for module in attention_modules(model)]
    scales = torch.ones(sum(num_heads))
    accuracies = []
    for removed in progress([[], *order], desc="prune", unit=" heads"):
        scales[removed] = 0
        with evaluating(model), scale_heads(model, scales.split(num_heads)):
            logits = [model(to_device_of(model, batch)).cpu() for batch in inputs.split(batch_size)]
        accuracies.append((torch.cat(logits).argmax(-1) == labels).float().mean().item())
    return np.array(accuracies)
