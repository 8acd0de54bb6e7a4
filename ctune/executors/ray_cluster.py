"""Workers of a Ray cluster: one actor a GPU, or one for so many cores, each with its model loaded.

A node that is lost takes its actors with it: what they had under way is handed out again, and for each an actor is asked for
anew, which runs as soon as some node has room for it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ctune
from ctune.errors import ExecutorError, UsageError
from ctune.executors.local import described, opened, set_threads
from ctune.executors.work import Answer, Crew, Work

_WAIT_S = 5.0
"""Between two looks at whether the cluster has grown."""
_STARTS = 12
"""How often in a row workers may fail to start while none works."""
_START_S = 300.0
"""How long no worker at all may take to be ready."""


class RayCluster:
    """Actors on the cluster at `address` (None or "local": one of this machine alone, for the while).

    cores, gpus: what one actor takes; it computes with `cores` threads, and with one GPU where the cluster has any when None.
    workers: how many actors; as many as the cluster has room for when None, and more when it grows. Raises UsageError when Ray
    is not installed, ExecutorError when the cluster cannot be reached or has another ctune, Python or Ray.
    """

    def __init__(
        self,
        address: str | None = "auto",
        *,
        workers: int | None = None,
        cores: int = 1,
        gpus: float | None = None,
    ) -> None:
        self.address, self.workers, self.cores, self.gpus = address, workers, cores, gpus

    @contextmanager
    def crew(self, work: Work) -> Iterator[Crew]:
        """See ``work.Executor``."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address)
        made = _Actors(ray, work, self)
        try:
            yield made
        finally:
            made.close()
            if ours:
                ray.shutdown()


