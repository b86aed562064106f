"""YAML files that are refused, with file and line in a message of at most 2 kB."""

from pathlib import Path

import pytest

from fervit_lib.pipeline import read_config
from fervit_lib.sweep.config import read_sweep
from fervit_lib.system.yaml_files import MAX_VALUES, read_yaml

LONG = "x" * 100_000
DEEP = "[[[[[[[[1]]]]]]]]"


def aliases(depth: int) -> str:
    """A list of few characters that stands for 8 ** `depth` values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, depth):
        names = ", ".join([f"*a{level - 1}"] * 8)
        lines.append(f"a{level}: &a{level} [{names}]")
    return "\n".join(lines)


REFUSED = {  # content, and the line that the message names
    "a key twice": ("a: 1\nb: 2\na: 1\n", 3),
    "a key twice below": ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4),
    "a key twice in a list": ("a:\n- {b: 1}\n- {b: 1, b: 2}\n", 3),
    "a key with and without quotes": ("a: 1\n'a': 2\n", 2),
    "aliases": (aliases(6), 5),
    "an alias of itself": ("a: &a [*a]\n", 1),
    "a mapping as a key": ("? {a: 1}\n: 2\n", 1),
    "a long key": (f"{LONG[:900]}: 1\n", 1),
    "many values": (f"a: [{'1, ' * 2 * MAX_VALUES}1]", 1),
    "no date": ("a: 2024-13-45\n", 1),
    "a tag": ("a: !!python/name:os.system x\n", 1),
    "two documents": ("a: 1\n---\na: 2\n", 2),
    "not closed": ("a: 1\nb: [\n", 3),
}


@pytest.mark.parametrize(("content", "line"), REFUSED.values(), ids=REFUSED)
def test_file_and_line_are_named(tmp_path: Path, content: str, line: int) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"a\.yaml, line {line}: ") as caught:
        read_yaml(path)
    assert len(str(caught.value)) < 2000


def test_aliases_and_merged_keys_that_stay_small_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1, "d": [{"b": 1}, {"b": 1}]}}
    path.write_text(aliases(4))
    assert len(read_yaml(path)["a3"]) == 8


CONFIGS = [
    f"experiment: {LONG}",
    f"experiment: [{LONG}]",
    f"experiment: e\nquestion: [{LONG}]",
    f"experiment: e\nreports: {{a: {LONG}}}",
    f"experiment: e\ntrain: {LONG}",
    f"experiment: e\ntrain: [{LONG}]",
    f"experiment: e\ntrain: {{lr: {LONG}}}",
    f"experiment: e\ntrain: {{lr: [{', '.join(['x'] * 5000)}]}}",
    f"experiment: e\ntrain: {{lr: {'9' * 4000}, seed: {'9' * 4000}}}",
    f"experiment: e\ntrain: {{encode: {LONG}}}",
    f"experiment: e\nencode: {{encoder: autoencoder@{LONG}}}",
    f"experiment: e\nencode: {{encoder: {LONG}@toy}}",
    f"experiment: e\nencode: {{dataset: [{', '.join(map(str, range(3000)))}]}}",
    f"experiment: e\nreports: {LONG}",
    f"experiment: e\ntrain: {{teacher: {LONG}}}",
    f"experiment: e\nencode: {{faces: {LONG}}}",
    f"experiment: e\nevaluate: {{test_on: {LONG}}}",
    f"experiment: e\nevaluate: {{baselines: {LONG}}}",
    f"experiment: e\ntrain: {{{DEEP}: 1}}",
    f"experiment: e\n{'x' * 200}: 1",
]


@pytest.mark.parametrize("content", CONFIGS, ids=lambda text: text[:40])
def test_messages_about_large_configurations_are_short(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=".") as caught:
        read_config(read_yaml(path))
    assert len(str(caught.value)) < 2000


SWEEPS = [
    f"name: {LONG}",
    f"method: {LONG}",
    f"method: grid\nparameters: {LONG}",
    f"method: grid\nmetric: {LONG}\nparameters: {{lr: {{values: [1.0, 2.0]}}}}",
    f"method: grid\nparameters: {{lr: {{values: {LONG}}}}}",
    f"method: grid\nparameters: {{lr: {{distribution: {LONG}}}}}",
    f"method: grid\nparameters: {{lr: {{min: {LONG}, max: 1}}}}",
    f"method: grid\nrun_cap: {LONG}\nparameters: {{lr: {{values: [1.0, 2.0]}}}}",
    f"method: grid\nearly_terminate: {{type: hyperband, eta: {LONG}}}\n"
    "parameters: {lr: {values: [1.0, 2.0]}}",
    f"method: grid\nparameters: {{lr: {{values: [{LONG}, b]}}}}",
]


@pytest.mark.parametrize("content", SWEEPS, ids=lambda text: text[:40])
def test_messages_about_large_sweeps_are_short(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        read_sweep(path)
    assert len(str(caught.value)) < 2000
