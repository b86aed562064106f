"""Let `report/server.py` execute commands, in a process that has imported the slow modules.

Nothing slow is imported here: every command waits for it.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

SOCKET = "FERVIT_WARM"  # the environment variable with the path of the server's socket
STARTED = "FERVIT_STARTED"  # …when the command was started, which may have waited for the server


def list_gpus() -> list[str]:
    """The IDs of this machine's NVIDIA GPUs, such as GPU-1a2b…; this does not initialize CUDA."""
    try:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):  # no driver, or no GPU
        return []


def socket_base() -> str:
    """A folder for temporary files whose path is short: that of a socket has at most 107 bytes."""
    base = tempfile.gettempdir()
    return base if len(base) < 60 else "/tmp"


def start_server() -> int | None:
    """Start the server for the commands that this process starts. It ends with this process.

    There is none on a machine with a GPU, because fastai's import initializes CUDA, which a fork
    cannot use.

    Returns:
        a file descriptor that ends the server when it is closed; None: no server.
    """
    if sys.platform != "linux" or list_gpus():
        return None
    folder = tempfile.mkdtemp(prefix="fervit-", dir=socket_base())  # readable by this user alone
    os.environ[SOCKET] = f"{folder}/socket"
    # Without these, NumPy and ONNX Runtime start threads when they are imported.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # A kernel sets this before its imports.
    environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"} | os.environ | single
    end, keep_alive = os.pipe()
    # Bound here, so that a command which comes early waits.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.environ[SOCKET])
        listener.listen()
        subprocess.Popen(
            [sys.executable, "-m", "fervit_lib.report.server", str(listener.fileno()), folder],
            stdin=end,
            pass_fds=[listener.fileno()],
            env=environment,
            start_new_session=True,  # Ctrl-C ends the commands, and they end their forks
        )
    os.close(end)
    return keep_alive


def request(arguments: list[str]) -> int | None:
    """Let the server execute `python -m fervit_lib.report` with `arguments`.

    Returns:
        the exit code; None: there is no server.
    """
    content = json.dumps([str(Path.cwd()), dict(os.environ), arguments])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(os.environ[SOCKET])
            socket.send_fds(connection, [content.encode()], [0, 1, 2])
            if not connection.recv(1):  # no fork has taken the request: the server has ended
                return None
        except (KeyError, OSError):
            return None
        answer = connection.recv(1)
    return answer[0] if answer else 1  # without an answer, the process ended with an error
