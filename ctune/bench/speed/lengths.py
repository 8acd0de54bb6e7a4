"""Continual tunings of one seed by how long they are: what fewer or more seconds would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctune.bench.report.tables import mean_dice


def by_epochs(seed: Mapping[str, Any], own: int) -> dict[int, Mapping[str, Any]]:
    """{epochs: what a tuning of so many took and gave}, ascending. own: the epochs of the one that is compared."""
    found = {int(epochs): tuning for epochs, tuning in seed.get("lengths", {}).items()}
    found[own] = seed["continual"]["pyramid"]
    return dict(sorted(found.items()))


def quickest(seed: Mapping[str, Any], new: Sequence[str], unit: str, target: float) -> float | None:
    """Seconds of the quickest tuning, of any length, whose mean Dice of `new` is at least `target`; None: none is."""
    tunings = [seed["continual"]["pyramid"], *seed.get("lengths", {}).values()]
    return min((float(t[unit]) for t in tunings if mean_dice(t["dice"], new) >= target), default=None)
