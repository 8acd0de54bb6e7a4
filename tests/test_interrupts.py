"""Ctrl-C beside threads: they are told, nothing waits for ever, and it is raised once they have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest
import torch

from ctune.interrupts import Stop, telling
from ctune.tune import _side_by_side


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    """Python's own handler; a shell that starts the tests in the background leaves none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_noted_within_and_raised_at_the_end() -> None:
    stop, told = Stop(), []
    with pytest.raises(KeyboardInterrupt), telling(stop):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            told.append(stop.told)
    assert told == [True, True] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_goes_before_the_error_of_what_it_ended() -> None:
    with pytest.raises(KeyboardInterrupt), telling(Stop()):
        signal.raise_signal(signal.SIGINT)
        raise ValueError("cancelled")


def test_a_handler_of_the_callers_own_stays() -> None:
    asked, stop = [], Stop()
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    with telling(stop):
        signal.raise_signal(signal.SIGINT)
    assert asked == [signal.SIGINT] and not stop.told


def test_in_another_thread_nothing_changes() -> None:
    seen = []

    def work() -> None:
        with telling(Stop()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_without_ctrl_c_nothing_is_told() -> None:
    stop = Stop()
    with telling(stop):
        pass
    assert not stop.told


def begun_before(error: type[BaseException], head: Callable[[Stop], None]) -> list[str]:
    """The heads that began, of six on one thread, when `head` ends as `error`."""
    begun, stop, threads = list[str](), Stop(), torch.get_num_threads()

    def one(name: str) -> tuple[float, ...]:
        begun.append(name)
        head(stop)
        return ()

    torch.set_num_threads(1)
    try:
        with pytest.raises(error):
            _side_by_side(one, list("abcdef"), torch.device("cpu"), stop)
    finally:
        torch.set_num_threads(threads)
    return begun


def test_no_head_begins_after_ctrl_c() -> None:
    def head(stop: Stop) -> None:
        # To the process, as a terminal sends it: what a thread raises itself does not wake the main one.
        os.kill(os.getpid(), signal.SIGINT)
        while not stop.told:
            threading.Event().wait(0.01)
        raise CancelledError

    assert begun_before(KeyboardInterrupt, head) == ["a"]


def test_hardly_a_head_begins_after_an_error() -> None:
    """One may be taken before the main thread is awake."""

    def head(_: Stop) -> None:
        threading.Event().wait(0.1)
        raise ValueError("diverged")

    assert len(begun_before(ValueError, head)) <= 2


def test_ctrl_c_while_a_lock_is_taken_leaves_no_thread_waiting_for_it() -> None:
    """The lock of a head's future, in the moment in which the main thread begins to wait for it."""
    code = """if True:
        import os, signal, threading, concurrent.futures._base as futures
        import torch
        from ctune.interrupts import Stop
        from ctune.tune import _side_by_side
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop, began = Stop(), threading.Event()

        def head(name):
            began.set()
            while not stop.told:
                threading.Event().wait(0.01)
            raise futures.CancelledError

        plain = futures._AcquireFutures.__enter__

        def taken(self):
            plain(self)
            began.wait()
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # a signal is answered at the next turn of a loop
                pass

        futures._AcquireFutures.__enter__ = taken
        try:
            _side_by_side(head, ["spleen"], torch.device("cpu"), stop)
        except KeyboardInterrupt:
            print("ended")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
