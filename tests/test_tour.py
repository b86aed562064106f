"""The tour, from an empty folder and then on the codes that it has made: the same figures."""

from pathlib import Path
from typing import Any

import pytest

from fervit_lib.latents import LatentStore
from fervit_lib.runs import Run
from tests.run_cells import run_cells

pytestmark = [pytest.mark.slow, pytest.mark.notebooks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tour")
    own = {"data_dir": str(folder / "data"), "reports": str(folder / "reports")}
    codes = folder / "data" / "latents" / "tour" / "autoencoder"
    given = {"latents": str(codes), "variant": "given"}
    errors, _ = run_cells([("00_tour", own), ("00_tour", own | given)])
    assert errors == [None, None]
    return folder


def result(folder: Path, variant: str) -> dict[str, Any]:
    return Run(folder / "reports", "scratchpad", "tour", variant).result


def test_without_codes_it_makes_some(folder: Path) -> None:
    assert not (folder / "data" / "latents" / "toy").exists()
    codes = folder / "data" / "latents" / "tour" / "autoencoder"
    views = LatentStore.open_views(codes)
    assert len(views) == 2 and len(views[0]) == result(folder, "all")["train_faces"]
    assert len(LatentStore.open(codes, "val")) == result(folder, "all")["held_out_faces"]


def test_ten_steps_lower_the_loss_on_held_out_faces(folder: Path) -> None:
    tour = result(folder, "all")
    losses = tour["held_out_losses"]
    assert len(losses) == 1 + 10
    assert losses[-1] < min(losses[0], tour["loss_of_guessing"])
    assert losses[-1] - losses[0] == pytest.approx(tour["loss_change"], abs=1e-4)
    assert tour["loss_change"] + tour["loss_change_half_width"] < 0


def test_both_heads_read_better_than_guessing(folder: Path) -> None:
    heads = result(folder, "all")["heads"]
    assert len(heads) == 2
    assert all(1 / 7 < head["low"] <= head["accuracy"] <= head["high"] for head in heads)


def test_the_same_seed_gives_the_same_figures(folder: Path) -> None:
    made, given = (result(folder, variant) for variant in ("all", "given"))
    timed = {"seconds", "ended"}
    assert made.keys() > timed
    assert all(made[name] == given[name] for name in made.keys() - timed)
