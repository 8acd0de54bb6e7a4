"""Rivals from continual learning: what one is asked to do, and where they are found.

They are other people's methods, there to be measured against: they live in ``benchmarks/rivals`` of a checkout and are no
part of the library.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch

from ctune.config import Optimisation
from ctune.data.prepared import PreparedCase
from ctune.model.network import Network
from ctune.types import OnProgress

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "rivals"
_MODULE = "ctune_rivals"


@dataclass(frozen=True)
class Task:
    """One round as a rival sees it.

    new: the class that it adds; the network has a fresh head of it. old: the classes from before. cases: what trains, with
    labels of `new` alone. earlier: for the base and each former round the cases that trained it, with the labels that they
    had then; only a method that keeps data may train on them, or look at them to weigh parameters. steps: of optimisation.
    """

    new: str
    old: tuple[str, ...]
    cases: Sequence[PreparedCase]
    earlier: Sequence[Sequence[PreparedCase]]
    settings: Optimisation
    steps: int
    seed: int
    device: torch.device
    on_progress: OnProgress


State: TypeAlias = Mapping[str, torch.Tensor]
Rival: TypeAlias = Callable[[Network, Task, State], State]
"""Trains the network in place; gets what it returned in the round before (nothing in the first) and may use it."""


def find_rivals(folder: Path = FOLDER) -> dict[str, Rival]:
    """{name: rival} of a checkout, in the order of its ``RIVALS``; none where there is no checkout.

    CTUNE_RIVALS, names with commas, takes some of them: each costs as much time as continual tuning, or more.
    """
    init = folder / "__init__.py"
    if not init.exists():
        return {}
    if _MODULE not in sys.modules:
        spec = importlib.util.spec_from_file_location(_MODULE, init, submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module
        spec.loader.exec_module(module)
    known = dict(cast("Mapping[str, Rival]", sys.modules[_MODULE].RIVALS))
    asked = os.environ.get("CTUNE_RIVALS")
    return {name: known[name] for name in known if asked is None or name in asked.split(",")}
