"""The base class of all models: what training and evaluation need to know about one."""

from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

# From the part that changes least in fine-tuning to the one that changes most.
PARTS = ("lower_blocks", "transformer", "position", "adapter", "input_proj", "head")


class ExpressionModel(nn.Module):
    """Codes or images → logits (B, num_classes).

    A subclass defines `forward_features` (inputs → features) and `forward_head` (features →
    logits).

    Attributes:
        reads: what the model takes: `codes`, `pixels` or `both`.
        one_rate: the model's recipe has one learning rate for all parts.
        input_shape: shape of one input, without the batch dimension.
        parts: the part of each parameter, by the beginning of its name (up to a dot); the first
            entry that matches decides. Values are those of `PARTS`, or `blocks` for a numbered
            sequence of blocks, see `part_of`.
        entry_parts: parts that always train, whatever the strategy: without them no input can enter
            a pretrained transformer.
        face_size: longest side of the faces that it learned from, in pixels; 0: not trained yet.
        built_with: the arguments of its constructor, positional and by name, from which a
            checkpoint builds it again.
    """

    reads: ClassVar[Literal["codes", "pixels", "both"]]
    parts: ClassVar[dict[str, str]]
    one_rate: ClassVar[bool] = False
    entry_parts: ClassVar[tuple[str, ...]] = ()
    face_size: int = 0
    input_shape: tuple[int, ...]
    built_with: tuple[tuple, dict]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        model = super().__new__(cls)
        # Not by setattr: nn.Module has not been initialised yet.
        vars(model)["built_with"] = (args, options)
        return model

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks; 0 for a model without."""
        return len(getattr(self, "blocks", ()))

    def part_of(self, name: str, lower_blocks: int = 0) -> str:
        """The part that the parameter `name` belongs to, one of `PARTS`.

        Args:
            lower_blocks: blocks with a lower index form the part of that name; the others are
                `transformer`.

        Raises:
            ValueError: no entry of `parts` matches, so that no new parameter is forgotten.
        """
        for prefix, part in self.parts.items():
            if not f"{name}.".startswith(f"{prefix}."):
                continue
            if part != "blocks":
                return part
            index, *inner = name.removeprefix(f"{prefix}.").split(".")
            if inner[0] == "adapter":
                return "adapter"
            if inner[-1] == "relative_bias":
                return "position"
            return "lower_blocks" if int(index) < lower_blocks else "transformer"
        raise ValueError(
            f"parameter {name!r} belongs to no part; add its first names to "
            f"{type(self).__name__}.parts"
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(inputs))
