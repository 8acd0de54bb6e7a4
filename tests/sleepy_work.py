"""Work for tests of executors, in a module of its own so that other processes find it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sleepy:
    """Sleeps, and gives back the process it was in. bad: items that fail; once: that fail the first time (a file is left in
    `folder`); deadly: that kill their process; unready: the worker does not open."""

    seconds: float = 0.0
    overlap: int = 2
    bad: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()
    folder: str = ""
    unready: bool = False

    def open(self) -> Callable[[int], int]:
        if self.unready:
            raise ValueError("no weights here")

        def do(item: int) -> int:
            time.sleep(self.seconds)
            if item in self.bad:
                raise ValueError(f"item {item} is bad")
            if item in self.once and self._first(item):
                raise OSError("not now")
            if item in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid()

        return do

    def _first(self, item: int) -> bool:
        left = Path(self.folder) / str(item)
        first = not left.exists()
        left.touch()
        return first
