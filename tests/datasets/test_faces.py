from pathlib import Path

import pytest

from fervit_lib.datasets import load_faces
from tests.datasets.conftest import write_folder


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        load_faces(tmp_path / "nowhere", "train")


@pytest.mark.parametrize(
    ("argument", "arguments"), [("split", ("trian",)), ("labels", ("train", "mild"))]
)
def test_unknown_arguments(tmp_path: Path, argument: str, arguments: tuple[str, ...]) -> None:
    root = write_folder(tmp_path, {"train": 2, "val": 1, "test": 1})
    with pytest.raises(ValueError, match=f"{argument}: expected one of .*, got"):
        load_faces(root, *arguments)
