"""What ends a request, and the HTTP status that says so."""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from pathlib import Path

from ctune.errors import CtuneError, DataError, UsageError

log = logging.getLogger("ctune.serve")
_PATH = re.compile(r"(?<![\w.])/(?:[\w.~+-]+/)+[\w.~+-]*")

NO_FOLDER = Path("/state")
"""For errors of a service that has not come up yet."""


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


def told(error: Exception, status: int, state: Path) -> str:
    """One line for the client: nothing of the service's inside, nor where its folder `state` lies.

    >>> told(UsageError("expected a CT in my files/state/scratch/1/ct.nii"), 422, Path("my files/state"))
    'expected a CT in the upload'
    """
    if status == 500:
        return "the service failed; its log tells more under this request's id"
    return without_paths(str(error).replace(str(state), "/state"), "the upload")[:600]


def without_paths(text: str, instead: str) -> str:
    """On one line, with `instead` in the place of each absolute path.

    >>> without_paths("sha256:ab is missing in /srv/registry/blobs/ab", "the registry")
    'sha256:ab is missing in the registry'
    """
    return _PATH.sub(instead, " ".join(text.split()))


def where(error: Exception) -> str:
    """For the log: what kind of error and where, not its message, which may hold something of a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(f"{f.name}:{f.lineno}" for f in reversed(frames[-4:]))


def log_to_stderr() -> None:
    """One line a request on stderr, once, however often it is called; and nothing of what libraries have to say.

    Readers of DICOM warn with the name of the patient in the text.
    """
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    for name in ("pydicom", "highdicom", "nibabel.global"):
        logging.getLogger(name).disabled = True
    if not log.handlers:
        told = logging.StreamHandler(sys.stderr)
        told.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(told)
        log.setLevel(logging.INFO)
        log.propagate = False