class _Actors:
    def __init__(self, ray: Any, work: Work, settings: RayCluster) -> None:
        self._ray, self._settings, self._overlap = ray, settings, work.overlap
        there = ray.cluster_resources().get("GPU", 0)
        self._gpus = settings.gpus if settings.gpus is not None else (1.0 if there else 0.0)
        # Put together by us in the worker, where an error can be told: another ctune may not know what it is.
        self._work = ray.put(ray.cloudpickle.dumps(work))
        self._class = ray.remote(
            num_cpus=settings.cores, num_gpus=self._gpus, max_restarts=0, max_concurrency=work.overlap,
            scheduling_strategy="SPREAD",
        )(_Actor)  # fmt: skip
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, int] = {}
        self._under_way: dict[Any, tuple[int, Any]] = {}
        self._ever, self._failures, self._unfit = False, 0, 0
        self._grow()

    def room(self) -> int:
        return sum(self._overlap - busy for busy in self._busy.values())

    def give(self, ticket: int, item: Any) -> None:
        actor = min(self._busy, key=self._busy.__getitem__)
        self._busy[actor] += 1
        self._under_way[actor.do.remote(item)] = (ticket, actor)

    def take(self) -> list[Answer]:
        refs = [*self._starting, *self._under_way]
        patience = _WAIT_S if self._ever else _START_S
        ended, _ = (
            self._ray.wait(refs, num_returns=1, timeout=patience, fetch_local=True) if refs else ([], [])
        )
        if not ended and not self._ever:
            raise ExecutorError(
                f"expected a worker of {self._what()} within {_START_S:.0f} s, the cluster at {self._settings.address} started "
                "none; look at `ray status`, or ask for less with --cores"
            )
        self._grow()
        return [answer for ref in ended if (answer := self._ended(ref)) is not None]

    def close(self) -> None:
        for actor in [*self._busy, *self._starting.values()]:
            self._ray.kill(actor)

    def _ended(self, ref: Any) -> Answer | None:
        if ref in self._starting:
            self._started(ref, self._starting.pop(ref))
            return None
        ticket, actor = self._under_way.pop(ref)
        if actor in self._busy:
            self._busy[actor] -= 1
        try:
            value, error = self._ray.get(ref)
        except self._ray.exceptions.RayError as lost:
            self._busy.pop(actor, None)
            self._ray.kill(actor)
            return Answer(ticket, error=f"its worker was lost: {_first_line(lost)}", lost=True)
        return Answer(ticket, value, error)

    def _started(self, ref: Any, actor: Any) -> None:
        try:
            failed, unfit = self._ray.get(ref)
        except self._ray.exceptions.RayError as lost:
            # Its node went while it started, and another is asked for; or ctune is not there.
            failed, unfit = f"expected a worker to start, it ended: {_last_line(lost)}", False
        if unfit:
            self._unfit += 1
            warnings.warn(f"a worker is not used: {failed}", stacklevel=2)
            if self._unfit >= self._wanted and not self._busy:
                raise ExecutorError(failed)
        if failed is not None:
            self._ray.kill(actor)
            # What it reads from may be away for a while. Where nobody could ever start, or nobody can any more, it is not that.
            self._failures += 1
            if self._failures >= (_STARTS if self._ever else min(_STARTS, self._wanted)) and not self._busy:
                raise ExecutorError(failed)
            time.sleep(0.0 if self._busy or self._starting else _WAIT_S)
            return
        self._ever, self._failures = True, 0
        self._busy[actor] = 0

    def _grow(self) -> None:
        self._wanted = self._settings.workers or max(1, self._room_of_cluster())
        there = len(self._busy) + len(self._starting)
        for _ in range(max(self._wanted - self._unfit - there, 0 if there else 1)):
            actor = self._class.remote(self._work, self._settings.cores, code())
            self._starting[actor.open.remote()] = actor

    def _room_of_cluster(self) -> int:
        there, asked = self._ray.cluster_resources(), self._settings
        rooms = [there.get("CPU", 0) // asked.cores] if asked.cores else []
        rooms += [there.get("GPU", 0) // self._gpus] if self._gpus else []
        return int(min(rooms))

    def _what(self) -> str:
        gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
        return f"{self._settings.cores} cores{gpus}"


class _Actor:
    """In a worker's process. What its methods give is plain: an error of ours need not be known to Ray."""

    def __init__(self, work: bytes, threads: int, code: str) -> None:
        self._work, self._threads, self._code = work, threads, code

    def open(self) -> tuple[str | None, bool]:
        """Load the model. Gives why it cannot, and whether it never will."""
        if code() != self._code:
            return (
                f"expected {self._code} on every machine, {platform.node()} has {code()}; install the same there, or leave the "
                "machine out",
                True,
            )
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        set_threads(self._threads)
        try:
            self._do = opened(_ray().cloudpickle.loads(self._work))
        except ExecutorError as error:
            return str(error), False
        return None, False

    def do(self, item: Any) -> tuple[Any, str | None]:
        """(value, None), or (None, why it failed)."""
        try:
            return self._do(item), None
        except Exception as error:
            return None, described(error)


@cache
def code() -> str:
    """What computes here: results are equal byte for byte only where this is. The same version may hold other files."""
    files, digest = Path(ctune.__file__).parent, hashlib.sha256()
    for path in sorted(files.rglob("*.py")):
        digest.update(f"{path.relative_to(files).as_posix()}\n".encode() + path.read_bytes())
    torch = metadata.version("torch").partition("+")[0]  # its builds for CPUs and GPUs may work together
    return f"ctune {ctune.__version__} ({digest.hexdigest()[:8]}) with torch {torch}"


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError(
            "expected Ray for --executor ray, it is not installed; run `pip install ctune[ray]`"
        ) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        _knock(address)
        ray.init(
            address=None if address == "local" else address, logging_level=logging.ERROR, log_to_driver=False,
            include_dashboard=False if address in (None, "local") else None, configure_logging=False,
        )  # fmt: skip
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ExecutorError(
            f"expected a Ray cluster at {address!r}, got none: {_first_line(error)}; start one with `ray start --head`, or use "
            "--executor local"
        ) from None


def _knock(address: str | None) -> None:
    """Ray itself tries for minutes. Raises OSError when nobody listens at HOST:PORT."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass


def _last_line(error: BaseException) -> str:
    """What a traceback in the text ends with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
