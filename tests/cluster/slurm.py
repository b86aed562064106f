"""A real SLURM on this machine during a test: two nodes that claim a GPU each, without root.

`python tests/cluster/slurm.py <command> …` runs one command in it. All files are in one new folder.
All processes are children of this one, or have that folder in their PATH or one of its files open.
Both are removed at the end. The nodes may claim more processors and memory than this machine has:
SLURM counts them and binds nothing.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # Debian's daemons
NODES = ("node1", "node2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """The programs of SLURM that this machine lacks (Debian: `slurm-wlm` and `munge`)."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


@dataclass(frozen=True)
class Slurm:
    """A running SLURM, and the environment of its commands."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """The output of one of its commands."""
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def ended_jobs(self) -> list[dict[str, str]]:
        """SLURM's record of each ended job: JobState, NodeList, StartTime, EndTime, Tres, …"""
        lines = (self.folder / "jobs.txt").read_text().splitlines()
        return [
            dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines
        ]


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Start SLURM, and stop it with all its jobs.

    Raises:
        RuntimeError: a daemon ended, or the nodes are not idle within a minute; shows the logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    environment = os.environ | {
        "PATH": f"{folder}:{PATH}",
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    slurm = Slurm(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []
    # So that a SIGTERM, too, runs the clean-up below.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _write_configuration(folder)
        for command in _commands(folder):
            with (folder / f"daemon{len(daemons)}.out").open("wb") as log:
                # Ctrl-C must not reach the daemons, which are needed to cancel the jobs; they end
                # with this process even if it is killed.
                command = ["setsid", "setpriv", "--pdeathsig=TERM", *command]
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        _wait_for_nodes(slurm, daemons)
        yield slurm
    finally:
        _stop(slurm, daemons)
        shutil.rmtree(folder)
        signal.signal(signal.SIGTERM, previous)


def _write_configuration(folder: Path) -> None:
    folder.chmod(0o755)  # munge requires that others can reach its socket
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "state").mkdir()
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(1 + len(NODES))
        ]
        ports = [open_socket.getsockname()[1] for open_socket in sockets]
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        "CPUs=8 RealMemory=64000 Gres=gpu:1"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    text = CONFIGURATION.format(
        host=host, user=getpass.getuser(), folder=folder, ports=ports, nodes=nodes
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    # Snakemake's plugin removes SLURM_* from the environment of job steps, so that srun would look
    # for the file in /etc/slurm.
    (folder / "srun").write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
    )
    (folder / "srun").chmod(0o755)


def _commands(folder: Path) -> list[list[str]]:
    munge = {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "pid-file": "munged.pid",
        "seed-file": "munged.seed",
    }
    options = [f"--{option}={folder / name}" for option, name in munge.items()]
    return [
        ["munged", "--foreground", "--num-threads=2", *options],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]


def _wait_for_nodes(slurm: Slurm, daemons: "list[subprocess.Popen[bytes]]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and all(daemon.poll() is None for daemon in daemons):
        with contextlib.suppress(subprocess.CalledProcessError):  # not started yet
            states = slurm.run("sinfo", "--noheader", "--Node", "--format=%T").split()
            if states == ["idle"] * len(NODES):
                return
        time.sleep(0.5)
    logs = [
        f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(slurm.folder.glob("*.out"))
    ]
    raise RuntimeError("SLURM did not start\n" + "\n".join(logs))


def _stop(slurm: Slurm, daemons: "list[subprocess.Popen[bytes]]") -> None:
    # A controller that has ended has no jobs.
    with contextlib.suppress(subprocess.SubprocessError):
        slurm.run("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 60
        while slurm.run("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.5)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    # A job is no child of this process and outlives its node; so does a Snakemake that waits.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            in_path = process.environ().get("PATH", "").startswith(f"{slurm.folder}:")
            if in_path or any(
                Path(file.path).parent == slurm.folder for file in process.open_files()
            ):
                process.kill()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("expected a command to run in SLURM")
    if missing := missing_programs():
        sys.exit(f"expected SLURM (apt install slurm-wlm munge), missing: {', '.join(missing)}")
    with running_slurm() as slurm:
        sys.exit(subprocess.run(sys.argv[1:], env=slurm.environment).returncode)
