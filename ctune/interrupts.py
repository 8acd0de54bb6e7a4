"""Ctrl-C beside threads: it tells them to end, and is raised once they have."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def telling(stopped: threading.Event) -> Iterator[None]:
    """The first Ctrl-C within sets `stopped` and is answered where the block ends, be it in an error; a second one at once.

    Python raises KeyboardInterrupt between any two steps of the main thread: also where it has just taken a lock that a worker needs
    to finish (bpo-29988), and then both wait for ever. In another thread, which Ctrl-C never meets, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[FrameType | None] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            before(number, frame)
        came.append(frame)
        stopped.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(signal.SIGINT, came[0])
