"""Where a ViT looks: attention maps, rolled out over depth, weighted by gradients, over faces."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fervit_lib.models.attention import Heads, capture_heads
from fervit_lib.models.latent_vit import CodeViT


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` in eval mode; on exit every module returns to the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training


def to_device_of(model: nn.Module, x: Tensor) -> Tensor:
    return x.to(next(model.parameters()).device)


def forward_with_heads(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Heads]]:
    """The logits for inputs `x` (B, …), in eval mode, and what the heads of each block computed.

    Raises:
        ValueError: the model has no attention.
    """
    x = to_device_of(model, x).detach()
    # Where autograd is on, the input requires a gradient, so that frozen models have one, too.
    x.requires_grad_(torch.is_grad_enabled())
    with evaluating(model), capture_heads(model) as heads:
        return model(x), heads


@torch.no_grad()
def attention_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The attention of every block for inputs `x` (B, …), in eval mode.

    Returns:
        One (B, num_heads, N, N) per block: the weights that the forward pass itself uses, fused
        or not. Rows (from a token) sum to 1; token 0 is CLS.

    Raises:
        ValueError: the model has no attention.
    """
    return [heads.attn for heads in forward_with_heads(model, x)[1]]


@torch.no_grad()
def reads_cls(model: CodeViT, x: Tensor) -> bool:
    """Whether the logits depend on CLS after the last block, as all that is said of CLS assumes."""
    with evaluating(model):
        tokens = model.forward_features(to_device_of(model, x))  # (B, N, D)
        changed = tokens.index_add(1, tokens.new_zeros(1, dtype=torch.long), tokens[:, :1] + 1)
        return not torch.equal(model.forward_head(tokens), model.forward_head(changed))


@torch.enable_grad()
def gradient_maps(model: nn.Module, x: Tensor, target: Tensor | None = None) -> list[Tensor]:
    """Attention times its gradient, negative values set to 0: what speaks for a class.

    Args:
        target: (B,) class indices; None: the predicted classes.

    Returns:
        One (B, num_heads, N, N) per block.
    """
    logits, captured = forward_with_heads(model, x)
    chosen = logits.argmax(-1) if target is None else target
    # Faces do not interact, so the gradient of the sum is each face's own gradient.
    score = logits.gather(1, chosen[:, None]).sum()
    maps = [heads.attn for heads in captured]
    gradients = torch.autograd.grad(score, maps)
    return [
        (attn * gradient).relu().detach() for attn, gradient in zip(maps, gradients, strict=True)
    ]


def attention_rollout(maps: Sequence[Tensor]) -> Tensor:
    """Share of each token in CLS after all blocks: (B, N), rows sum to 1.

    A block keeps half of its input (the residual) and mixes half by its mean head; the matrices
    of the blocks are multiplied (Abnar and Zuidema 2020, Quantifying Attention Flow in
    Transformers).

    Args:
        maps: from `attention_maps`, first block first; at least one.
    """
    if not maps:
        raise ValueError("maps: expected those of at least one block, got none; see attention_maps")
    rollout = _identity(maps[0])
    for attn in maps:
        rollout = (attn.mean(1) + _identity(attn)) / 2 @ rollout
    return rollout[:, 0]


def gradient_rollout(maps: Sequence[Tensor]) -> Tensor:
    """Relevance of each token for the class, (B, N) ≥ 0: `gradient_maps` accumulated over blocks.

    CLS starts with relevance 1 (Chefer, Gur and Wolf 2021, Generic Attention-model Explainability,
    eq. 5 and 6).
    """
    relevance = _identity(maps[0]).expand(len(maps[0]), -1, -1)
    for attn in maps:
        relevance = relevance + attn.mean(1) @ relevance
    return relevance[:, 0]


def _identity(attn: Tensor) -> Tensor:
    return torch.eye(attn.shape[-1], dtype=attn.dtype, device=attn.device)


@dataclass(frozen=True)
class AttentionSummary:
    """Mean attention of groups of faces: group 0 is all faces, group 1 + c the faces of class c."""

    count: Tensor  # (G,) number of faces
    mean: Tensor  # (G, depth, num_heads, N, N); NaN for a group without faces
    half_width: Tensor  # (G, depth, num_heads, N) of the 95% CI of the row of CLS over faces


def summarise_attention(
    model: nn.Module, inputs: Tensor, labels: Tensor, num_classes: int, batch_size: int = 128
) -> AttentionSummary:
    """Mean attention for inputs (n, …), over all faces and by class of `labels` (n,).

    Memory holds the sums and the maps of one batch, whatever n is. All blocks must have the same
    number of heads.
    """
    count = torch.zeros(1 + num_classes, dtype=torch.float64)
    total = squares = 0.0
    for batch, group in zip(inputs.split(batch_size), labels.cpu().split(batch_size), strict=True):
        # (B, depth, num_heads, N, N)
        maps = torch.stack(attention_maps(model, batch), dim=1).double().cpu()
        of_class = nn.functional.one_hot(group, num_classes)
        member = torch.cat([torch.ones(len(group), 1), of_class], dim=1).double()  # (B, G)
        count += member.sum(0)
        total = total + torch.einsum("bg,blhnm->glhnm", member, maps)
        squares = squares + torch.einsum("bg,blhm->glhm", member, maps[..., 0, :] ** 2)
    mean = total / count.view(-1, 1, 1, 1, 1)
    n = count.view(-1, 1, 1, 1)
    # Unbiased: n / (n - 1) times the mean of squares less the square of the mean.
    variance = (squares / n - mean[..., 0, :] ** 2).clamp(min=0) * n / (n - 1).clamp(min=1)
    return AttentionSummary(count.long(), mean.float(), (1.96 * (variance / n).sqrt()).float())
