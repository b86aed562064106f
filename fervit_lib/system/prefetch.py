"""Read files ahead in threads, with a timeout: a disk or network share may hang."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import TimeoutError as ResultTimeout
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Any, Self, TypeVar

from fervit_lib.system.runtime import cpu_count, display_path

R = TypeVar("R")
T = TypeVar("T")
TIMEOUT_SECONDS = 120.0  # per file: enough for a slow network share


class PrefetchPool:
    """Threads that read files. A thread that hangs never delays an exception or shutdown.

    Args:
        num_threads: defaults to the number of cores.
    """

    def __init__(self, num_threads: int | None = None) -> None:
        # ThreadPool has daemon threads. Those of concurrent.futures would keep the process alive.
        self._pool = ThreadPool(num_threads or cpu_count())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.terminate()

    def map(
        self, read: Callable[[T], R], items: Iterable[T], file: Callable[[T], Any], ahead: int = 256
    ) -> Iterator[R]:
        """Yield `read(item)` of each item in order, while threads read up to `ahead` next items.

        Args:
            file: returns the file of an item, for the timeout error.

        Raises:
            TimeoutError: a file was not read within `TIMEOUT_SECONDS`; names it.
        """
        pending: deque[tuple[T, AsyncResult]] = deque()

        def oldest() -> R:
            item, result = pending.popleft()
            try:
                return result.get(TIMEOUT_SECONDS)
            except ResultTimeout:
                raise TimeoutError(
                    f"{display_path(file(item))}: not read within {TIMEOUT_SECONDS:g} s; check "
                    f"that its disk or network share responds, or remove the file, then run the "
                    f"same again"
                ) from None

        for item in items:
            pending.append((item, self._pool.apply_async(read, [item])))
            # Waiting for the oldest one keeps the order, however long each takes.
            if len(pending) > ahead:
                yield oldest()
        while pending:
            yield oldest()
