"""Who predicts a case, where several runs fill one folder: the one that holds its lock.

The operating system gives a lock back when its process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from ctune.errors import DataError

_POLL_S = 0.2
_PATIENCE_S = 1800.0
"""Of waiting for another run's case: a machine that lost its power may leave a lock on a shared file system."""


class Claim:
    """The right to write one case's folder; nobody else, in this process or another, has it at the same time."""

    def __init__(self, folder: Path) -> None:
        # Beside the folder: a case that cannot be read leaves none; by a hash: names may be as long as a file system allows.
        name = hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:16]
        self._path = folder.with_name(f".{name}.lock")
        # Not of one thread: it is taken by the thread that computes and given back by the one that writes.
        self._lock = FileLock(self._path, thread_local=False)

    def take(self, *, wait: bool) -> bool:
        """Take it; without `wait` returns False where another run has it. Raises DataError where that one never ends."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=_PATIENCE_S if wait else 0, poll_interval=_POLL_S)
        except Timeout:
            if wait:
                raise DataError(
                    f"expected nobody at this case any more, another run has held {self._path} for {_PATIENCE_S / 60:.0f} minutes; "
                    "end that run, or remove the file if there is none, and predict again"
                ) from None
            return False
        return True

    def give_back(self) -> None:
        """Let another run have it; nothing happens when it is not held."""
        if self._lock.is_locked:
            # Still held: who has opened it meanwhile finds that its name is gone, and asks again.
            self._path.unlink(missing_ok=True)
            self._lock.release()


class Claims:
    """The claims that a run holds."""

    def __init__(self) -> None:
        self._held: dict[Path, Claim] = {}

    def take(self, folder: Path, *, wait: bool = False) -> bool:
        """See ``Claim.take``."""
        claim = Claim(folder)
        taken = claim.take(wait=wait)
        if taken:
            self._held[folder] = claim
        return taken

    def give_back(self, folder: Path) -> None:
        """Let another run write `folder`."""
        self._held.pop(folder).give_back()

    def give_all_back(self) -> None:
        """The same for all that are held."""
        for folder in list(self._held):
            self.give_back(folder)
