"""Ctrl-C beside threads: they are told, nothing waits for ever, and it is raised once they have ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from ctune.interrupts import telling


def test_ctrl_c_is_noted_within_and_raised_at_the_end() -> None:
    stopped, before = threading.Event(), signal.getsignal(signal.SIGINT)
    reached = False
    with pytest.raises(KeyboardInterrupt), telling(stopped):
        signal.raise_signal(signal.SIGINT)
        reached = stopped.is_set()
    assert reached and signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_goes_before_the_error_of_what_it_ended() -> None:
    with pytest.raises(KeyboardInterrupt), telling(threading.Event()):
        signal.raise_signal(signal.SIGINT)
        raise ValueError("cancelled")


def test_a_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), telling(threading.Event()):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second was noted like the first")
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_changes() -> None:
    seen = []

    def work() -> None:
        with telling(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_without_ctrl_c_nothing_is_told() -> None:
    stopped = threading.Event()
    with telling(stopped):
        pass
    assert not stopped.is_set()


def test_ctrl_c_while_a_lock_is_taken_leaves_no_thread_waiting_for_it() -> None:
    """The lock of a head's future, in the moment in which the main thread begins to wait for it."""
    code = """if True:
        import os, signal, threading, concurrent.futures._base as futures
        import torch
        from ctune.tune import _side_by_side
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped, began = threading.Event(), threading.Event()

        def head(name):
            began.set()
            while not stopped.wait(0.01):
                pass
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
            _side_by_side(head, ["spleen"], torch.device("cpu"), stopped)
        except KeyboardInterrupt:
            print("ended")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
