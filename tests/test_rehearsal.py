"""`make rehearse`: short forms of the committed configs."""

from pathlib import Path

import pytest

from benchmarks.rehearse import shorten
from fervit_lib.pipeline import read_config
from fervit_lib.system.runtime import PROJECT_ROOT
from fervit_lib.system.yaml_files import read_yaml

CONFIGS = sorted(p for p in (PROJECT_ROOT / "configs").glob("*.yaml") if p.stem != "sweep")
FACES = 28


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_short_config_has_the_variants_of_one_seed_and_little_work(path: Path) -> None:
    config = read_yaml(path)
    plan, short = read_config(config), read_config(shorten(config, FACES))
    for step in ("tour", "encode", "evaluate", "explain"):
        assert len(short[step]) == len(plan[step])
    seeds = ("seed", "data_seed")
    without = [{k: v for k, v in p.items() if k not in seeds} for p in plan["train"].values()]
    assert len(short["train"]) == len({str(parameters) for parameters in without})
    for parameters in short["train"].values():
        assert parameters["batch_size"] <= FACES // 2
        assert parameters["epochs"] <= 3
        assert not parameters.get("teacher", "").startswith(f"reports/{config['experiment']}/")
