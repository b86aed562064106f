"""The SLURM profile on a real SLURM: `make cluster-test`."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from slurm import NODES, Slurm, missing_programs, running_slurm
from tiny import SMALL, TINY_STUDENT, write_config

from fervit_lib.system.runtime import PROJECT_ROOT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(missing_programs()), reason="SLURM is not installed (apt install slurm-wlm munge)"
    ),
]
# Frequent status checks and one thread per step: this is a single machine.
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
    """{node: job} once a training runs on every node."""
    while snakemake.poll() is None:
        rows = slurm.run(
            "squeue", "--noheader", "--states=RUNNING", "--format=%k %N %i"
        ).splitlines()
        jobs = dict(row.split()[1:] for row in rows if row.startswith("rule_train"))
        if set(jobs) == set(NODES):
            return jobs
        time.sleep(1)
    raise AssertionError("Snakemake ended before two trainings ran at once")


def ran_at_once(jobs: list[dict[str, str]]) -> bool:
    """Whether two of the jobs ran on two nodes at the same time."""
    spans = [
        (j["NodeList"], *(datetime.fromisoformat(j[key]) for key in ("StartTime", "EndTime")))
        for j in jobs
    ]
    return any(a[0] != b[0] and max(a[1], b[1]) < min(a[2], b[2]) for a in spans for b in spans)


def test_an_experiment_runs_on_two_nodes_and_only_a_lost_job_runs_again(
    slurm: Slurm, tmp_path: Path
) -> None:
    config = write_config(tmp_path, train=[SMALL | {"seed": [0, 1]}], distill=TINY_STUDENT)
    experiment = tmp_path / "reports" / "tiny"
    snakemake = start_snakemake(slurm, config)
    trainings = wait_for_trainings(slurm, snakemake)
    job = slurm.run("scontrol", "show", "job", trainings[NODES[0]])
    for request in ("TresPerJob=gres:gpu:1", "TimeLimit=12:00:00", "mem=16000M"):
        assert request in job
    slurm.run("scancel", trainings[NODES[0]])
    assert snakemake.wait() == 1
    # It reports the lost job and ends without an error of its own.
    assert 'Snakefile", line' not in (tmp_path / "snakemake.log").read_text()
    assert sorted(job["JobState"] for job in slurm.ended_jobs()) == [
        "CANCELLED",
        *["COMPLETED"] * 3,
    ]
    assert ran_at_once(slurm.ended_jobs())
    before = {path: path.stat().st_mtime_ns for path in experiment.rglob("result.json")}
    assert sorted(path.parent.parent.name for path in before) == ["distill", "encode", "train"]

    assert start_snakemake(slurm, config).wait() == 0, (tmp_path / "snakemake.log").read_text()[
        -3000:
    ]
    assert (experiment / "index.html").is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(slurm.ended_jobs()) == 4 + len(["train", "evaluate", "explain"])
