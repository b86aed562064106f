"""Files read ahead in threads, and not waited for without an end: a disk or a network share may hang."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import TimeoutError as NotYet
from multiprocessing.pool import AsyncResult, ThreadPool
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fervit_lib.system.runtime import cpu_count, display_path

R = TypeVar("R")
T = TypeVar("T")
TIMEOUT_SECONDS = 120.0  # seconds for one file; a slow share takes some, a dead one all


class PendingRead(Generic[R]):
    """A file that a thread reads."""

    def __init__(self, file: str, result: AsyncResult) -> None:
        self.file, self._result = file, result

    def result(self) -> R:
        """What was read, or the error of it.

        Raises:
            TimeoutError: the file is not there after `TIMEOUT_SECONDS` seconds of waiting, with its name.
        """
        try:
            return self._result.get(TIMEOUT_SECONDS)
        except NotYet:
            raise TimeoutError(
                f"{display_path(self.file)}: not read within {TIMEOUT_SECONDS:g} s, expected a file that opens at once; see "
                f"whether its disk or network share answers, or take the file out, and run the same again"
            ) from None


class PrefetchPool:
    """Threads that read files. One that hangs is left behind, and holds up neither an error nor the process's end.

    Args:
        number: of threads; None: as many as there are cores.
    """

    def __init__(self, number: int | None = None) -> None:
        self._pool = ThreadPool(
            number or cpu_count()
        )  # daemon threads, which an executor's are not

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.terminate()

    def submit(self, file: Any, read: Callable[..., R], *arguments: Any) -> PendingRead[R]:
        """Let a thread call `read(*arguments)`, which reads `file`."""
        return PendingRead(str(file), self._pool.apply_async(read, arguments))

    def map(
        self, read: Callable[[T], R], items: Iterable[T], file: Callable[[T], Any], ahead: int = 256
    ) -> Iterator[R]:
        """`read(item)` of every item, in order; up to `ahead` of the next ones are read meanwhile.

        Args:
            file: which one an item is in, for the error.
        """
        waiting: deque[PendingRead[R]] = deque()
        for item in items:
            waiting.append(self.submit(file(item), read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
