"""The configuration of an experiment: which variants of each step run, and with which parameters.

The Snakefile builds its rules from these functions. Nothing heavy is imported here, because every
call of Snakemake and every kernel of a sweep waits for it.
"""

import ast
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fervit_lib.system.names import (
    PROJECT_ROOT,
    check_name,
    check_value,
    cut,
    near,
    show,
    split_names,
)
from fervit_lib.system.yaml_files import read_yaml

NOTEBOOKS = {
    "tour": "notebooks/00_tour.ipynb",
    "encode": "notebooks/01_encode.ipynb",
    "train": "notebooks/02_train.ipynb",
    "distill": "notebooks/03_distill.ipynb",
    "evaluate": "notebooks/04_evaluate.ipynb",
    "explain": "notebooks/05_attention_explorer.ipynb",
}
KEYS = (*NOTEBOOKS, "experiment", "question", "reports", "data_dir")
# The parameters whose values name a variant, as in hybrid-adapter-seed0. Where an experiment has
# several data sets, the name of each variant of `encode` begins with its data set.
NAMED_BY = {
    "encode": ["encoder"],
    "train": ["approach", "strategy", "seed"],
}
LEARNED = "autoencoder"  # the encoder that 01_encode computes; others are files
RESERVED = {
    "experiment",
    "variant",
    "reports",
    "data_dir",
    "latents",
    "interactive",
    "overwrite",
    "trained",
}
# Parameters with several names: a list is one value.
SEVERAL = {"test_on", "baselines", "feature_arms"}


# The variants of a step, and the parameters of each, by name.
Variants = dict[str, dict]


class Parameter(NamedTuple):
    """A parameter of a notebook."""

    type: str  # one of `names.TYPES`
    default: Any


# What a block has beside the parameters of its notebook: a training names its codes.
OWN_KEYS = {"train": {"encode": Parameter("str", "")}}


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
            f"{where}: expected parameters of {notebook} as `name: value`, got {show(block)}"
        )
    known = read_parameters(PROJECT_ROOT / notebook) | OWN_KEYS.get(where, {})
    free = set(known) - reserved
    for name, value in block.items():
        if name not in free:
            raise ValueError(
                f"{where}.{cut(str(name), 200)}: {notebook} has no such parameter to set; "
                f"{near(name, free)}"
            )
        if value == []:
            raise ValueError(f"{where}.{name}: expected a value or a list of values, got []")
        for entry in value if isinstance(value, list) else [value]:
            check_value(f"{where}.{name}", entry, known[name].type)
            if name == "dataset":
                check_name(f"{where}.{name}", entry)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _expand(step: str, blocks: Any) -> Iterator[tuple[dict, list[str]]]:
    """The parameters of every variant, and the names of those that its block gives as lists.

    `folds: k` without `fold` stands for a list of all folds.
    """
    for block in _as_list(blocks):
        check_block(step, NOTEBOOKS[step], block)
        block = block | {key: ", ".join(_as_list(block[key])) for key in SEVERAL & set(block)}
        axes = {key: _as_list(value) for key, value in sorted(block.items())}
        varied = [key for key in block if isinstance(block[key], list)]
        for values in itertools.product(*axes.values()):
            parameters = dict(zip(axes, values, strict=True))
            if parameters.get("folds", 0) > 0 and "fold" not in block:
                for fold in range(parameters["folds"]):
                    yield parameters | {"fold": fold}, [*varied, "fold"]
            else:
                yield parameters, varied


def variants(step: str, blocks: Any) -> Variants:
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
    expanded = list(_expand(step, blocks))
    if step == "encode" and len({dataset_of(parameters) for parameters, _ in expanded}) > 1:
        named_by = ["dataset", *named_by]
    variants_of_step = {}
    for parameters, varied in expanded:
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


def without_fold(variant: str) -> str:
    """A variant's name without its fold, in which the runs of a cross-validation differ."""
    return re.sub(r"-fold=\d+", "", variant)


def dataset_of(parameters: Mapping) -> str:
    """The data set of a variant of `encode`."""
    return parameters.get("dataset", "toy")


def encodings_by_name(encodings: Mapping) -> dict[str, dict[str, list[str]]]:
    """By each name that a config may use, {variant without its fold: variants with that name}.

    Names are those of variants, with or without their fold, and of data sets.
    """
    by_name: dict[str, dict[str, list[str]]] = {}
    for variant, parameters in encodings.items():
        encoding = without_fold(variant)
        for name in {variant, encoding, dataset_of(parameters)}:
            by_name.setdefault(name, {}).setdefault(encoding, []).append(variant)
    return by_name


def find_encodings(where: str, name: str, encodings: Mapping) -> list[str]:
    """The variants of `encode` that `name` stands for: one, or one for each fold.

    Args:
        where: the key with that name, for error messages.
        name: see `encodings_by_name`.

    Raises:
        ValueError: `name` is unknown, or a data set with several encodings.
    """
    by_name = encodings_by_name(encodings)
    if name not in by_name:
        raise ValueError(f"{where}: no such variant of encode: {show(name)}; {near(name, by_name)}")
    matches = by_name[name]
    if len(matches) > 1 and name not in matches:
        raise ValueError(
            f"{where}: {name} has several encodings; write one of {cut(', '.join(matches), 1000)}"
        )
    return matches.get(name) or next(iter(matches.values()))


