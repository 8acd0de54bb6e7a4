"""A model in the place of another while the service runs: when the alias moves, only the heads that changed are loaded.

Loading and checking happen beside the work. The switch itself is one assignment: whoever is at work ends with the model that
it began with, whoever comes next gets the new one. A model that cannot be loaded or checked changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ctune.serve.faults import log, where, without_paths
from ctune.serve.model import ServedModel, load
from ctune.serve.parts import Loader
from ctune.serve.source import Source

_KEPT = 20
_AGAIN_S = 60.0


class Watcher:
    """Looks at `source` every `seconds`; `now` gives the model that is served, `put` puts another in its place."""

    def __init__(
        self,
        source: Source,
        loader: Loader,
        seconds: float,
        now: Callable[[], ServedModel],
        put: Callable[[ServedModel], None],
    ) -> None:
        self._source, self._loader, self._seconds = source, loader, seconds
        self._now, self._put = now, put
        self.swaps: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        """What was put in the place of what, and what was refused, oldest first; for ``/model``."""
        self._refused: tuple[str, float] = ("", 0.0)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def look(self) -> bool:
        """Look once; True when another model is served now."""
        before = self._now()
        try:
            digest = self._source.resolve()
        except Exception as error:
            # The registry may be away for a while: what is in memory serves on.
            log.warning("registry: %s", where(error))
            return False
        if digest == before.about.digest or (
            digest == self._refused[0] and time.monotonic() < self._refused[1]
        ):
            return False
        entry: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "from": f"sha256:{before.about.digest}",
            "to": f"sha256:{digest}",
        }
        begun = time.perf_counter()
        try:
            after = load(self._source, self._loader, digest, before)
        except Exception as error:
            self._refused = digest, time.monotonic() + _AGAIN_S
            text = " ".join(str(error).split())
            self._tell({**entry, "outcome": "refused", "why": without_paths(text, "the registry")})
            log.error(
                "model sha256:%s refused, sha256:%s serves on: %s",
                digest[:12],
                before.about.digest[:12],
                text,
            )
            return False
        self._put(after)
        seconds = round(time.perf_counter() - begun, 4)
        gone = sorted(set(before.classes) - set(after.classes))
        self._tell(
            {**entry, "outcome": "served", "loaded": list(after.loaded), "removed": gone, "seconds": seconds}
        )
        log.info("model sha256:%s in the place of sha256:%s, heads loaded: %s, %.3f s",
                 digest[:12], before.about.digest[:12], ", ".join(after.loaded) or "none", seconds)  # fmt: skip
        return True

    def _tell(self, entry: dict[str, Any]) -> None:
        # The same again, once a minute, is one entry.
        if (
            self.swaps
            and self.swaps[-1]["to"] == entry["to"]
            and self.swaps[-1]["outcome"] == entry["outcome"]
        ):
            self.swaps.pop()
        self.swaps.append(entry)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.look()
