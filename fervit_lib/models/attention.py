"""Attention of a model: captured from its own forward pass, heads scaled, ReLU instead of softmax.

Everything here works from outside, by hooks, on any model whose attention modules have timm's
submodules: `LatentViT`, `HybridLatentViT` and timm's image ViTs, with or without adapters.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, trunc_normal_
from torch import Tensor, nn

from fervit_lib.system.names import check_choice

SIMILARITIES = ("subspace", "position", "output")
_SUBMODULES = ("num_heads", "qkv", "attn_drop", "proj")


class RectifiedAttention(Attention):
    """timm's attention with ReLU instead of softmax, so that weights can be exactly 0.

    After Zhang, Titov and Sennrich 2021 (Sparse Attention with Linear Units). They divide the
    output by its root mean square; here the weights are divided, so that every row is a
    distribution, comparable with a softmax map.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, N, D) → (B, N, D); `attn_mask` is added to the scores.

        Raises:
            ValueError: a mask of bools, or a causal one, neither of which is supported.
        """
        if is_causal or (attn_mask is not None and attn_mask.dtype == torch.bool):
            raise ValueError("attn_mask: rectified attention adds a mask, expected numbers or None")
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, num_heads, N, head_dim) each
        scores = (self.q_norm(q) * self.scale) @ self.k_norm(k).transpose(-2, -1)
        attn = rectify(scores if attn_mask is None else scores + attn_mask)
        outputs = self.attn_drop(attn) @ v
        return self.proj_drop(self.proj(outputs.transpose(1, 2).flatten(2)))


def rectify(scores: Tensor) -> Tensor:
    """Scores (…, N) → weights ≥ 0 that sum to 1 over the last axis; uniform if no score is > 0."""
    positive = scores.relu() + 1e-6  # no division by 0
    return positive / positive.sum(-1, keepdim=True)


ATTENTIONS = {"softmax": Attention, "rectified": RectifiedAttention}


class RelativeAttention(Attention):
    """Attention with a learned bias for each head and signed distance of tokens.

    As the relative positions of Raffel et al. 2020 (T5, section 2.1), without their buckets. CLS
    stands before the first layer: without a bias for it, the last block could not tell layers
    apart.
    """

    num_tokens: int  # layers of a code, set by `relative`

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.relative_bias = nn.Parameter(torch.zeros(self.num_heads, 2 * self.num_tokens + 1))
        trunc_normal_(self.relative_bias, std=0.02)
        places = torch.arange(1 + self.num_tokens)
        distances = places - places[:, None] + self.num_tokens  # (N, N), from 0
        self.register_buffer("distances", distances, persistent=False)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if x.shape[1] != 1 + self.num_tokens:
            raise ValueError(
                f"position: relative needs CLS and all {self.num_tokens} layers, got {x.shape[1]} "
                f"tokens; mae hides some: use another position, or pretrained='none'"
            )
        return super().forward(x, self.relative_bias[:, self.distances])  # (num_heads, N, N)


def relative(attention: type[Attention], num_tokens: int) -> type[Attention]:
    """`attention` with the relative positions of `RelativeAttention`."""
    return type("RelativeAttention", (RelativeAttention, attention), {"num_tokens": num_tokens})


def set_fused_attention(model: nn.Module, fused: bool) -> None:
    """Compute the attention of `model`, if any, by one fused call or step by step.

    On a CPU the backward pass of torch's fused call takes half of a training step at 19 to 65
    tokens: LatentViT and ViT-tiny train up to twice as fast step by step.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused


