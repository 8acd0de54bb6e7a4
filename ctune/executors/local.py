"""Workers of this machine: threads of this process, or processes of their own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ctune.errors import CtuneError, ExecutorError
from ctune.executors.work import Answer, Crew, Work


class Local:
    """One worker in this process when `workers` is 1, with `overlap` threads; else so many processes of one thread.

    threads: with how many each computes; None leaves what torch chooses.
    """

    def __init__(self, workers: int = 1, threads: int | None = None) -> None:
        self.workers, self.threads = workers, threads

    @contextmanager
    def crew(self, work: Work) -> Iterator[Crew]:
        """See ``work.Executor``."""
        made = (
            _Threads(work, self.threads)
            if self.workers == 1
            else _Processes(work, self.workers, self.threads)
        )
        try:
            yield made
        finally:
            made.close()


class _Futures:
    """A crew whose workers answer with futures."""

    def __init__(self, places: int) -> None:
        self._places, self._busy = places, 0
        self._ended: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()

    def room(self) -> int:
        return self._places - self._busy

    def take(self) -> list[Answer]:
        ticket, future = self._ended.get()
        self._busy -= 1
        return [self._answer(ticket, future)]

    def _watch(self, ticket: int, future: Future[Any]) -> None:
        self._busy += 1
        future.add_done_callback(lambda ended: self._ended.put((ticket, ended)))

    def _answer(self, ticket: int, future: Future[Any]) -> Answer:
        error = future.exception()
        if error is None:
            return Answer(ticket, future.result())
        if isinstance(error, BrokenExecutor):
            return Answer(
                ticket,
                error="its worker ended before it answered; was it killed, or out of memory?",
                lost=True,
            )
        if isinstance(error, ExecutorError) or not isinstance(error, Exception):
            raise error
        return Answer(ticket, error=described(error))


class _Threads(_Futures):
    def __init__(self, work: Work, threads: int | None) -> None:
        super().__init__(work.overlap)
        set_threads(threads)
        self._do = work.open()
        self._pool = ThreadPoolExecutor(work.overlap, thread_name_prefix="worker")

    def give(self, ticket: int, item: Any) -> None:
        self._watch(ticket, self._pool.submit(self._do, item))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Processes(_Futures):
    """Processes with one item each at a time: when one ends by force, no other item is lost with it."""

    def __init__(self, work: Work, workers: int, threads: int | None) -> None:
        super().__init__(workers)
        self._spawn = multiprocessing.get_context(
            "spawn"
        )  # not forked: torch's threads do not survive a fork
        self._stop = self._spawn.Event()
        self._setup = (work, threads, self._stop)
        self._idle = [self._make() for _ in range(workers)]
        self._all = set(self._idle)

    def give(self, ticket: int, item: Any) -> None:
        process = self._idle.pop()
        with _deaf():
            future = process.submit(_do_here, item)
        # Before the answer is there: whoever takes the answer finds the process idle again, or another in its place.
        future.add_done_callback(lambda ended: self._idle.append(self._next(process, ended)))
        self._watch(ticket, future)

    def close(self) -> None:
        self._stop.set()
        for process in self._all:
            process.shutdown(cancel_futures=True)

    def _next(self, process: ProcessPoolExecutor, ended: Future[Any]) -> ProcessPoolExecutor:
        if not isinstance(ended.exception(), BrokenExecutor):
            return process
        self._all.discard(process)
        made = self._make()
        self._all.add(made)
        return made

    def _make(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=self._spawn, initializer=_set_up, initargs=self._setup)


_here: dict[str, Any] = {}
"""What this process is a worker for."""


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started meanwhile hears no Ctrl-C until it is set up; it would print what it was importing."""
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def _set_up(work: Work, threads: int | None, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what came meanwhile is forgotten: `stop` tells
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _here.update(work=work, threads=threads, stop=stop)


def _do_here(item: Any) -> Any:
    if _here["stop"].is_set():
        return None
    if "do" not in _here:
        # Here and not in the initializer: an error in that one breaks the pool and says nothing.
        set_threads(_here["threads"])
        _here["do"] = opened(_here["work"])
    do: Callable[[Any], Any] = _here["do"]
    return do(item)


def opened(work: Work) -> Callable[[Any], Any]:
    """``work.open()``. Raises ExecutorError with what was wrong: no item could be done."""
    try:
        return work.open()
    except Exception as error:
        raise ExecutorError(
            f"expected a worker to be ready for cases, it failed to start: {described(error)}"
        ) from None


def set_threads(threads: int | None) -> None:
    """How many threads torch computes with in this process; None leaves it."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def described(error: BaseException) -> str:
    """An error in one line: what ctune raises says all itself, others with their kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, CtuneError) else f"{type(error).__name__}: {text}"
