"""How alike tokens, layers and whole models are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fervit_lib.explain.attention import evaluating
from fervit_lib.models.latent_vit import CodeViT

KERNELS = ("linear", "rbf")


def feature_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that a comparison of models looks at: the blocks of a ViT, else the parts of a CNN, by name.

    Parts are the children that have weights, the head left out; one that is a plain sequence is taken apart.
    """
    model = getattr(model, "body", model)  # a timm model over pixels
    blocks = getattr(model, "blocks", None)
    if blocks is not None:
        return {f"block {i + 1}": block for i, block in enumerate(blocks)}
    layers = {}
    for name, child in model.named_children():
        parts = child.named_children() if isinstance(child, nn.Sequential) else [("", child)]
        for part, module in parts:
            if name != "head" and any(True for _ in module.parameters()):
                layers[f"{name} {part}".strip()] = module
    if not layers:
        raise ValueError(
            f"model: expected blocks or children with weights, got {type(model).__name__} without"
        )
    return layers


@contextmanager
def capture_features(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The output of each layer in the latest pass, by the layer's name. No hook stays behind."""
    features: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            features[name] = output

        return hook

    with ExitStack() as stack:
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(keep(name)).remove)
        yield features


@torch.no_grad()
def layer_features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Inputs (B, …) → the output of every one of `feature_layers`: (B, N, D) of a ViT, (B, C, …) of a CNN."""
    with evaluating(model), capture_features(feature_layers(model)) as features:
        model(x)
    return dict(features)


def pool(features: Tensor, model: nn.Module) -> Tensor:
    """What `model` has in one of its layers as one vector a face, (B, D).

    Of tokens (B, N, D) CLS, or their mean where the model has no CLS; of a CNN's maps (B, C, …) the mean over places.
    """
    model = getattr(model, "body", model)
    if features.ndim == 2:
        return features
    if isinstance(model, CodeViT) or getattr(model, "cls_token", None) is not None:
        return features[:, 0]
    return (
        features.mean(1) if isinstance(model, VisionTransformer) else features.flatten(2).mean(-1)
    )


def cls_similarity(tokens: Tensor) -> Tensor:
    """Cosine of CLS and each token, (B, N, D) → (B, N), -1 to 1.

    It says how alike two vectors have become, not which of them was read: attention is the other one.
    """
    return F.cosine_similarity(tokens[:, :1], tokens, dim=-1)


def token_similarity(tokens: Tensor) -> Tensor:
    """Cosine of each two tokens, (…, N, D) → (…, N, N), -1 to 1."""
    unit = F.normalize(tokens, dim=-1)
    return unit @ unit.transpose(-2, -1)


def layer_position_embeddings(model: nn.Module) -> Tensor:
    """What a ViT over codes adds to the token of each layer to say its place, (num_tokens, embed_dim)."""
    places = (
        model.tokens.pos_embed[0, 1:]
        if model.tokens.band_embed is None
        else (model.tokens.pos_embed[:, 1:] + model.tokens.band_embed())[0]
    )
    return places.detach().cpu()


def _gram(features: Tensor, kernel: str) -> Tensor:
    """Features (n, …) → kernel of each two samples (n, n), float64, the diagonal 0 as the unbiased estimator wants."""
    flat = features.flatten(1).double()
    if kernel == "linear":
        gram = flat @ flat.T
    elif kernel == "rbf":
        squared = torch.cdist(flat, flat).square()
        width = squared[~torch.eye(len(flat), dtype=torch.bool, device=flat.device)].median()
        gram = (
            -squared / width.clamp(min=1e-12)
        ).exp()  # bandwidth: the median distance, whatever the scale
    else:
        raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, got {kernel!r}")
    return gram.fill_diagonal_(0)


def _hsic(k: Tensor, other: Tensor) -> Tensor:
    """Unbiased HSIC of grams (…, n, n) with a zero diagonal (Song et al. 2012, eq. 5), the factor 1 / n(n-3) left out.

    A factor common to all drops out of CKA.
    """
    n = k.shape[-1]
    sums, other_sums = k.sum(-1), other.sum(-1)
    trace = (k * other).sum((-2, -1))
    means = sums.sum(-1) * other_sums.sum(-1) / ((n - 1) * (n - 2))
    return trace + means - 2 / (n - 2) * (sums * other_sums).sum(-1)


def _cka(a: Tensor, b: Tensor, kernel: str) -> float:
    if len(a) != len(b) or len(a) < 4:
        raise ValueError(
            f"a, b: expected features of the same samples, at least 4, got {len(a)} and {len(b)}"
        )
    k, other = _gram(a, kernel), _gram(b, kernel)
    return float(_hsic(k, other) / (_hsic(k, k) * _hsic(other, other)).clamp(min=1e-30).sqrt())


def linear_cka(a: Tensor, b: Tensor) -> float:
    """How alike two representations (n, …) of the same samples are: 1 up to rotation and scale, near 0 if independent.

    Centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC, so that few samples in many
    dimensions do not look alike by themselves; of independent features it may come out slightly below 0.
    """
    return _cka(a, b, "linear")


def rbf_cka(a: Tensor, b: Tensor) -> float:
    """As `linear_cka` with a Gaussian kernel as wide as the median distance: near neighbours count, far ones do not."""
    return _cka(a, b, "rbf")


@torch.no_grad()
def cka_matrix(
    model: nn.Module,
    other: nn.Module,
    inputs: Tensor,
    kernel: str = "linear",
    *,
    other_inputs: Tensor | None = None,
    pooled: bool = True,
    batch_size: int = 128,
) -> tuple[np.ndarray, list[str], list[str]]:
    """CKA of every layer of `model` (rows) with every layer of `other` (columns), on the same faces.

    HSIC is summed over batches before it is divided (Nguyen, Raghu and Kornblith 2021, section 3), so that memory
    holds one batch; a last batch of fewer than 4 is left out.

    Args:
        inputs: (n, …), as `model` takes them.
        other_inputs: the same faces as `other` takes them; None: as `model` does.
        pooled: compare one vector a face, see `pool`. All tokens together are mostly the residual path, which carries
            the input through: by them even a model that learned nothing looks like one that did.

    Returns:
        (rows, columns) float, and the layers' names of both models.
    """
    cross = own = others = 0.0
    asked = (model, inputs), (other, inputs if other_inputs is None else other_inputs)
    if len(asked[0][1]) != len(asked[1][1]):
        raise ValueError(
            f"other_inputs: expected the same {len(inputs)} faces, got {len(asked[1][1])}"
        )
    for batches in zip(*(faces.split(batch_size) for _, faces in asked), strict=True):
        if len(batches[0]) < 4:
            continue
        found = []
        for (network, _), batch in zip(asked, batches, strict=True):
            features = layer_features(network, batch.to(next(network.parameters()).device))
            grams = [_gram(pool(f, network) if pooled else f, kernel) for f in features.values()]
            found.append((list(features), torch.stack(grams)))
        (rows, grams), (columns, other_grams) = found
        batch = batches[0]
        scale = 1 / (
            len(batch) * (len(batch) - 3)
        )  # makes each batch an unbiased estimate of the same
        cross = cross + scale * _hsic(grams[:, None], other_grams[None])
        own = own + scale * _hsic(grams, grams)
        others = others + scale * _hsic(other_grams, other_grams)
    if isinstance(cross, float):
        raise ValueError(f"inputs: expected at least 4 samples, got {len(inputs)}")
    return (
        (cross / (own[:, None] * others[None]).clamp(min=1e-30).sqrt()).cpu().numpy(),
        rows,
        columns,
    )