@dataclass
class Heads:
    """What the heads of one attention module computed in one pass, part of its autograd graph."""

    attn: Tensor  # (B, num_heads, N, N), before attention dropout: rows sum to 1
    values: Tensor  # (B, num_heads, N, head_dim)
    outputs: Tensor  # (B, num_heads, N, head_dim), the input of the output projection


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The model's attention modules in order.

    Raises:
        ValueError: it has none, such as a CNN.
    """
    modules = [m for m in model.modules() if all(hasattr(m, name) for name in _SUBMODULES)]
    if not modules:
        raise ValueError(
            f"model: expected a ViT with timm's attention modules, {type(model).__name__} has none"
        )
    return modules


@contextmanager
def capture_heads(model: nn.Module) -> Iterator[list[Heads]]:
    """Within the block, every pass of `model` appends one `Heads` per attention module.

    Attention is computed step by step meanwhile, since a fused call does not give its weights.
    Afterwards no hook is left, and `fused_attn` is as before.
    """
    captured: list[Heads] = []
    with ExitStack() as stack:
        for module in attention_modules(model):
            stack.callback(setattr, module, "fused_attn", getattr(module, "fused_attn", False))
            module.fused_attn = False
            for handle in _hook_heads(module, captured):
                stack.enter_context(handle)
        yield captured


def _hook_heads(module: nn.Module, captured: list[Heads]) -> list:
    """Handles of the hooks that append to `captured` what the heads of `module` compute."""
    heads = {}

    def split(tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)  # (B, H, N, head_dim)

    def keep_values(qkv_layer: nn.Module, inputs: tuple, qkv: Tensor) -> None:
        heads["values"] = split(qkv.chunk(3, dim=-1)[2])

    def keep_weights(attn_drop: nn.Module, inputs: tuple) -> None:
        heads["attn"] = inputs[0]

    def keep_outputs(proj: nn.Module, inputs: tuple) -> tuple:
        heads["outputs"] = split(inputs[0])
        # The pass continues with the captured tensor, so that a gradient with respect to it exists.
        return (heads["outputs"].transpose(1, 2).flatten(2),)

    def append(attention: nn.Module, inputs: tuple, output: Tensor) -> None:
        captured.append(Heads(**heads))
        heads.clear()

    return [
        module.qkv.register_forward_hook(keep_values),
        module.attn_drop.register_forward_pre_hook(keep_weights),
        module.proj.register_forward_pre_hook(keep_outputs),
        module.register_forward_hook(append),
    ]


@contextmanager
def scale_heads(model: nn.Module, scales: Sequence[Tensor]) -> Iterator[None]:
    """Multiply the outputs of heads by `scales`: 1 keeps a head, 0 removes it.

    Args:
        scales: one tensor (num_heads,) per attention module.

    Raises:
        ValueError: `scales` do not fit the model.
    """
    modules = attention_modules(model)
    expected = [module.num_heads for module in modules]
    got = [len(scale) for scale in scales]
    if expected != got:
        raise ValueError(
            f"scales: expected {expected} values, one per head of each module, got {got}"
        )

    def multiply(scale: Tensor, proj: nn.Module, inputs: tuple) -> tuple:
        outputs = inputs[0].unflatten(-1, (len(scale), -1))  # (B, N, num_heads, head_dim)
        return ((outputs * scale[:, None].to(outputs)).flatten(-2),)

    with ExitStack() as stack:
        for module, scale in zip(modules, scales, strict=True):
            stack.enter_context(module.proj.register_forward_pre_hook(partial(multiply, scale)))
        yield


def head_similarity(heads: Heads, kind: str) -> Tensor:
    """Cosine similarity of the heads of a module, (num_heads, num_heads) in [-1, 1].

    Mean over faces and tokens.

    Args:
        kind: what is compared, after Li et al. 2018 (Multi-Head Attention with Disagreement
            Regularization): `subspace` the values, `position` the rows of the attention map,
            `output` the outputs of the heads. The paper multiplies maps without normalising them;
            here 1 means equal rows.
    """
    check_choice("kind", kind, SIMILARITIES)
    vectors = {"subspace": heads.values, "position": heads.attn, "output": heads.outputs}[kind]
    # Half precision is too coarse for the sums; float64 stays.
    unit = F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
    return torch.einsum("bhnd,bgnd->hg", unit, unit) / (unit.shape[0] * unit.shape[2])
