"""Ctrl-C beside threads: it tells them to end, and is raised once they have."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether threads are to end. No ``threading.Event``: that takes a lock to be set, and Ctrl-C can come while it has it."""

    told: bool = False


@contextmanager
def telling(stop: Stop) -> Iterator[None]:
    """Ctrl-C within tells `stop`, and is raised where the block ends, be it in an error: as often as it comes, once.

    Python raises KeyboardInterrupt between any two steps of the main thread: also where it has just taken a lock that a worker needs
    to finish (bpo-29988), and then both wait for ever. In another thread, which Ctrl-C never meets, and under a handler of the
    caller's own nothing changes.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[FrameType | None] = []

    def note(_: int, frame: FrameType | None) -> None:
        came.append(frame)
        stop.told = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
