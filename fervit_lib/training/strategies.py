"""Fine-tuning strategies: which parts of a model train, and at what rate."""

from dataclasses import dataclass, field

import pandas as pd
from torch import nn

# The first name that a parameter's name starts with says its part; `transformer` is the rest.
_PREFIXES = {
    "head": "head",
    "input_proj": "input_proj",
    "cls_token": "position",
    "pos_embed": "position",
    "blocks": "transformer",
    "norm": "transformer",
}
PARTS = ("transformer", "position", "input_proj", "head")


@dataclass(frozen=True)
class Strategy:
    """What trains, and how fast.

    A model's `entry_parts` train whatever the strategy: without them nothing can enter a transformer that came from
    elsewhere.
    """

    trains: tuple[str, ...]
    lr: float
    lr_factors: dict[str, float] = field(default_factory=dict)  # part → multiple of lr; 1 where not named


STRATEGIES: dict[str, Strategy] = {
    "full": Strategy(PARTS, lr=1e-4, lr_factors={"input_proj": 10, "head": 10, "position": 5}),
    "linear_probe": Strategy(("head",), lr=1e-3),
}


@dataclass(frozen=True)
class ParameterGroup:
    """All parameters of one part of a model."""

    part: str
    parameters: list[nn.Parameter]
    trains: bool
    lr: float
    weight_decay: bool  # position embeddings and CLS are points, not maps: decay would pull them to 0

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters)


def get_strategy(name: str) -> Strategy:
    if name not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name.

    Raises:
        ValueError: no part claims it, so that none is forgotten when a model grows.
    """
    for prefix, part in _PREFIXES.items():
        if name == prefix or name.startswith(prefix + "."):
            return part
    raise ValueError(f"parameter {name!r} belongs to no part; name it after one of {', '.join(_PREFIXES)}")


def parameter_groups(model: nn.Module, strategy: Strategy, lr: float | None = None) -> list[ParameterGroup]:
    """Every parameter of `model` exactly once, a group a part; the frozen groups first, as fastai's `freeze_to` wants.

    Args:
        lr: overrides the strategy's base rate.
    """
    members: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        members[part_of(name)].append(parameter)
    trained = {*strategy.trains, *model.entry_parts}
    base = strategy.lr if lr is None else lr
    groups = [
        ParameterGroup(part, parameters, part in trained, base * strategy.lr_factors.get(part, 1), part != "position")
        for part, parameters in members.items()
        if parameters
    ]
    return sorted(groups, key=lambda group: group.trains)


def parameter_table(groups: list[ParameterGroup]) -> pd.DataFrame:
    """What trains: a row a part, and their sum."""
    rows = [(g.part, g.num_parameters, g.num_parameters if g.trains else 0, g.lr if g.trains else 0.0) for g in groups]
    table = pd.DataFrame(rows, columns=["part", "parameters", "trainable", "learning rate"]).set_index("part")
    table.loc["total"] = [table["parameters"].sum(), table["trainable"].sum(), float("nan")]
    return table.astype({"parameters": int, "trainable": int})
