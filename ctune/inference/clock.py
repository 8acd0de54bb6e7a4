"""Where the time of a prediction goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter, thread_time
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["read", "resample", "network", "accumulate", "invert", "postprocess", "write"]


class Clock:
    """Seconds by stage; reading and writing run beside the rest, so that the sum may be more than the whole.

    processor: what the calling thread alone computed. On an accelerator, work is counted where something waits for it.

    >>> clock = Clock()
    >>> with clock("read"):
    ...     pass
    >>> list(clock.seconds)
    ['read']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        begun, used = perf_counter(), thread_time()
        try:
            yield
        finally:
            wall, own = perf_counter() - begun, thread_time() - used
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + wall
                self.processor[stage] = self.processor.get(stage, 0.0) + own
