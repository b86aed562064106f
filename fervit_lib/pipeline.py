"""The configuration of an experiment: which variants of each step run, and with which parameters.

The Snakefile builds its rules from these functions. Nothing heavy is imported here, because every
call of Snakemake and every kernel of a sweep waits for it.
"""

import ast
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fervit_lib.system.names import check_name, check_value, near

PROJECT_ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {
    "tour": "notebooks/00_tour.ipynb",
    "encode": "notebooks/01_encode.ipynb",
    "train": "notebooks/02_train.ipynb",
    "distill": "notebooks/03_distill.ipynb",
    "evaluate": "notebooks/04_evaluate.ipynb",
    "explain": "notebooks/05_attention_explorer.ipynb",
}
KEYS = (*NOTEBOOKS, "experiment", "question", "reports", "data_dir")
# The parameters whose values name a variant, as in hybrid-adapter-seed0.
NAMED_BY = {
    "encode": ["encoder"],
    "train": ["approach", "strategy", "seed"],
}
RESERVED = {"experiment", "variant", "reports", "data_dir", "latents", "interactive"}


class Parameter(NamedTuple):
    """A parameter of a notebook."""

    type: str  # str, int, float or bool
    default: Any


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook: the annotated assignments in its cell tagged `parameters`.

    Defaults are read as Python literals; nothing is executed.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    # papermill, too, reads the first tagged cell only.
    cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return {
        ast.unparse(line.target): Parameter(
            ast.unparse(line.annotation), ast.literal_eval(line.value)
        )
        for line in ast.parse("".join(cell["source"])).body
        if isinstance(line, ast.AnnAssign) and line.value
    }


def check_block(where: str, notebook: str, block: Any, reserved: set[str] = RESERVED) -> None:
    """Check that a block names parameters of `notebook` and gives values of their types.

    Args:
        where: the block's name in error messages.
        reserved: parameters that a block must not set.

    Raises:
        ValueError: it is no mapping, has an unknown or reserved name, an empty list or a value of
            another type.
    """
    if not isinstance(block, dict):
        raise ValueError(
            f"{where}: expected parameters of {notebook} as `name: value`, got {block!r}"
        )
    known = read_parameters(PROJECT_ROOT / notebook)
    free = set(known) - reserved
    for name, value in block.items():
        if name not in free:
            raise ValueError(
                f"{where}.{name}: {notebook} has no such parameter to set; {near(name, free)}"
            )
        if value == []:
            raise ValueError(f"{where}.{name}: expected a value or a list of values, got []")
        for entry in value if isinstance(value, list) else [value]:
            check_value(f"{where}.{name}", entry, known[name].type)


def variants(step: str, blocks: Any) -> dict[str, dict[str, Any]]:
    """The variants of one step as {name: parameters}.

    Args:
        blocks: a mapping `parameter: value`, or a list of such mappings. A list as a value stands
            for one variant per entry.

    Raises:
        ValueError: see `check_block`; or two variants have the same name, or one that cannot name a
            folder.
    """
    known = read_parameters(PROJECT_ROOT / NOTEBOOKS[step])
    named_by = NAMED_BY.get(step, [])
    variants_of_step: dict[str, dict[str, Any]] = {}
    for block in blocks if isinstance(blocks, list) else [blocks]:
        check_block(step, NOTEBOOKS[step], block)
        axes = {key: v if isinstance(v, list) else [v] for key, v in sorted(block.items())}
        varied = [key for key in block if isinstance(block[key], list)]
        for values in itertools.product(*axes.values()):
            parameters = dict(zip(axes, values, strict=True))
            words = []
            for key in named_by:
                value = parameters.get(key, known[key].default)
                words.append(f"seed{value}" if key == "seed" else str(value))
            words += [f"{key}={parameters[key]}" for key in varied if key not in named_by]
            name = check_name(step, "-".join(words) or "all")
            if name in variants_of_step:
                raise ValueError(
                    f"{step}: two blocks make the variant {name!r}; "
                    "write what tells them apart as a list, which becomes part of the name"
                )
            variants_of_step[name] = parameters
    return variants_of_step


def read_config(config: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Check the configuration of an experiment and return {step: {variant: parameters}}.

    A step that is not mentioned runs once with the notebook's defaults, except `tour` and
    `distill`, which are left out, as is a step with `[]`.

    Raises:
        ValueError: names the key, what was expected and what it got.
    """
    for key in config:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}; {near(key, KEYS)}")
    if not isinstance(config.get("experiment"), str):
        raise ValueError("expected `experiment: <name>`, which names the folder under reports/")
    check_name("experiment", config["experiment"])
    blocks = {"tour": [], "distill": []} | dict(config)
    plan = {}
    for step in NOTEBOOKS:
        block = blocks.get(step)
        plan[step] = variants(step, {} if block is None else block)
    if len(plan["encode"]) != 1:
        raise ValueError(
            f"encode: expected one encoder, got {', '.join(plan['encode']) or 'none'}; "
            "write one configuration for each"
        )
    return plan


def find_teachers(trainings: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, list[str]]:
    """The variants of `train` that each variant waits for: its teacher, or none.

    Args:
        trainings: {variant: parameters}, as in `read_config`.
        folder: `reports/<experiment>/train`. A teacher outside of it has to exist already.
    """
    teachers = {}
    for variant, parameters in trainings.items():
        path = Path(PROJECT_ROOT, parameters.get("teacher", "")).resolve()
        above = {path, *path.parents}
        teachers[variant] = [
            v for v in trainings if Path(PROJECT_ROOT, folder, v).resolve() in above
        ]
    return teachers
