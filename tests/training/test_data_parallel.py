"""One fit by two processes, really launched, compared with the same fit by one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import parallel_fits
import pytest
from launched import launch
from safetensors.torch import load_file

pytestmark = pytest.mark.launched
SCRIPT = Path(parallel_fits.__file__)


@dataclass(frozen=True)
class Fits:
    """Results of two processes and of one, and what each of the two ranks returned."""

    codes: Path
    two: Path
    one: Path
    ranks: list[dict]
    killed: str  # stderr of the launch in which a rank was killed


@pytest.fixture(scope="module")
def fits(make_store: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Fits:
    folder = tmp_path_factory.mktemp("fits")
    two, one = folder / "two", folder / "one"
    two.mkdir()
    codes = make_store(folder / "codes", {"train": 96, "val": 31, "test": 30}, noise=4.0)

    killed = launch(SCRIPT, "killed", codes, two)
    assert killed.returncode != 0
    shutil.copytree(two / "killed", one / "killed")
    with pytest.raises(KeyboardInterrupt):
        parallel_fits.fit_case("plain", codes, two / "one", parallel_fits.Die())

    launched = launch(SCRIPT, "all", codes, two)
    assert launched.returncode == 0, launched.stderr[-3000:]
    ranks = [json.loads((two / f"{rank}.json").read_text()) for rank in range(2)]
    for name in (*parallel_fits.CASES, "killed"):
        case = "plain" if name == "killed" else name
        parallel_fits.fit_case(case, codes, one / name)
    return Fits(codes, two, one, ranks, killed.stderr)


def curves(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="seconds")


def file_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["plain", "gradual"])
def test_two_processes_follow_the_curves_of_one(fits: Fits, name: str) -> None:
    """Same global batches, no batch norm, no dropout or mixup, float32; `gradual` unfreezes."""
    two, one = curves(fits.two / name), curves(fits.one / name)
    for loss in ("train_loss", "valid_loss"):
        assert list(two[loss]) == pytest.approx(list(one[loss]), rel=0.02)
        assert one[loss].diff().abs().min() > 1e-3  # the curves move
    assert list(two["roc_auc"]) == pytest.approx(list(one["roc_auc"]), abs=0.02)


def test_all_ranks_end_with_the_same_weights_and_buffers(fits: Fits) -> None:
    first, second = (rank["weights"] for rank in fits.ranks)
    assert first == second
    assert len(curves(fits.two / "everything")) == 4


def test_ranks_draw_their_own_noise_from_a_state_that_stays_shared(fits: Fits) -> None:
    first, second = fits.ranks
    assert len(set(first["own"] + second["own"])) == 2 * len(first["own"])
    assert first["shared"] == second["shared"]


def test_a_killed_rank_ends_the_launch_and_is_named(fits: Fits) -> None:
    assert "SIGKILL" in fits.killed


@pytest.mark.parametrize("name", ["killed", "one"])
def test_two_processes_resume_from_the_last_whole_epoch(fits: Fits, name: str) -> None:
    """`killed`: of a fit by two processes; `one`: of a fit by one."""
    resumed, whole = curves(fits.two / name), curves(fits.two / "plain")
    assert list(resumed["train_loss"]) == pytest.approx(list(whole["train_loss"]), rel=0.02)


def test_one_process_resumes_a_fit_of_two(fits: Fits) -> None:
    resumed, whole = curves(fits.one / "killed"), curves(fits.one / "plain")
    assert list(resumed["train_loss"]) == pytest.approx(list(whole["train_loss"]), rel=0.02)


def test_rank_0_alone_writes_and_checkpoints_have_the_plain_names(fits: Fits) -> None:
    for name in parallel_fits.CASES:
        assert file_names(fits.two / name) == file_names(fits.one / name)
        two, one = (
            load_file(folder / name / "best.safetensors") for folder in (fits.two, fits.one)
        )
        assert two.keys() == one.keys()


def test_an_exception_of_rank_0_is_raised_on_all_ranks(fits: Fits) -> None:
    assert [rank["error"] for rank in fits.ranks] == ["disk full", "disk full"]


def test_a_batch_that_cannot_be_divided_is_refused(fits: Fits) -> None:
    for rank in fits.ranks:
        assert "batch_size: expected a multiple of 2" in rank["odd_batch"]
