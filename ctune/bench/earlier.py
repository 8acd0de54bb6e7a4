"""Seeds of a run that another run's result already holds.

Three seeds take hours. They can be shared among processes, machines and days, one seed each, and put together afterwards:
CTUNE_BENCH_RESULTS names a folder of results whose seeds are taken as they are, where they were measured at the same scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ctune.bench.result import BenchResult, Part, read_result
from ctune.errors import UsageError


def results_in(variable: str, what: str, preset: str) -> list[BenchResult]:
    """Results of `what` in the folder that an environment variable names, the newest first; none where it names nothing.

    Raises UsageError when the folder holds no result of it.
    """
    folder = os.environ.get(variable)
    paths = sorted(Path(folder).glob(f"{what}-*.json")) if folder else []
    if folder and not paths:
        raise UsageError(
            f"expected results of {what} in {variable}, found none in {folder}; unset it to measure all"
        )
    found = [result for result in map(read_result, paths) if result.preset == preset]
    return sorted(found, key=lambda result: result.started, reverse=True)


Agrees = Callable[[BenchResult, Mapping[str, Any]], bool]


class EarlierSeeds:
    """Seeds of the results of `what` in the folder that CTUNE_BENCH_RESULTS names; none without it. The newest goes first.

    Raises UsageError when the folder holds no result of it.
    """

    def __init__(self, what: str, preset: str) -> None:
        self._results = results_in("CTUNE_BENCH_RESULTS", what, preset)
        self.parts: dict[str, Part] = {}
        """What the seeds took that were asked for here and found, by name."""
        self.data: dict[str, str] = {}
        """Digests of what they were measured on."""

    def seed(self, number: int, agrees: Agrees, within: str = "") -> dict[str, Any] | None:
        """The details of one seed, of the newest result in which they are what would be measured now.

        agrees: asked for a result and the details of this seed in it; what an older version measured may be of other sizes, or
        lack some. within: the folder below the seed's whose parts are taken, and the word in the names of what they were measured on.
        """
        name = f"seed {number}"
        for result in self._results:
            found: Any = result.details.get(name)
            if found and agrees(result, found):
                # A run of one seed has one part of this name.
                below = f"seed-{number}/{within}"
                self.parts |= {n: part for n, part in result.parts.items() if n.startswith(below)}
                self.data |= {n: d for n, d in result.data.items() if n.endswith(name) and within in n}
                return dict(found)
        return None
