"""A real SLURM on this machine for as long as something is tried on it: two nodes, a GPU each on paper, no root needed.

`python tests/cluster/slurm.py <command> …` runs one command in it. Everything lives in one new folder and in processes
that are children of this one, or have that folder in their PATH or a file of it open; both are gone at the end. The
nodes say more processors and memory than there may be: SLURM counts them and binds nothing.
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
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian keeps daemons
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


def missing() -> list[str]:
    """The programs of SLURM that this machine lacks; Debian has them in `slurm-wlm` and `munge`."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


@dataclass(frozen=True)
class Slurm:
    """A SLURM that runs; its commands reach it in `environment`."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """What one of its commands prints."""
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def ended_jobs(self) -> list[dict[str, str]]:
        """A record of each job that ended, as SLURM wrote it: JobState, NodeList, StartTime, EndTime, Tres, …"""
        lines = (self.folder / "jobs.txt").read_text().splitlines()
        return [
            dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines
        ]


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Bring SLURM up, and take it down with all its jobs.

    Raises:
        RuntimeError: a daemon ended, or the nodes are not idle within a minute; with the ends of the logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    environment = os.environ | {
        "PATH": f"{folder}:{PATH}",
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    slurm = Slurm(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []
    before = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # as any other end, it goes through what follows
    try:
        _write_configuration(folder)
        for command in _commands(folder):
            with (folder / f"daemon{len(daemons)}.out").open("wb") as log:
                # Ctrl-C is for this process, which then needs them to cancel jobs; they end with it, however it ends.
                command = ["setsid", "setpriv", "--pdeathsig=TERM", *command]
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        _wait_for_nodes(slurm, daemons)
        yield slurm
    finally:
        _stop(slurm, daemons)
        shutil.rmtree(folder)
        signal.signal(signal.SIGTERM, before)


def _write_configuration(folder: Path) -> None:
    folder.chmod(0o755)  # munge checks that others may reach its socket
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
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=64000 Gres=gpu:1"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    text = CONFIGURATION.format(
        host=host, user=getpass.getuser(), folder=folder, ports=ports, nodes=nodes
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    # Snakemake's plugin takes SLURM_* from the environment of its job steps, and expects the file in /etc/slurm.
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
        with contextlib.suppress(subprocess.CalledProcessError):  # not up yet
            if slurm.ask("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * len(
                NODES
            ):
                return
        time.sleep(0.5)
    logs = [
        f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(slurm.folder.glob("*.out"))
    ]
    raise RuntimeError("SLURM did not come up\n" + "\n".join(logs))


def _stop(slurm: Slurm, daemons: "list[subprocess.Popen[bytes]]") -> None:
    with contextlib.suppress(
        subprocess.SubprocessError
    ):  # a controller that is not there has no jobs
        slurm.ask("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 60
        while slurm.ask("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.5)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    # A job is nobody's child and outlives its node; so does a Snakemake that still waits for it.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            from_here = process.environ().get("PATH", "").startswith(f"{slurm.folder}:")
            if from_here or any(
                Path(file.path).parent == slurm.folder for file in process.open_files()
            ):
                process.kill()


if __name__ == "__main__":
    if not sys.argv[1:] or missing():
        sys.exit(
            f"expected a command to run, and SLURM (apt install slurm-wlm munge); missing: {missing()}"
        )
    with running_slurm() as slurm:
        sys.exit(subprocess.run(sys.argv[1:], env=slurm.environment).returncode)
