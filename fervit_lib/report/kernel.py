"""A notebook's kernel, forked from the process that executes the notebook."""

import asyncio
import atexit
import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import AsyncKernelManager
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from fervit_lib.report.warm import socket_base


class KernelManager(AsyncKernelManager):
    """Fork the kernel, which then has all modules of this process.

    A process with other threads starts a kernel as usual, because its fork could hang.
    """

    def __init__(self, **traits: Any) -> None:
        # TCP ports are open to other users of the machine, and two kernels may choose the same.
        self._folder = tempfile.TemporaryDirectory(prefix="fervit-", dir=socket_base())
        file = f"{self._folder.name}/kernel.json"
        super().__init__(transport="ipc", connection_file=file, **traits)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        # Threads of libraries, too; none are listed outside of Linux.
        if len(list(Path("/proc/self/task").glob("*"))) != 1:
            await super()._async_launch_kernel(kernel_cmd, **options)
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run_kernel(kernel_cmd[kernel_cmd.index("-f") :], parent)
        provisioner: Any = self.provisioner
        provisioner.process = _Process(pid)
        provisioner.pgid = pid


def _run_kernel(arguments: list[str], parent: int) -> None:
    """Be an IPython kernel until it is shut down or `parent` ends; never returns."""
    import torch
    from ipykernel.kernelapp import IPKernelApp
    from threadpoolctl import threadpool_limits

    try:
        os.setsid()
        asyncio.set_event_loop(asyncio.new_event_loop())
        # It may have a number for each level of nesting: 4,1.
        if threads := int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0):
            # The libraries read this variable when they were imported, perhaps with another value.
            torch.set_num_threads(threads)
            threadpool_limits(threads)
        app = IPKernelApp.instance(parent_handle=parent)
        app.initialize(arguments)
        app.start()
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(0)


class _Process(psutil.Process):
    """A child process with what jupyter_client uses of subprocess.Popen."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        with suppress(psutil.TimeoutExpired):
            return self.wait(0)
        return None


class _Engine(NBClientEngine):
    """Execute as papermill does, but write the notebook once, at its end.

    papermill writes all of it twice per cell, which takes a third of the time of a notebook of many
    figures.
    """

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, *arguments: Any, **options: Any
    ) -> None:
        path, nb_man.output_path = nb_man.output_path, None
        try:
            super().execute_managed_notebook(nb_man, *arguments, **options)
        finally:
            nb_man.output_path = path


ENGINE = "written-once"
papermill_engines.register(ENGINE, _Engine)