def plan_encodings(blocks: Any, folder: Path) -> Variants:
    """The variants of `encode`, each of which is a store of codes.

    `encoder: autoencoder@<name>` is the one that the variant or data set of that name computes,
    given to 01_encode by its checkpoint.

    Args:
        folder: `reports/<experiment>/encode`.

    Raises:
        ValueError: see `variants`; or there is no encoder of that name.
    """
    encodings = variants("encode", blocks)
    computed = {v: p for v, p in encodings.items() if p.get("encoder", LEARNED) == LEARNED}
    for variant, parameters in encodings.items():
        kind, at, source = parameters.get("encoder", "").partition("@")
        if not at:
            continue
        if kind != LEARNED:
            raise ValueError(
                f"encode.encoder: expected {LEARNED}@<data set>, got {kind}@{source}; other "
                f"encoders do not depend on a data set: write {kind}"
            )
        sources = find_encodings("encode.encoder", source, computed)
        if len(sources) > 1:
            raise ValueError(f"encode.encoder: write one of {', '.join(sources)}, got {source}")
        checkpoint = str(folder / sources[0] / "checkpoints" / "best.safetensors")
        encodings[variant] = parameters | {"encoder": kind, "checkpoint": checkpoint}
    return encodings


def plan_trainings(blocks: Any, encodings: Mapping, folder: Path) -> Variants:
    """The variants of `train`, each with the run of `encode` that makes its codes as `latents`.

    A block names them by `encode`, as `find_encodings` takes it; the default is the first. A block
    on the codes of several folds has a variant for each.

    Args:
        folder: `reports/<experiment>/encode`.

    Raises:
        ValueError: see `variants` and `find_encodings`.
    """
    first = without_fold(next(iter(encodings), ""))
    trainings = {}
    for variant, parameters in variants("train", blocks).items():
        stores = find_encodings("train.encode", parameters.pop("encode", first), encodings)
        for store in stores:
            fold = f"-fold={encodings[store]['fold']}" if len(stores) > 1 else ""
            name = check_name("train", f"{variant}{fold}")
            trainings[name] = {"latents": str(folder / store)} | parameters
    return trainings


def read_config(config: Mapping) -> dict[str, Variants]:
    """Check the configuration of an experiment and return {step: {variant: parameters}}.

    A step that is not mentioned runs once with the notebook's defaults, except `tour` and
    `distill`, which are left out, as is a step with `[]`.

    Raises:
        ValueError: names the key, what was expected and what it got.
    """
    check_name("experiment", config.get("experiment"))
    for key, value in config.items():
        if key not in KEYS:
            raise ValueError(f"unknown key {show(key)}; {near(key, KEYS)}")
        if key not in NOTEBOOKS:
            check_value(key, value, "str")
    blocks: dict = {"tour": [], "distill": []} | dict(config)
    blocks = {step: {} if blocks.get(step) is None else blocks[step] for step in NOTEBOOKS}
    folder = Path(config.get("reports", "reports"), config["experiment"], "encode")
    encodings = plan_encodings(blocks["encode"], folder)
    if not encodings and (blocks["train"] != [] or blocks["tour"] != []):
        raise ValueError("encode: expected at least one block for train and tour, got []")
    trainings = plan_trainings(blocks["train"], encodings, folder)
    plan = {"encode": encodings, "train": trainings}
    plan |= {step: variants(step, blocks[step]) for step in NOTEBOOKS if step not in plan}
    known = encodings_by_name(encodings)
    for parameters in plan["evaluate"].values():
        for name in split_names(parameters.get("baselines", "")):
            if not os.path.isfile(PROJECT_ROOT / name):  # noqa: PTH113 (False for any text)
                raise ValueError(f"evaluate.baselines: no such adapter file: {show(name)}")
        for name in split_names(parameters.get("test_on", "")):
            if name not in known:
                raise ValueError(
                    f"evaluate.test_on: no such data set: {show(name)}; {near(name, known)}"
                )
    return {step: plan[step] for step in NOTEBOOKS}


def find_sources(plan: Variants, folder: Path, parameter: str) -> dict[str, list[str]]:
    """The variants of a step that each of its variants waits for: one, or none.

    Args:
        plan: {variant: parameters} of the step, as in `read_config`.
        folder: `reports/<experiment>/<step>`. A path outside of it has to exist already.
        parameter: path of another run, or of a file in it: a `teacher`, an encoder's `checkpoint`.
    """
    sources = {}
    for variant, parameters in plan.items():
        path = Path(PROJECT_ROOT, parameters.get(parameter, "")).resolve()
        above = {path, *path.parents}
        sources[variant] = [v for v in plan if Path(PROJECT_ROOT, folder, v).resolve() in above]
    return sources


def call_files(config: Mapping) -> str:
    """What the files of a call of Snakemake begin with: its lock, its messages, its outcome.

    They belong to the folder of an experiment, whichever configuration and link lead to it.

    Raises:
        ValueError: the experiment has no name that can be one of a folder.
    """
    name = check_name("experiment", config.get("experiment"))
    check_value("reports", reports := config.get("reports", "reports"), "str")
    folder = os.fsencode(Path(reports, name).resolve())
    return f".snakemake/{name}-{hashlib.sha256(folder).hexdigest()[:8]}"


if __name__ == "__main__":  # for the Makefile
    try:
        print(call_files(read_yaml(Path(sys.argv[1]))))
    except ValueError as problem:
        text = str(problem)
        print(text if sys.argv[1] in text else f"{sys.argv[1]}: {text}")
        sys.exit(1)
