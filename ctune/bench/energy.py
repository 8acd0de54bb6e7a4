"""Joules of an accelerator: its driver's own counter where it has one, else its power, asked twice a second and added up.

Both are of the whole accelerator: of a machine that others use too, they hold the neighbours' share.
"""

from __future__ import annotations

import ctypes
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Protocol

UNREADABLE = "energy: neither the driver's counter (NVML) nor nvidia-smi tells it here"
_EVERY_S = 0.5


class Meter(Protocol):
    """Counts from when it was made."""

    def joules(self) -> float:
        """So far."""

    def stop(self) -> None:
        """Count no more."""


def meter_of(uuid: str) -> Meter | None:
    """The meter of an accelerator ("GPU-..."), or None where nothing tells its energy."""
    counter = nvml_counter(uuid)
    if counter is not None:
        return Counter(counter)
    watts = smi_watts(uuid)
    return None if watts() is None else Sampler(watts)


class Counter:
    """A counter of joules that rises by itself."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read, self._from = read, read()

    def joules(self) -> float:
        return self._read() - self._from

    def stop(self) -> None:
        pass


class Sampler:
    """Power in watts over time, by the trapezoidal rule; a sample that could not be had is bridged by its neighbours."""

    def __init__(self, watts: Callable[[], float | None], every_s: float = _EVERY_S) -> None:
        self._watts, self._every = watts, every_s
        self._sum, self._last = 0.0, (time.perf_counter(), watts() or 0.0)
        self._lock, self._over = threading.Lock(), threading.Event()
        threading.Thread(target=self._run, daemon=True, name="power").start()

    def joules(self) -> float:
        self._sample()
        return self._sum

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            now = self._watts()
            if now is not None:
                at, before = time.perf_counter(), self._last
                self._sum += (at - before[0]) * (now + before[1]) / 2
                self._last = (at, now)


def nvml_counter(uuid: str) -> Callable[[], float] | None:
    """Joules since the driver was loaded, by its library; None where there is none or the accelerator does not count."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        asked = (
            library.nvmlInit_v2(),
            library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)),
            library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)),
        )
    except (OSError, AttributeError):
        return None
    if any(asked):
        return None

    def read() -> float:
        library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        return millijoules.value / 1000

    return read


def smi_watts(uuid: str) -> Callable[[], float | None]:
    """What asks ``nvidia-smi`` for the power of an accelerator now; it gives None where there is no answer."""
    command = ["nvidia-smi", f"--id={uuid}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]

    def watts() -> float | None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
            return float(done.stdout.strip()) if done.returncode == 0 else None
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None

    return watts
