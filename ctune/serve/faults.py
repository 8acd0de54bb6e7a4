"""What ends a request, and the HTTP status that says so."""

from __future__ import annotations

from ctune.errors import CtuneError, DataError, UsageError


class Refused(CtuneError):
    """A request that ends here: an HTTP status, one line why, and headers."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Stopped(CtuneError):
    """Work that was stopped because nobody waits for it any more."""


class TimedOut(Stopped):
    """Work that was stopped because its time was over."""


class Wrong(CtuneError):
    """A fault of the service itself; its cause stands in the log alone."""


def status_of(error: Exception) -> int:
    """The HTTP status of an error.

    >>> status_of(UsageError("expected a class, got none"))
    422
    """
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, TimedOut):
        return 504
    if isinstance(error, UsageError | DataError):
        return 422
    return 500
