"""Draw what comes next while the network works on what is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")


class Prefetched(Generic[Item, Drawn]):
    """``draw(item)`` of each item, in order, up to `ahead` of them computed before they are asked for; 0 draws when asked.

    waited: seconds in which there was nothing to hand out, so far. What is drawn must not depend on when: then the values are
    the same whatever `ahead` is.
    """

    def __init__(self, draw: Callable[[Item], Drawn], items: Iterable[Item], ahead: int) -> None:
        self._draw, self._items, self._ahead = draw, items, ahead
        self.waited = 0.0

    def __iter__(self) -> Iterator[Drawn]:
        if self._ahead == 0:
            for item in self._items:
                yield self._timed(lambda item=item: self._draw(item))  # type: ignore[misc]
            return
        waiting = deque[Future[Drawn]]()
        with ThreadPoolExecutor(min(self._ahead, 4), thread_name_prefix="prefetch") as pool:
            try:
                for item in self._items:
                    waiting.append(pool.submit(self._draw, item))
                    if len(waiting) > self._ahead:
                        yield self._timed(waiting.popleft().result)
                while waiting:
                    yield self._timed(waiting.popleft().result)
            finally:
                for left in waiting:
                    left.cancel()

    def _timed(self, get: Callable[[], Drawn]) -> Drawn:
        began = time.perf_counter()
        try:
            return get()
        finally:
            self.waited += time.perf_counter() - began
