"""The SLURM profile on a real SLURM: `make cluster-test`."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from slurm import NODES, Slurm, missing, running_slurm
from tiny import SMALL, TINY_STUDENT, write_config

from fervit_lib.system.runtime import PROJECT_ROOT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(missing()), reason="SLURM is not installed (apt install slurm-wlm munge)"
    ),
]
# Often asked, and one thread a step: this is one machine, and waits for nobody.
OPTIONS = ["--slurm-init-seconds-before-status-checks", "2", "--set-threads"]
OPTIONS += [f"{step}=1" for step in ("encode", "train", "distill", "evaluate", "explain")]


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    pytest.importorskip(
        "snakemake_executor_plugin_slurm", reason="the extra `cluster` is not installed"
    )
    with running_slurm() as cluster:
        yield cluster


def start_snakemake(slurm: Slurm, config: Path) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "profiles/slurm",
        "--nolock",
        "--configfile",
    ]
    with (config.parent / "snakemake.log").open("a") as log:
        return subprocess.Popen(
            [*command, config, *OPTIONS], cwd=PROJECT_ROOT, env=slurm.environment, stderr=log
        )


def wait_for_trainings(slurm: Slurm, snakemake: "subprocess.Popen[str]") -> dict[str, str]:
    """{node: job} as soon as a training runs on every node."""
    while snakemake.poll() is None:
        rows = slurm.ask(
            "squeue", "--noheader", "--states=RUNNING", "--format=%k %N %i"
        ).splitlines()
        jobs = dict(row.split()[1:] for row in rows if row.startswith("rule_train"))
        if set(jobs) == set(NODES):
            return jobs
        time.sleep(1)
    raise AssertionError("Snakemake ended before two trainings ran at once")


def at_once(jobs: list[dict[str, str]]) -> bool:
    """Whether two of the jobs were running on two nodes at one time."""
    spans = [
        (j["NodeList"], *(datetime.fromisoformat(j[key]) for key in ("StartTime", "EndTime")))
        for j in jobs
    ]
    return any(a[0] != b[0] and max(a[1], b[1]) < min(a[2], b[2]) for a in spans for b in spans)


def test_an_experiment_runs_on_two_nodes_at_once_and_a_lost_job_alone_runs_again(
    slurm: Slurm, tmp_path: Path
) -> None:
    config = write_config(tmp_path, train=[SMALL | {"seed": [0, 1]}], distill=TINY_STUDENT)
    experiment = tmp_path / "reports" / "tiny"
    snakemake = start_snakemake(slurm, config)
    trainings = wait_for_trainings(slurm, snakemake)
    asked = slurm.ask("scontrol", "show", "job", trainings[NODES[0]])
    assert (
        "TresPerJob=gres:gpu:1" in asked and "TimeLimit=12:00:00" in asked and "mem=16000M" in asked
    )
    slurm.ask("scancel", trainings[NODES[0]])
    assert snakemake.wait() == 1
    assert (
        'Snakefile", line' not in (tmp_path / "snakemake.log").read_text()
    )  # it told of the lost job and ended
    assert sorted(job["JobState"] for job in slurm.ended_jobs()) == [
        "CANCELLED",
        *["COMPLETED"] * 3,
    ]
    assert at_once(slurm.ended_jobs())
    before = {path: path.stat().st_mtime_ns for path in experiment.rglob("result.json")}
    assert sorted(path.parent.parent.name for path in before) == ["distill", "encode", "train"]

    assert start_snakemake(slurm, config).wait() == 0, (tmp_path / "snakemake.log").read_text()[
        -3000:
    ]
    assert (experiment / "index.html").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(slurm.ended_jobs()) == 4 + len(["train", "evaluate", "explain"])
