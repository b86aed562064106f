"""Fine-tuning strategies: which parts of a model train, and at what rate."""

from dataclasses import dataclass, field

import pandas as pd
from torch import nn

from fervit_lib.models import PARTS, ExpressionModel


@dataclass(frozen=True)
class Strategy:
    """What trains, and how fast.

    A model's `entry_parts` train whatever the strategy: without them nothing can enter a transformer that came from
    elsewhere.

    Attributes:
        trains: parts that train.
        lr: peak rate of a part with factor 1; None: found by fastai's `lr_find`.
        lr_factors: part → multiple of `lr`; 1 where not named.
        adapters: the model needs adapters.
        lower_blocks: which blocks make the part of that name: `none`, those below the parameter `freeze_stages`, or
            the lower `half`.
        head_first: share of the epochs in which only head and entry parts train.
    """

    trains: tuple[str, ...]
    lr: float | None
    lr_factors: dict[str, float] = field(default_factory=dict)
    adapters: bool = False
    lower_blocks: str = "none"
    head_first: float = 0.0


STRATEGIES: dict[str, Strategy] = {
    "full": Strategy(
        PARTS, lr=1e-4, lr_factors={"input_proj": 10, "head": 10, "position": 5, "adapter": 10}
    ),
    "adapter": Strategy(("adapter", "input_proj", "head"), lr=1e-3, adapters=True),
    "linear_probe": Strategy(("head",), lr=1e-3),
    "partial": Strategy(("transformer", "head"), lr=3e-4, lower_blocks="freeze_stages"),
    # fastai's `fine_tune`: head first, then everything, rates falling by tens towards the input (Howard & Ruder 2018).
    "gradual": Strategy(
        PARTS,
        lr=None,
        lr_factors={"lower_blocks": 0.01, "transformer": 0.1, "position": 0.01},
        lower_blocks="half",
        head_first=0.25,
    ),
}


@dataclass(frozen=True)
class ParameterGroup:
    """All parameters of one part of a model."""

    part: str
    parameters: list[nn.Parameter]
    trains: bool
    first: bool  # trains in the first phase already, where the strategy has one
    lr_factor: float
    weight_decay: (
        bool  # position embeddings and CLS are points, not maps: decay would pull them to 0
    )

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters)


def get_strategy(name: str) -> Strategy:
    if name not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def check_start(strategy: str, pretrained: str) -> None:
    """Refuse to freeze a transformer that nobody trained, unless it is asked for by the name `random`.

    Raises:
        ValueError: the strategy keeps blocks as they are, and `pretrained` is `none`.
    """
    trains = get_strategy(strategy).trains
    if pretrained == "none" and not {"lower_blocks", "transformer"} <= set(trains):
        raise ValueError(
            f"pretrained: {strategy} freezes the transformer, or a part of it, and with 'none' its weights are random, "
            f"a mistake that reads like a result; give it weights (imagenet, a file, mae), or say pretrained='random' "
            f"for a baseline"
        )


def parameter_groups(
    model: ExpressionModel, strategy: Strategy, *, freeze_stages: int = 6
) -> list[ParameterGroup]:
    """Every parameter of `model` exactly once, a group a part; the frozen groups first, as fastai's `freeze_to` wants.

    Args:
        freeze_stages: where the strategy's lower blocks end, if it says so.

    Raises:
        ValueError: `freeze_stages` leaves no block to train or to freeze, or the strategy needs adapters and the model
            has none.
    """
    depth = model.num_blocks
    lower = {"none": 0, "half": depth // 2, "freeze_stages": freeze_stages}[strategy.lower_blocks]
    if strategy.lower_blocks == "freeze_stages" and not 0 < freeze_stages < depth:
        raise ValueError(
            f"freeze_stages: expected 1 to {depth - 1} for this model of {depth} blocks, got {freeze_stages}"
            if depth > 1
            else "strategy: partial freezes lower blocks, and this model has no blocks to choose from"
        )
    members: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        members[model.part_of(name, lower)].append(parameter)
    if strategy.adapters and not members["adapter"]:
        raise ValueError(
            "adapter_dim: the strategy trains adapters, but the model has none; give adapter_dim=64"
        )
    fresh = {"head", "adapter", *model.entry_parts}
    groups = [
        ParameterGroup(
            part,
            parameters,
            trains=part in {*strategy.trains, *model.entry_parts},
            first=part in fresh,
            lr_factor=strategy.lr_factors.get(part, 1.0),
            weight_decay=part != "position",
        )
        for part, parameters in members.items()
        if parameters
    ]
    return sorted(groups, key=lambda group: (group.trains, group.first))


def parameter_table(groups: list[ParameterGroup]) -> pd.DataFrame:
    """Total, trainable and frozen parameters and the multiple of the learning rate: a row a part, and their sum."""
    rows = [(g.part, g.num_parameters, g.num_parameters if g.trains else 0) for g in groups]
    table = pd.DataFrame(rows, columns=["part", "parameters", "trainable"]).set_index("part")
    table["frozen"] = table["parameters"] - table["trainable"]
    table["rate factor"] = [g.lr_factor if g.trains else 0.0 for g in groups]
    table.loc["total"] = [*table[["parameters", "trainable", "frozen"]].sum(), float("nan")]
    return table.astype({"parameters": int, "trainable": int, "frozen": int})
