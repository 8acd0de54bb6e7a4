"""Rivals from continual learning: what one is asked to do, and where they are found.

They are other people's methods, there to be measured against: they live in ``benchmarks/rivals`` of a checkout and are no
part of the library.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch

from ctune.config import Optimisation
from ctune.data.prepared import PreparedCase
from ctune.errors import UsageError
from ctune.model.heads import Kind
from ctune.model.network import Network
from ctune.types import OnProgress

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "rivals"
_MODULE = "ctune_rivals"
ASKED = "CTUNE_RIVALS"
"""Names with commas: the rivals that a run measures."""


class Pace:
    """How long a rival learns in a round: so many steps or, with `seconds`, until these are over.

    The seconds begin with the pace: what a method works out before its first step counts. clock: what they are read from.

    >>> pace = Pace(steps=2)
    >>> pace.step()
    >>> pace.share, pace.goes_on(until=0.5), pace.goes_on()
    (0.5, False, True)
    """

    def __init__(
        self, steps: int = 0, seconds: float | None = None, clock: Callable[[], float] = time.process_time
    ) -> None:
        self._steps, self._seconds, self._clock, self._begun = steps, seconds, clock, clock()
        self.taken = 0
        """Steps so far."""

    @property
    def share(self) -> float:
        """Of the budget, what is gone: 0 to 1."""
        if self._seconds is None:
            return min(1.0, self.taken / max(self._steps, 1))
        return min(1.0, (self._clock() - self._begun) / max(self._seconds, 1e-9))

    def goes_on(self, until: float = 1.0) -> bool:
        """Whether there is time for another step before that share is gone. Every budget has time for one step."""
        if self._seconds is None:
            return self.taken < int(until * self._steps)
        return self.share < until or (until == 1.0 and not self.taken)

    def step(self) -> None:
        """Another step was taken."""
        self.taken += 1


@dataclass(frozen=True)
class Task:
    """One round as a rival sees it.

    new: the class that it adds; the network has a fresh head of it. old: the classes from before. cases: what trains, with
    labels of `new` alone. earlier: for the base and each former round the cases that trained it, with the labels that they
    had then; only a method that keeps data may train on them, or look at them to weigh parameters. pace: when it is over.
    """

    new: str
    old: tuple[str, ...]
    cases: Sequence[PreparedCase]
    earlier: Sequence[Sequence[PreparedCase]]
    settings: Optimisation
    pace: Pace
    seed: int
    device: torch.device
    on_progress: OnProgress


State: TypeAlias = Mapping[str, torch.Tensor]
Learn: TypeAlias = Callable[[Network, Task, State], State]
"""Trains the network in place; gets what it returned in the round before (nothing in the first) and may use it."""


@dataclass(frozen=True)
class Rival:
    """A method. head: the kind that a new class gets; None: that of full training. long: whether it gets the long budget too."""

    learn: Learn
    head: Kind | None = None
    long: bool = True


def find_rivals(folder: Path = FOLDER) -> dict[str, Rival]:
    """{name: rival} of a checkout, in the order of its ``RIVALS``; none where there is no checkout.

    CTUNE_RIVALS, names with commas, takes some of them, or none when it is empty: each costs as much time as continual tuning,
    or more. Raises UsageError for a name in it that is no rival.
    """
    known = _known(folder)
    asked = _asked()
    if not known or asked is None:
        return known
    if unknown := [name for name in asked if name not in known]:
        raise UsageError(
            f"expected names of rivals in {ASKED}, with commas, got {', '.join(map(repr, unknown))}; known are {', '.join(known)}"
        )
    return {name: known[name] for name in known if name in asked}


def rivals_left_out(folder: Path = FOLDER) -> list[str]:
    """Why a run measures no rivals, or not all of them; empty when it measures all."""
    known, found = _known(folder), find_rivals(folder)
    if not known:
        return ["rivals: benchmarks/rivals is part of a checkout, and this is none"]
    if not found:
        return [f"no rivals: {ASKED} is empty"]
    if len(found) < len(known):
        return [f"not every rival: {', '.join(found)} alone, as {ASKED} asked"]
    return []


def _asked() -> list[str] | None:
    """Names in CTUNE_RIVALS; None where it is not set."""
    names = os.environ.get(ASKED)
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _known(folder: Path) -> dict[str, Rival]:
    init = folder / "__init__.py"
    if not init.exists():
        return {}
    if _MODULE not in sys.modules:
        spec = importlib.util.spec_from_file_location(_MODULE, init, submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module
        spec.loader.exec_module(module)
    return dict(cast("Mapping[str, Rival]", sys.modules[_MODULE].RIVALS))
