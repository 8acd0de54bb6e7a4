"""Options of the commands that work case by case: on which machines, and by how many workers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.options import choice

if TYPE_CHECKING:
    from ctune.executors.work import Executor


class Executors(StrEnum):
    """Where work is done."""

    LOCAL = "local"
    RAY = "ray"


ExecutorName: TypeAlias = Annotated[
    str, typer.Option("--executor", help="local: this machine. ray: a Ray cluster (extra ray).")
]
Address: TypeAlias = Annotated[
    str,
    typer.Option(
        "--address", help="Of the Ray cluster: HOST:PORT, or auto for the one that this machine is in."
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="How many; by default this process alone, or all that the cluster has room for.",
        show_default=False,
    ),
]  # fmt: skip
Cores: TypeAlias = Annotated[
    int | None, typer.Option("--cores", min=1, help="A worker computes with so many; one by default on Ray.", show_default=False)
]  # fmt: skip


def executor_of(name: str, address: str, workers: int | None, cores: int | None) -> Executor | None:
    """What the options mean; None for this process as it is. Raises UsageError for an unknown executor."""
    from ctune.executors.local import Local
    from ctune.executors.ray_cluster import RayCluster

    if choice(Executors, name, "--executor") is Executors.RAY:
        return RayCluster(address, workers=workers, cores=cores or 1)
    return None if workers is None and cores is None else Local(workers or 1, cores)
