from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fervit_lib.system import checkpoints


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights = torch.arange(6.0).view(2, 3).T  # not contiguous
    checkpoints.save_checkpoint(path, {"w": weights}, {"approach": "scratch"})
    tensors, metadata = checkpoints.load_checkpoint(path)
    assert torch.equal(tensors["w"], weights)
    assert metadata == {"approach": "scratch"}


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for file in files:
        checkpoints.save_checkpoint(file, {"w": torch.zeros(3)}, {"a": 1, "b": 2, "c": 3})
    assert len({file.read_bytes() for file in files}) == 1


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors: no such file"):
        checkpoints.load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("size", [0, 4, 40, 200])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save_checkpoint(path, {"w": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged"):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [None, {"fervit": "{"}, {"fervit": "[]"}, {"fervit": "[" * 100_000}],
    ids=["missing", "not JSON", "list", "deep"],
)
def test_a_checkpoint_of_another_project_is_named(
    tmp_path: Path, header: dict[str, str] | None
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2)}, path, header)
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged"):
        checkpoints.load_checkpoint(path)


def test_a_header_that_claims_all_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged"):
        checkpoints.load_checkpoint(path)
