"""Where a ViT looks: attention maps, rolled out over depth, weighted by gradient, over many faces."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fervit_lib.models.attention import capture_heads


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode in the block; afterwards every module is in the mode it was in."""
    before = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, training in before.items():
            module.training = training


@torch.no_grad()
def attention_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The attention of every block for inputs `x` (B, …): a list of (B, num_heads, N, N), from row to column.

    Weights of the forward pass itself, fused or not, in eval mode; every row sums to 1. Token 0 is CLS.

    Raises:
        ValueError: the model has no attention.
    """
    with evaluating(model), capture_heads(model) as captured:
        model(x)
    return [heads.attn for heads in captured]


def gradient_maps(model: nn.Module, x: Tensor, target: Tensor | None = None) -> list[Tensor]:
    """Attention times its gradient, negative parts cut: a list of (B, num_heads, N, N), what speaks for a class.

    Args:
        target: (B,) class numbers; default is the class that the model predicts.
    """
    with evaluating(model), torch.enable_grad(), capture_heads(model) as captured:
        logits = model(
            x.detach().requires_grad_()
        )  # so that a model whose weights are frozen can be asked, too
        chosen = logits.argmax(-1) if target is None else target
        score = logits.gather(
            1, chosen[:, None]
        ).sum()  # faces do not meet: the sum's gradient is each face's own
    maps = [heads.attn for heads in captured]
    gradients = torch.autograd.grad(score, maps)
    return [
        (attn * gradient).relu().detach() for attn, gradient in zip(maps, gradients, strict=True)
    ]


def attention_rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of each token reaches CLS through all blocks: (B, N), rows sum to 1.

    A block passes on half of what it gets (the residual) and mixes half by its mean head; blocks multiply
    (Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers).

    Args:
        maps: as `attention_maps` gives them, first block first; at least one.
    """
    if not maps:
        raise ValueError("maps: expected those of at least one block, got none; see attention_maps")
    rolled, *later = ((attn.mean(1) + _identity(attn)) / 2 for attn in maps)
    for mixed in later:
        rolled = mixed @ rolled
    return rolled[:, 0]


def gradient_rollout(maps: Sequence[Tensor]) -> Tensor:
    """Relevance of each token for the class, (B, N) ≥ 0: what `gradient_maps` add up to on the way to CLS.

    CLS starts with relevance 1 for itself (Chefer, Gur and Wolf 2021, Generic Attention-model Explainability, eq. 5–6).
    """
    relevance = _identity(maps[0]).expand(len(maps[0]), -1, -1)
    for attn in maps:
        relevance = relevance + attn.mean(1) @ relevance
    return relevance[:, 0]


def _identity(attn: Tensor) -> Tensor:
    return torch.eye(attn.shape[-1], dtype=attn.dtype, device=attn.device)


@dataclass(frozen=True)
class AttentionSummary:
    """Mean maps over groups of faces: group 0 is all faces, group 1 + c those of class c.

    `half_width` is that of a 95% interval of the row of CLS over faces: 1.96 standard errors.
    """

    count: Tensor  # (G,) faces
    mean: Tensor  # (G, depth, num_heads, N, N); of a group without faces not a number
    half_width: Tensor  # (G, depth, num_heads, N)

    @property
    def cls(self) -> Tensor:
        """What CLS gives to each token, (G, depth, num_heads, N)."""
        return self.mean[..., 0, :]


def summarise_attention(
    model: nn.Module, inputs: Tensor, labels: Tensor, num_classes: int, batch_size: int = 128
) -> AttentionSummary:
    """Mean attention over `inputs` (n, …), all and by class of `labels` (n,), a batch at a time.

    Memory holds one batch's maps and the sums, whatever n is. All blocks must have the same number of heads.
    """
    count = torch.zeros(1 + num_classes, dtype=torch.float64)
    total = squares = 0.0
    device = next(model.parameters()).device
    for batch, group in zip(inputs.split(batch_size), labels.cpu().split(batch_size), strict=True):
        maps = (
            torch.stack(attention_maps(model, batch.to(device)), dim=1).double().cpu()
        )  # (B, depth, heads, N, N)
        member = torch.cat(
            [torch.ones(len(group), 1), nn.functional.one_hot(group, num_classes)], dim=1
        ).double()
        count += member.sum(0)
        total = total + torch.einsum("bg,blhnm->glhnm", member, maps)
        squares = squares + torch.einsum("bg,blhm->glhm", member, maps[..., 0, :] ** 2)
    mean = total / count.view(-1, 1, 1, 1, 1)
    weight = count.view(-1, 1, 1, 1)
    variance = (
        (squares / weight - mean[..., 0, :] ** 2).clamp(min=0) * weight / (weight - 1).clamp(min=1)
    )
    return AttentionSummary(count.long(), mean.float(), (1.96 * (variance / weight).sqrt()).float())


def patch_map(scores: Tensor, num_prefix_tokens: int = 1) -> Tensor:
    """Scores of the tokens of an image ViT (B, N) → maps (B, side, side) over the image, CLS and registers left out.

    Raises:
        ValueError: the patches make no square.
    """
    patches = scores[:, num_prefix_tokens:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ValueError(
            f"scores: expected a square number of patches after {num_prefix_tokens} prefix tokens, "
            f"got {patches.shape[1]}"
        )
    return patches.unflatten(1, (side, side))


def image_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What an image ViT looks at in `images` (B, 3, H, W), by method a map (B, side, side) over the patches.

    `attention` is that of CLS in the last block, mean over heads; `gradient rollout` speaks for the predicted class.
    """
    images = images.to(next(model.parameters()).device)
    images = images if images.is_floating_point() else images.float() / 255
    maps, prefix = attention_maps(model, images), model.body.num_prefix_tokens
    scores = {
        "attention": maps[-1].mean(1)[:, 0],
        "rollout": attention_rollout(maps),
        "gradient rollout": gradient_rollout(gradient_maps(model, images)),
    }
    return {name: patch_map(score, prefix).cpu() for name, score in scores.items()}
