"""Work beside the computation: one thread that reads ahead, one that writes behind; neither gets far away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with ``function(item)``, which is computed in a thread while the item before is worked on.

    An error is raised by the future's ``result``, so that it can be told which item it belongs to.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: list[tuple[Item, Future[Result]]] = []
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 1:
                yield waiting.pop(0)
        yield from waiting


class Behind:
    """One thread that does what is handed over, in that order; at most `limit` things wait for it.

    After an error nothing more is done: the next call, or the end of the ``with``, raises it.
    """

    def __init__(self, limit: int = 16) -> None:
        self._room = BoundedSemaphore(limit)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._error: Exception | None = None
        self._ends: list[Callable[[], None]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Hand over ``function(*arguments)``; waits while too much is waiting."""
        self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        self._pool.submit(self._do, function, arguments)

    def at_end(self, function: Callable[[], None]) -> None:
        """Call `function` when everything else is done, also after an error."""
        self._ends.append(function)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        for function in self._ends:
            function()
        if self._error is not None and error is None:
            raise self._error

    def _do(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            if self._error is None:
                function(*arguments)
        except Exception as found:
            self._error = found
        finally:
            self._room.release()
