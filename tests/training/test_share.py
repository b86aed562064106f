"""One fit by two processes, which are really launched, against the same fit by one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import shared_fits
import torch
from launched import launch
from safetensors.torch import load_file

from fervit_lib.datasets import draw_toy_faces, load_faces
from fervit_lib.latents import complete_store, shard_path, write_shard


@dataclass(frozen=True)
class Fits:
    """What `shared_fits` left: of two processes and of one, and what each of the two found."""

    codes: Path
    together: Path
    alone: Path
    found: list[dict]


@pytest.fixture(scope="module")
def fits(make_store: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Fits:
    folder = tmp_path_factory.mktemp("fits")
    codes = make_store(folder / "codes", {"train": 96, "val": 31, "test": 30}, noise=4.0)
    faces = make_faces(folder)
    (folder / "together").mkdir()
    done = launch(Path(shared_fits.__file__), codes, faces, folder / "together")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [
        json.loads((folder / "together" / f"{number}.json").read_text()) for number in range(2)
    ]
    for name in shared_fits.CASES:
        shared_fits.fit_case(name, codes, folder / "alone" / name)
    shared_fits.fit_image(faces, folder / "alone" / "image")
    shared_fits.fit_taught(faces, folder / "alone" / "taught")
    return Fits(codes, folder / "together", folder / "alone", found)


def make_faces(folder: Path) -> Path:
    draw_toy_faces(folder / "toy", 140, size=32)
    sizes = {}
    for split in ("train", "val", "test"):
        found = load_faces(folder / "toy", split)
        sizes[split] = len(found)
        codes = torch.zeros(len(found), 18, 512)
        write_shard(
            shard_path(folder / "faces", split, 0), codes, found.labels, found.paths, "made"
        )
    made_from = {
        "classes": found.classes,
        "encoder": "a",
        "faces": folder / "toy",
        "synthetic": True,
    }
    complete_store(folder / "faces", sizes, **made_from)
    return folder / "faces"


def curves(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="seconds")


def names_of_files(folder: Path) -> list[str]:
    """Of everything in a folder; TensorBoard's own names are left out, their number is not."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(
        str(path.parent / "events" if path.name.startswith("events.") else path) for path in paths
    )


@pytest.mark.parametrize("name", ["everything", "gradual", "image", "taught"])
def test_two_processes_have_the_curves_of_one_with_the_same_batches(fits: Fits, name: str) -> None:
    together, alone = curves(fits.together / name), curves(fits.alone / name)
    pd.testing.assert_frame_equal(together, alone, rtol=1e-4, atol=1e-6)
    assert alone["train_loss"].diff().abs().min() > 1e-2  # they went somewhere


def test_all_processes_end_with_the_same_weights_and_draw_for_themselves(fits: Fits) -> None:
    first, second = fits.found
    assert first["weights"] == second["weights"]
    assert (
        len(set(first["weights"].values())) == len(first["weights"]) - 1
    )  # `cut` ends as `everything`
    assert first["dropped"] != second["dropped"]
    assert len(curves(fits.together / "dropout")) == 3


def test_a_fit_that_was_cut_off_ends_as_one_that_was_not(fits: Fits) -> None:
    weights = fits.found[0]["weights"]
    assert weights["cut"] == weights["everything"]
    pd.testing.assert_frame_equal(
        curves(fits.together / "cut"), curves(fits.together / "everything")
    )


def test_one_process_goes_on_where_two_were_cut_off(fits: Fits, tmp_path: Path) -> None:
    state = tmp_path / "last.safetensors"
    state.write_bytes((fits.together / "cut" / "cut.safetensors").read_bytes())
    shared_fits.fit_case("everything", fits.codes, tmp_path / "run", state=state)
    pd.testing.assert_frame_equal(
        curves(tmp_path / "run"), curves(fits.alone / "everything"), rtol=1e-4, atol=1e-6
    )


def test_files_are_written_once_and_hold_what_one_process_writes(fits: Fits) -> None:
    for name in shared_fits.CASES:
        one, two = (names_of_files(folder / name) for folder in (fits.together, fits.alone))
        assert one == two
    one, two = (
        load_file(folder / "everything" / "best.safetensors")
        for folder in (fits.together, fits.alone)
    )
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-3, atol=1e-4)


def test_what_the_first_cannot_do_is_an_error_of_all(fits: Fits) -> None:
    assert [found["error"] for found in fits.found] == ["disk full", "disk full"]


def test_a_batch_that_cannot_be_parted_is_refused(fits: Fits) -> None:
    for found in fits.found:
        assert found["refused"].endswith(
            "batch_size: expected a multiple of 2, the processes of this launch, got 15"
        )
