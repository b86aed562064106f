"""Read files ahead in threads, with a timeout: a disk or network share may hang."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import TimeoutError as ResultTimeout
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Any, Generic, Self, TypeVar

from fervit_lib.system.runtime import cpu_count, display_path

R = TypeVar("R")
T = TypeVar("T")
TIMEOUT_SECONDS = 120.0  # per file: enough for a slow network share


@dataclass
class PendingRead(Generic[R]):
    """A file that a thread is reading."""

    file: str
    pending: AsyncResult

    def result(self) -> R:
        """Wait for the content of the file, or raise the error of reading it.

        Raises:
            TimeoutError: the file was not read within `TIMEOUT_SECONDS`; names the file.
        """
        try:
            return self.pending.get(TIMEOUT_SECONDS)
        except ResultTimeout:
            raise TimeoutError(
                f"{display_path(self.file)}: not read within {TIMEOUT_SECONDS:g} s; check that its "
                f"disk or network share responds, or remove the file, then run the same again"
            ) from None


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

    def submit(self, file: Any, read: Callable[..., R], *arguments: Any) -> PendingRead[R]:
        """Start `read(*arguments)` in a thread; `file` is the name for the timeout error."""
        return PendingRead(str(file), self._pool.apply_async(read, arguments))

    def map(
        self, read: Callable[[T], R], items: Iterable[T], file: Callable[[T], Any], ahead: int = 256
    ) -> Iterator[R]:
        """Yield `read(item)` of each item in order, while threads read up to `ahead` next items.

        Args:
            file: returns the file of an item, for the timeout error.
        """
        pending: deque[PendingRead[R]] = deque()
        for item in items:
            pending.append(self.submit(file(item), read, item))
            # Waiting for the oldest one keeps the order, however long each takes.
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
