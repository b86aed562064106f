"""How similar tokens, layers and whole models are."""

from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.explain.attention import evaluating, to_device_of
from fervit_lib.models.latent_vit import CodeViT


def feature_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers by which models are compared: the blocks of a ViT, else the parts of a CNN.

    Parts are the children with weights, without the head; an `nn.Sequential` is replaced by its
    own children.
    """
    model = getattr(model, "body", model)  # a timm model over pixels
    if blocks := getattr(model, "blocks", None):
        return {f"block {i + 1}": block for i, block in enumerate(blocks)}
    layers = {}
    for name, child in model.named_children():
        parts = child.named_children() if isinstance(child, nn.Sequential) else [("", child)]
        for part, module in parts:
            if name != "head" and any(True for _ in module.parameters()):
                layers[f"{name} {part}".strip()] = module
    if not layers:
        raise ValueError(
            f"model: expected blocks, or children with weights, got {type(model).__name__} without"
        )
    return layers


@torch.no_grad()
def layer_features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs of all `feature_layers` for inputs (B, …): (B, N, D) of a ViT, (B, C, …) of a CNN."""
    features: dict[str, Tensor] = {}

    def store(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        features[name] = output

    with evaluating(model), ExitStack() as stack:
        for name, module in feature_layers(model).items():
            stack.enter_context(module.register_forward_hook(partial(store, name)))
        model(to_device_of(model, x))
    return features


def pool(features: Tensor, model: nn.Module) -> Tensor:
    """Features of one layer of `model` → one vector per face, (B, D).

    CLS of tokens (B, N, D), or their mean for a model without CLS; the mean over positions of a
    CNN's maps (B, C, …).
    """
    model = getattr(model, "body", model)
    if features.ndim == 2:
        return features
    if isinstance(model, CodeViT) or getattr(model, "cls_token", None) is not None:
        return features[:, 0]
    if isinstance(model, VisionTransformer):
        return features.mean(1)
    return features.flatten(2).mean(-1)


def token_similarity(tokens: Tensor) -> Tensor:
    """Cosine similarity of all pairs of tokens, (…, N, D) → (…, N, N) in [-1, 1]."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.transpose(-2, -1)


def layer_position_embeddings(model: CodeViT) -> Tensor:
    """The position embeddings of the layers in a ViT over codes: (num_tokens, embed_dim)."""
    embeddings = model.tokens.pos_embed[0, 1:]  # without CLS
    if model.tokens.band_embed is not None:
        embeddings = embeddings + model.tokens.band_embed()[0]
    return embeddings.detach().cpu()


def _gram(features: Tensor) -> Tensor:
    """Features (n, …) → inner products (n, n) float64, diagonal 0 as the unbiased HSIC needs it."""
    flat = features.flatten(1).double()
    return (flat @ flat.T).fill_diagonal_(0)


def _hsic(k: Tensor, other: Tensor) -> Tensor:
    """Unbiased HSIC (Song et al. 2012, eq. 5) of kernel matrices (…, n, n) with zero diagonals.

    The factor 1 / n(n - 3) is left out; CKA does not depend on it.
    """
    n = k.shape[-1]
    sums = k.sum(-1)
    other_sums = other.sum(-1)
    # The trace of a product of symmetric matrices, without computing the product.
    trace = (k * other).sum((-2, -1))
    means = sums.sum(-1) * other_sums.sum(-1) / ((n - 1) * (n - 2))
    return trace + means - 2 / (n - 2) * (sums * other_sums).sum(-1)


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Similarity of two representations (n, …) of the same samples: 1 up to rotation and scale.

    Centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC; with the
    biased one, few samples in many dimensions always look similar. Independent features score about
    0, possibly slightly below.
    """
    if len(a) != len(b) or len(a) < 4:
        raise ValueError(
            f"a, b: expected features of the same samples, at least 4, got {len(a)} and {len(b)}"
        )
    k = _gram(a)
    other = _gram(b)
    return float(_hsic(k, other) / (_hsic(k, k) * _hsic(other, other)).clamp(min=1e-30).sqrt())


@torch.no_grad()
def cka_matrix(
    model: nn.Module,
    other: nn.Module,
    inputs: Tensor,
    other_inputs: Tensor,
    batch_size: int = 128,
) -> tuple[np.ndarray, list[str], list[str]]:
    """CKA of every layer of `model` with every layer of `other`, on the same faces.

    Features are pooled to one vector per face (see `pool`): all tokens together are dominated by
    the residual stream, in which even an untrained model is similar to a trained one. HSIC is
    averaged over batches (Nguyen, Raghu and Kornblith 2021, section 3), so that memory holds one
    batch; a last batch of fewer than 4 is left out.

    Args:
        inputs: (n, …), as `model` takes them.
        other_inputs: the same faces, as `other` takes them.

    Returns:
        (layers of model, layers of other), and the names of the layers of both.
    """
    if len(inputs) < 4:
        raise ValueError(f"inputs: expected at least 4 samples, got {len(inputs)}")
    cross = own = others = torch.zeros(())
    for batch, other_batch in zip(
        inputs.split(batch_size), other_inputs.split(batch_size), strict=True
    ):
        n = len(batch)
        if n < 4:
            continue
        grams = _layer_grams(model, batch)
        other_grams = _layer_grams(other, other_batch)
        k = torch.stack(list(grams.values()))  # (layers, n, n)
        other_k = torch.stack(list(other_grams.values()))
        scale = 1 / (n * (n - 3))  # the factor of HSIC: batches may differ in size
        cross = cross + scale * _hsic(k[:, None], other_k[None])
        own = own + scale * _hsic(k, k)
        others = others + scale * _hsic(other_k, other_k)
    matrix = cross / (own[:, None] * others[None]).clamp(min=1e-30).sqrt()
    return matrix.cpu().numpy(), list(grams), list(other_grams)


def _layer_grams(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    features = layer_features(model, batch)
    return {name: _gram(pool(value, model)) for name, value in features.items()}
