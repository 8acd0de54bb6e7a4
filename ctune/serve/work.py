"""One thread that computes, a bounded line of what waits for it, and a way to stop what nobody waits for.

One volume at a time uses all cores or the whole GPU; two at a time would only take more memory. Work is stopped between windows:
whoever computes calls ``Ticket.check`` often.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ctune.serve.faults import Refused, Stopped, TimedOut, log, where
from ctune.serve.memory import give_back

_RECENT = 8
_LONGEST_SLEEP_S = 30.0
_LONGEST_WINDOW_S = 5.0


class Ticket:
    """A place in the line. result: a future of what the work returns."""

    def __init__(self, work: Callable[[Ticket], Any], seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self.result: Future[Any] = Future()
        self._until = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Nobody waits for it any more."""
        self._stopped.set()

    def check(self) -> None:
        """Raise Stopped when nobody waits any more, TimedOut when its time is over."""
        if self._stopped.is_set():
            raise Stopped("stopped")
        if time.monotonic() > self._until:
            raise TimedOut(
                f"expected an answer within {self.seconds:g} s, it took longer; send the volume to /jobs"
            )


def _nothing(_: Ticket) -> None:
    pass


class Worker:
    """The thread. most: tickets that may wait. idle: asked for work when none waits, and at least every half minute.

    What clients wait for goes before what `idle` has: a job that runs is finished first all the same. When `idle` fails, the
    log tells it, and it is asked again: clients who wait need neither its disk nor its table.
    """

    def __init__(self, most: int, idle: Callable[[], Ticket | None] = lambda: None) -> None:
        self.most, self._idle = most, idle
        self._line: deque[Ticket] = deque()
        self._news = threading.Condition()
        self._recent: deque[float] = deque([1.0], maxlen=_RECENT)
        self._closing = self._woken = False
        self._busy: Ticket | None = None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether work is done at all."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Tickets in the line."""
        return len(self._line)

    def submit(self, work: Callable[[Ticket], Any], seconds: float) -> Ticket:
        """Take a place in the line; `seconds` begin now. Raises Refused (429) when the line is full, 503 at the end."""
        ticket = Ticket(work, seconds)
        with self._news:
            if self._closing:
                raise Refused(503, "the service is about to end; ask again in a moment", Retry_After="5")
            if len(self._line) + (self._busy is not None) > self.most:
                raise self.full()
            self._line.append(ticket)
            self._news.notify()
        return ticket

    def full(self) -> Refused:
        """The answer to one more than may wait."""
        wait = max(1, round(sum(self._recent) / len(self._recent) * len(self._line)))
        return Refused(
            429, f"expected at most {self.most} volumes in the queue, it is full; ask again in {wait} s",
            Retry_After=str(wait),
        )  # fmt: skip

    def wake(self) -> None:
        """Ask `idle` again."""
        with self._news:
            self._woken = True
            self._news.notify()

    def close(self, seconds: float) -> None:
        """Take nothing new; what runs may end within `seconds`, then it is stopped."""
        with self._news:
            self._closing = True
            for ticket in self._line:
                ticket.stop()
            self._news.notify()
        if self._thread.ident is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            if busy := self._busy:
                busy.stop()
            self._thread.join(max(seconds, _LONGEST_WINDOW_S))

    def _run(self) -> None:
        while (ticket := self._next()) is not None:
            begun = time.monotonic()
            self._do(ticket)
            self._recent.append(time.monotonic() - begun)

    def _next(self) -> Ticket | None:
        while True:
            with self._news:
                if self._line:
                    return self._line.popleft()
                if self._closing:
                    return None
            # Not under the lock: it asks a disk.
            if found := self._asked():
                return found
            with self._news:
                if not self._line and not self._closing and not self._woken:
                    self._news.wait(_LONGEST_SLEEP_S)
                self._woken = False

    def _asked(self) -> Ticket | None:
        try:
            return self._idle()
        except Exception as error:
            log.error("jobs: %s", where(error))
            return None

    def _do(self, ticket: Ticket) -> None:
        self._busy = ticket
        try:
            ticket.check()
            ticket.result.set_result(ticket.work(ticket))
        except BaseException as error:
            ticket.result.set_exception(error)
        finally:
            self._busy = None
            # The function that worked holds what it worked on.
            ticket.work = _nothing
            give_back()
