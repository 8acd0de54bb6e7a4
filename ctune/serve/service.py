"""The service without HTTP: one model at a time, one line of work, one folder for what lies on disk meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from uuid import uuid4

from filelock import FileLock, Timeout

from ctune import __version__
from ctune.errors import UsageError
from ctune.serve.faults import Refused, Stopped, TimedOut, log, status_of, told, where
from ctune.serve.intake import Limits
from ctune.serve.jobs import JobRow, Jobs, State
from ctune.serve.metrics import Metrics
from ctune.serve.model import ServedModel, load
from ctune.serve.parts import Loader
from ctune.serve.segment import Answer, Asked, asked_of, segment
from ctune.serve.source import Source
from ctune.serve.swap import Watcher
from ctune.serve.tokens import Tokens
from ctune.serve.work import Ticket, Worker

INTENDED_USE = "Research: masks and volumes for people to check. Not a medical device; no diagnosis or treatment may rest on it alone."

Work: TypeAlias = Callable[[ServedModel, BinaryIO, Asked, Path, Limits, Callable[[], None]], Answer]
"""``segment``, or what else is done with one volume."""


@dataclass(frozen=True)
class Settings:
    """state: folder for uploads and jobs. queue: volumes that may wait. seconds: for one answer, upload_seconds: for its
    upload. hosts: names that the service answers to, any when empty. jobs: that may wait; job_seconds: for one of them;
    keep_seconds: how long it is kept after its end. poll_seconds: between two looks at the registry."""

    state: Path
    limits: Limits = field(default_factory=Limits)
    queue: int = 16
    seconds: float = 600.0
    upload_seconds: float = 300.0
    tokens: Tokens = field(default_factory=lambda: Tokens({}))
    hosts: tuple[str, ...] = ()
    runtime: str = "torch"
    jobs: int = 64
    job_seconds: float = 3600.0
    poll_seconds: float = 2.0
    keep_seconds: float = 24 * 3600.0

    def __post_init__(self) -> None:
        # Errors name files: an absolute path is known for one and kept from answers.
        object.__setattr__(self, "state", self.state.absolute())


@dataclass(frozen=True, eq=False)
class Made:
    """An answer whose folder is gone already: the open file is all that is left of it."""

    file: BinaryIO
    size: int
    media_type: str
    about: dict[str, Any]


class Service:
    """Start it, ask it, close it. Raises UsageError when another one uses the same folder.

    model: the one to begin with. With `source` and `loader`, the model that the source means then takes its place.
    """

    def __init__(
        self,
        model: ServedModel,
        settings: Settings,
        source: Source | None = None,
        loader: Loader | None = None,
    ) -> None:
        self.model, self.settings = model, settings
        self.watcher: Watcher | None = None
        if source and loader:
            self.watcher = Watcher(source, loader, settings.poll_seconds, lambda: self.model, self._put)
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.scratch = settings.state / "scratch"
        self._lock = _locked(settings.state)
        # What a killed process left.
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        self.jobs = Jobs(settings.state, settings.jobs, settings.keep_seconds)
        self.worker = Worker(settings.queue, self._next_job)
        self.metrics = Metrics(lambda: self.worker.waiting, lambda: self.jobs.waiting)
        self._running: tuple[str, Ticket] | None = None
        self._inside = 0

    def start(self) -> None:
        """Begin to work."""
        self.worker.start()
        if self.watcher:
            self.watcher.start()

    def close(self, seconds: float = 10.0) -> None:
        """End what runs, within about `seconds`, and leave nothing in the folder; once more does nothing."""
        if self.watcher:
            self.watcher.close()
        self.worker.close(seconds)
        self.jobs.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.release()

    @property
    def ready(self) -> bool:
        """Whether a request would be worked on."""
        return self.worker.alive

    @contextmanager
    def place(self) -> Iterator[None]:
        """Held from before the upload to the answer: no more uploads lie on disk than may wait. Raises Refused (429)."""
        if self._inside > self.settings.queue:
            raise self.worker.full()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def submit(self, upload: BinaryIO, asked: Asked, work: Work = segment) -> Ticket:
        """Ask for one volume; the ticket's result is ``Made``. Raises UnknownClassError, Refused.

        The model is the one of the moment when the work begins, so that nobody gets an older one than who came before.
        """
        self.model.choose(asked.classes)
        return self.worker.submit(lambda ticket: self._do(work, upload, asked, ticket), self.settings.seconds)

    def _do(self, work: Work, upload: BinaryIO, asked: Asked, ticket: Ticket) -> Made:
        folder = self.scratch / uuid4().hex
        folder.mkdir()
        try:
            answer = work(self.model, upload, asked, folder, self.settings.limits, ticket.check)
            self.metrics.predicted(answer.about)
            return opened(answer)
        finally:
            upload.close()
            shutil.rmtree(folder, ignore_errors=True)

    def add_job(self, upload: BinaryIO, fields: Mapping[str, str], owner: str) -> JobRow:
        """Keep a volume for later. Raises UnknownClassError, UsageError, Refused (429)."""
        self.model.choose(asked_of(fields).classes)
        job_id = self.jobs.add(upload, fields, owner)
        self.worker.wake()
        return self.jobs.find(job_id, owner)

    def delete_job(self, job_id: str) -> None:
        """Forget a job; when it runs, it is stopped."""
        running = self._running
        self.jobs.delete(job_id)
        if running and running[0] == job_id:
            running[1].stop()

    def result_of(self, job: JobRow) -> Made:
        """The result of a job. Raises Refused: 409 when it is not done yet, else what it failed with."""
        if job.state is State.FAILED:
            raise Refused(job.status or 500, job.error or "failed")
        if job.state is not State.DONE:
            raise Refused(
                409, f"expected a job that is done, this one is {job.state}; ask again", Retry_After="2"
            )
        path = self.jobs.folder(job.id) / "result"
        return Made(path.open("rb"), path.stat().st_size, job.media_type or "", dict(job.about or {}))

    def _put(self, model: ServedModel) -> None:
        self.model = model
        self.metrics.swaps.inc()

    def _next_job(self) -> Ticket | None:
        self.jobs.expire()
        job = self.jobs.begin()
        if job is None:
            return None
        ticket = Ticket(lambda ticket: self._work_on(job, ticket), self.settings.job_seconds)
        self._running = job.id, ticket
        return ticket

    def _work_on(self, job: JobRow, ticket: Ticket) -> None:
        try:
            upload = (self.jobs.folder(job.id) / "upload").open("rb")
            made = self._do(segment, upload, asked_of(job.fields), ticket)
            with made.file:
                self.jobs.done(job.id, made.file, made.media_type, made.about)
        except Exception as error:
            if isinstance(error, Stopped) and not isinstance(error, TimedOut):
                self.jobs.again(job.id)
                return
            status = status_of(error)
            if status == 500:
                log.error("job=%s %s", job.id, where(error))
            self.jobs.failed(job.id, status, told(error, status, self.settings.state))
        finally:
            self._running = None

    def card(self) -> dict[str, Any]:
        """What ``/model`` tells."""
        model = self.model
        return {
            "name": model.about.name,
            **model.digests(model.classes),
            "runtime": self.settings.runtime,
            "device": str(model.device),
            "loaded_in_seconds": model.seconds,
            "swaps": list(self.watcher.swaps) if self.watcher else [],
            "card": dict(model.about.card),
            "intended_use": INTENDED_USE,
            "ctune": __version__,
            "started": self.started,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def open_service(source: Source, settings: Settings, loader: Loader, runtime: str) -> Service:
    """A service of the model that `source` means, not started. Raises whatever loading raises."""
    model = load(source, loader, source.resolve())
    return Service(model, replace(settings, runtime=runtime), source, loader)


def opened(answer: Answer) -> Made:
    """An answer's file, open: its folder may go now."""
    file = answer.path.open("rb")
    return Made(file, answer.path.stat().st_size, answer.media_type, answer.about)


def _locked(state: Path) -> FileLock:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(state / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"expected {state} for one service alone, another one uses it; give --state another folder"
        ) from None
    return lock
