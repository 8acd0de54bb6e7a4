"""Parts of a run that another run's result may already hold.

A run of five seeds takes hours. It can be shared among processes, one seed or data set each, and put together afterwards:
CTUNE_SELECTION_DATA names, with commas, what a run measures (everything by default; `cost` wants the machine for itself); CTUNE_SELECTION_RESULTS names a folder of
results whose parts are taken as they are, where they were measured at the same scale.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ctune.bench.earlier import results_in
from ctune.bench.parts import plain
from ctune.bench.result import BenchResult, Part
from ctune.errors import UsageError


def asked(every: Sequence[str]) -> tuple[str, ...]:
    """Those of `every` that CTUNE_SELECTION_DATA names; all without it. Raises UsageError for another name."""
    named = [name.strip() for name in os.environ.get("CTUNE_SELECTION_DATA", "").split(",") if name.strip()]
    if unknown := [name for name in named if name not in every]:
        raise UsageError(
            f"expected some of {', '.join(every)} in CTUNE_SELECTION_DATA, got {unknown[0]!r}; separate them with commas"
        )
    return tuple(name for name in every if name in named or not named)


class Earlier:
    """Parts of results in the folder that CTUNE_SELECTION_RESULTS names; none without it. The newest result goes first."""

    def __init__(self, preset: str) -> None:
        self.results = results_in("CTUNE_SELECTION_RESULTS", "selection", preset)
        self.parts: dict[str, Part] = {}
        """What the parts took that were asked for here and found."""

    def data_set(self, seed: int, name: str, scale: Mapping[str, Any], rounds: bool) -> dict[str, Any] | None:
        """One data set of one seed, where it was measured at this scale, with rounds when they are asked for."""
        for result in self.results:
            one: Any = result.details.get(f"seed {seed}")
            found = one.get(name) if one else None
            if found and found.get("scale") == plain(scale) and bool(found["worth"]) == rounds:
                self._took(result, f"{folder_of(seed, name)}/found")
                return dict(found)
        return None

    def alone(self, name: str, scale: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """What is measured once and not for each seed, at this scale where it has one. name: in a result's details."""
        for result in self.results:
            found: Any = result.details.get(name)
            if found and (scale is None or found["scale"] == plain(scale)):
                self._took(result, name)
                return dict(found)
        return None

    def _took(self, result: BenchResult, part: str) -> None:
        if part in result.parts:
            self.parts[part] = result.parts[part]


def folder_of(seed: int, name: str) -> str:
    """Of a data set, below the folder of a run."""
    return f"seed-{seed}/{name.replace(' ', '-')}"
