"""A process that imports the slow modules once and forks itself for each command.

It computes nothing: a fork of a process whose threads have computed may hang.
"""

import fcntl
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from contextlib import suppress

from fervit_lib.report.__main__ import main
from fervit_lib.report.html import packed_plotly

MODULES = (
    "fervit_lib.distillation",
    "fervit_lib.encoders",
    "fervit_lib.evaluation",
    "fervit_lib.explain",
    "fervit_lib.report.index",
    "fervit_lib.report.kernel",
    "fervit_lib.report.run",
    "fervit_lib.sweep.callback",
    "ipykernel.kernelapp",
    "nbconvert",
    "papermill",
    "sklearn.decomposition",
)


def _serve(descriptor: str, folder: str) -> None:
    """Fork for every request until stdin is closed."""
    # Optional for nbformat's jsonschema, unused by notebooks: it compiles a grammar when imported,
    # which takes longer than torch.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    for module in MODULES:
        importlib.import_module(module)
    packed_plotly()  # cached: every page contains it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(fileno=int(descriptor))
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _execute(connection)
        connection.close()
    shutil.rmtree(folder, ignore_errors=True)


def _execute(connection: socket.socket) -> None:
    """Execute a command in the place of the process that requested it; end if that ends."""
    content, descriptors, *_ = socket.recv_fds(connection, 2**22, 3)
    folder, environment, arguments = json.loads(content)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGIO, signal.default_int_handler)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)  # SIGIO when the other end is closed
    with suppress(BrokenPipeError):  # the command has ended while the server imported
        connection.send(b"\0")  # taken
        code = main(arguments)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        sys.stdout.flush()
        connection.send(bytes([code]))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
