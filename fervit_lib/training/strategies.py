"""Fine-tuning strategies: which parts of a model train, and at what learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from fervit_lib.models import PARTS, ExpressionModel
from fervit_lib.system.names import check_choice


@dataclass(frozen=True)
class Strategy:
    """Which parts of a model train, and at what rates.

    A model's `entry_parts` train with every strategy: they map its inputs to the width of a
    pretrained transformer, and have no pretrained weights.

    Attributes:
        trains: parts that train.
        lr: peak rate of a part with factor 1.
        lr_factors: part → multiple of `lr`; default 1.
        adapters: the model needs adapters.
        lower_blocks: which blocks form the part of that name: `none`, those below the parameter
            `freeze_stages`, or the lower `half`.
        fine_tune: only the head, adapters and the entry parts train in the first epoch; the rates
            of both phases are those of fastai's `fine_tune`.
    """

    trains: tuple[str, ...]
    lr: float
    lr_factors: dict[str, float] = field(default_factory=dict)
    adapters: bool = False
    lower_blocks: str = "none"
    fine_tune: bool = False


STRATEGIES = {
    "full": Strategy(
        PARTS, lr=1e-4, lr_factors={"input_proj": 10, "head": 10, "position": 5, "adapter": 10}
    ),
    "adapter": Strategy(("adapter", "input_proj", "head"), lr=1e-3, adapters=True),
    "linear_probe": Strategy(("head",), lr=1e-3),
    "partial": Strategy(("transformer", "head"), lr=3e-4, lower_blocks="freeze_stages"),
    # As fastai's `fine_tune`: head first, then everything, with lower rates towards the input
    # (Howard & Ruder 2018).
    "gradual": Strategy(
        PARTS,
        lr=2e-3,
        lr_factors={"lower_blocks": 0.01, "transformer": 0.1, "position": 0.01},
        lower_blocks="half",
        fine_tune=True,
    ),
}


@dataclass(frozen=True)
class ParameterGroup:
    """All parameters of one part of a model."""

    part: str
    parameters: list[nn.Parameter]
    trains: bool = True
    first: bool = True  # trains in the first phase, too, if the strategy has two
    lr_factor: float = 1.0
    weight_decay: bool = True


def single_group(model: nn.Module) -> list[ParameterGroup]:
    """All parameters of `model` as one group that trains."""
    return [ParameterGroup("all", list(model.parameters()))]


def get_strategy(name: str, pretrained: str = "imagenet") -> Strategy:
    """The strategy `name` for a model that starts from `pretrained`.

    Raises:
        ValueError: no such strategy; or it freezes blocks, and `pretrained` is `none`: random
            blocks are frozen only for a baseline, `random`.
    """
    check_choice("strategy", name, STRATEGIES)
    strategy = STRATEGIES[name]
    if pretrained == "none" and not {"lower_blocks", "transformer"} <= set(strategy.trains):
        raise ValueError(
            f"pretrained: expected weights for strategy {name}, which freezes blocks of the "
            f"transformer, got 'none'; use imagenet, a file or mae, or pretrained='random' for a "
            f"baseline with random frozen blocks"
        )
    return strategy


def parameter_groups(
    model: ExpressionModel,
    strategy: Strategy,
    *,
    freeze_stages: int = 6,
    layerwise_lr: bool | None = None,
) -> list[ParameterGroup]:
    """One group per part, with every parameter of `model` in exactly one group.

    Frozen groups come first, as fastai's `freeze_to` expects.

    Args:
        freeze_stages: number of lower blocks, for a strategy whose `lower_blocks` it is.
        layerwise_lr: whether the strategy's `lr_factors` apply; None: unless the model has one
            rate, and the strategy is not `fine_tune`.

    Raises:
        ValueError: `freeze_stages` leaves no block to train or to freeze; or the strategy needs
            adapters, and the model has none.
    """
    if layerwise_lr is None:
        layerwise_lr = strategy.fine_tune or not model.one_rate
    depth = model.num_blocks
    if strategy.lower_blocks == "freeze_stages" and depth < 2:
        raise ValueError(
            f"strategy: partial freezes lower blocks, expected a model with blocks, got {depth}; "
            f"use another strategy"
        )
    if strategy.lower_blocks == "freeze_stages" and not 0 < freeze_stages < depth:
        raise ValueError(
            f"freeze_stages: expected 1 to {depth - 1} for this model of {depth} blocks, got "
            f"{freeze_stages}"
        )
    lower = {"none": 0, "half": depth // 2, "freeze_stages": freeze_stages}[strategy.lower_blocks]
    members: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        members[model.part_of(name, lower)].append(parameter)
    if strategy.adapters and not members["adapter"]:
        raise ValueError(
            "adapter_dim: the strategy trains adapters, expected a model with adapters, got none; "
            "set adapter_dim=64"
        )
    # Without pretrained weights: these train with any strategy, and first.
    trained = {*strategy.trains, *model.entry_parts}
    new_parts = {"head", "adapter", *model.entry_parts}
    groups = [
        ParameterGroup(
            part,
            parameters,
            trains=part in trained,
            first=part in new_parts,
            lr_factor=strategy.lr_factors.get(part, 1.0) if layerwise_lr else 1.0,
            # Weight decay would pull position embeddings and CLS, which are vectors of their own
            # rather than maps of inputs, towards 0.
            weight_decay=part != "position",
        )
        for part, parameters in members.items()
        if parameters
    ]
    # A stable sort: parts keep the order of PARTS, and freeze_to(n) freezes the first n groups.
    return sorted(groups, key=lambda group: (group.trains, group.first))


@torch.inference_mode()
def model_table(model: nn.Module, groups: Sequence[ParameterGroup], inputs: Tensor) -> pd.DataFrame:
    """One row per module with parameters, down to the second level, and their total.

    Args:
        inputs: a batch, as the model takes it; one forward pass on it gives the shapes.

    Returns:
        Columns part, output shape, parameters, trainable, learning-rate factor; by module. A module
        whose parameters belong to several parts has a row for each.
    """
    shapes = {}

    def note_shape(module: nn.Module, args: Any, output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        shapes[module] = ", ".join(f"{tuple(tensor.shape)}" for tensor in outputs)

    with register_module_forward_hook(note_shape):  # of all modules
        model.eval()(inputs)
    rows = []
    for name, module in model.named_modules():
        if name.count(".") > 1:
            continue
        # Modules below the second level count for the one on it.
        own = {id(parameter) for parameter in module.parameters(recurse=name.count(".") == 1)}
        for group in groups:
            size = sum(p.numel() for p in group.parameters if id(p) in own)
            factor = group.lr_factor if group.trains else 0.0
            if size:
                trainable = size if group.trains else 0
                shape = shapes.get(module, "")
                rows.append((name or "model", group.part, shape, size, trainable, factor))
    columns = ["part", "output shape", "parameters", "trainable", "learning-rate factor"]
    table = pd.DataFrame(rows, columns=["module", *columns]).set_index("module")
    sums = table[["parameters", "trainable"]].sum()
    table.loc["total"] = ["", shapes[model], *sums, float("nan")]
    return table.astype({"parameters": int, "trainable": int})
