"""The attention of a model: watched as its forward pass uses it, heads switched off, rectified instead of softmax.

Everything here works from outside on any model whose attention modules are shaped like timm's (`num_heads`, `qkv`,
`attn_drop`, `proj`), fused or not: those of `LatentViT`, `HybridLatentViT` and timm's image ViTs, adapters or none.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIMILARITIES = ("subspace", "position", "output")
_PARTS = ("num_heads", "qkv", "attn_drop", "proj")


class RectifiedAttention(Attention):
    """timm's attention with ReLU and division by the row's sum in place of softmax: weights can be exactly 0.

    After Zhang, Titov and Sennrich 2021 (Sparse Attention with Linear Units), who divide by the root mean square of the
    output; dividing the weights keeps every row a distribution, so that maps of both kinds read alike.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, N, D) → (B, N, D). A mask raises a ValueError: rows here have no way to leave a token out."""
        if attn_mask is not None or is_causal:
            raise ValueError(
                "attn_mask: expected none, got one; rectified attention looks at every token"
            )
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        )  # (B, H, N, d)
        weights = rectify((self.q_norm(q) * self.scale) @ self.k_norm(k).transpose(-2, -1))
        heads = self.attn_drop(weights) @ v
        return self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))


def rectify(scores: Tensor, eps: float = 1e-6) -> Tensor:
    """Scores (…, N) → weights ≥ 0 that sum to 1 over the last axis; a row without a positive score is uniform."""
    positive = scores.relu() + eps
    return positive / positive.sum(-1, keepdim=True)


ATTENTIONS: dict[str, type[Attention]] = {"softmax": Attention, "rectified": RectifiedAttention}


def attention_layer(name: str) -> type[Attention]:
    """The class for timm's `attn_layer`. Raises a ValueError with the known names for an unknown one."""
    if name not in ATTENTIONS:
        raise ValueError(f"attention: expected one of {', '.join(ATTENTIONS)}, got {name!r}")
    return ATTENTIONS[name]


def set_fused_attention(model: nn.Module, fused: bool) -> None:
    """Have the attention of `model`, where it has any, run as one fused call or step by step: the same values.

    On a CPU the way back through torch's fused call takes half of a whole training step at 19 to 65 tokens; step by
    step, LatentViT and ViT-tiny train up to twice as fast there.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused


@dataclass
class Heads:
    """What the heads of one attention module did in one pass.

    `attn` and `outputs` are what the pass went on with: the gradient of its result with respect to them can be taken.
    """

    attn: Tensor  # (B, num_heads, N, N), before attention dropout: rows sum to 1
    values: Tensor  # (B, num_heads, N, head_dim)
    outputs: Tensor  # (B, num_heads, N, head_dim), as they enter the output projection


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The model's attention modules in order.

    Raises:
        ValueError: it has none, as a CNN.
    """
    modules = [
        module for module in model.modules() if all(hasattr(module, name) for name in _PARTS)
    ]
    if not modules:
        raise ValueError(
            f"model: expected a ViT with attention modules as timm's, got {type(model).__name__} without"
        )
    return modules


class _ShowWeights(TorchFunctionMode):
    """Have a fused attention call carried out by torch's own step-by-step form of it, which also gives its weights."""

    def __init__(self, open_heads: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.open_heads = (
            open_heads  # of the attention modules that are being run, the innermost last
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention or not self.open_heads:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if (
            attn_mask is not None and attn_mask.dtype == torch.bool
        ):  # the step-by-step form adds its mask to the scores
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(
                ~attn_mask, float("-inf")
            )
        output, attn = torch.ops.aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, 0.0, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )
        self.open_heads[-1]["attn"] = attn
        return F.dropout(attn, dropout_p) @ value if dropout_p else output


@contextmanager
def capture_heads(model: nn.Module) -> Iterator[list[Heads]]:
    """Every pass of `model` in the block adds one `Heads` a module, in order, to the list it gives.

    The weights kept are those that the pass multiplies its values with. On leaving, no hook stays behind.
    """
    captured: list[Heads] = []
    open_heads: list[dict[str, Tensor]] = []

    def start(module: nn.Module, inputs: tuple) -> None:
        open_heads.append({})

    def stop(module: nn.Module, inputs: tuple, output: Any) -> None:
        captured.append(Heads(**open_heads.pop()))

    def keep_weights(module: nn.Module, inputs: tuple) -> None:
        open_heads[-1]["attn"] = inputs[0]  # an unfused module hands its weights to its dropout

    def hooks_of_parts(num_heads: int) -> tuple[Any, Any]:
        def keep_values(module: nn.Module, inputs: tuple, qkv: Tensor) -> None:
            open_heads[-1]["values"] = (
                qkv.chunk(3, dim=-1)[2].unflatten(-1, (num_heads, -1)).transpose(1, 2)
            )

        def keep_outputs(module: nn.Module, inputs: tuple) -> tuple:
            outputs = open_heads[-1]["outputs"] = (
                inputs[0].unflatten(-1, (num_heads, -1)).transpose(1, 2)
            )
            return (
                outputs.transpose(1, 2).flatten(2),
            )  # the pass goes on with what is kept, and so does a gradient

        return keep_values, keep_outputs

    with ExitStack() as stack:
        for module in attention_modules(model):
            keep_values, keep_outputs = hooks_of_parts(module.num_heads)
            for handle in (
                module.register_forward_pre_hook(start),
                module.qkv.register_forward_hook(keep_values),
                module.attn_drop.register_forward_pre_hook(keep_weights),
                module.proj.register_forward_pre_hook(keep_outputs),
                module.register_forward_hook(stop),
            ):
                stack.callback(handle.remove)
        stack.enter_context(_ShowWeights(open_heads))
        yield captured


@contextmanager
def scale_heads(model: nn.Module, scales: Sequence[Tensor]) -> Iterator[None]:
    """Multiply the outputs of heads by `scales`, a tensor (num_heads,) a module: 1 leaves a head, 0 switches it off.

    Raises:
        ValueError: `scales` do not fit the model.
    """
    modules = attention_modules(model)
    expected, came = [m.num_heads for m in modules], [len(scale) for scale in scales]
    if expected != came:
        raise ValueError(f"scales: expected a number a head, {expected} by module, got {came}")

    def hook(scale: Tensor) -> Any:
        def multiply(module: nn.Module, inputs: tuple) -> tuple:
            return (
                (inputs[0].unflatten(-1, (len(scale), -1)) * scale[:, None].to(inputs[0])).flatten(
                    -2
                ),
            )

        return multiply

    with ExitStack() as stack:
        for module, scale in zip(modules, scales, strict=True):
            stack.callback(module.proj.register_forward_pre_hook(hook(scale)).remove)
        yield


def head_similarity(heads: Heads, kind: str) -> Tensor:
    """How alike the heads of a module are, (num_heads, num_heads) from -1 to 1: cosine, mean over faces and tokens.

    Args:
        kind: what is compared, the three of Li et al. 2018 (Multi-Head Attention with Disagreement Regularization):
            `subspace` the values, `position` the rows of the attention map, `output` what the heads give. The paper
            multiplies the maps without dividing by their lengths; here 1 means equal rows.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"kind: expected one of {', '.join(SIMILARITIES)}, got {kind!r}")
    vectors = {"subspace": heads.values, "position": heads.attn, "output": heads.outputs}[kind]
    unit = F.normalize(vectors.float(), dim=-1)
    return torch.einsum("bhnd,bgnd->hg", unit, unit) / (unit.shape[0] * unit.shape[2])
