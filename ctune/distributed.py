"""Several processes that train one network, as torchrun starts them: who is who, and what only the first does.

The group is torch's own (gloo on CPUs, NCCL on GPUs); without torchrun there is a group of one, and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ctune.errors import UsageError

Result = TypeVar("Result")

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first, which may be preparing a pool or looking at validation cases."""
STEP = timedelta(minutes=10)
"""How long they wait for each other within a step: one whose machine lost its power says nothing and is never heard again."""


@dataclass(frozen=True)
class Group:
    """This process among those that train together. rank: from 0. size: how many. local: rank on this machine.

    steps: torch's group in which gradients travel, with a shorter patience; None when alone.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    steps: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, registers and speaks."""
        return self.rank == 0

    def device(self, asked: torch.device) -> torch.device:
        """The device of this process: each takes a GPU of its own."""
        return torch.device("cuda", self.local) if asked.type == "cuda" and self.size > 1 else asked

    def told(self, do: Callable[[], Result]) -> Result:
        """What `do` gives in the first process; the others wait for it and do nothing. It must be small."""
        if self.size == 1:
            return do()
        told: list[Any] = [do() if self.first else None]
        dist.broadcast_object_list(told, src=0)
        return cast("Result", told[0])

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value, group=self.steps)
        return value


ALONE = Group()


def must_be_alone(verb: str) -> None:
    """Raise UsageError when torchrun started several processes: what `verb` names would be done by each of them."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1":
        raise UsageError(
            f"expected one process for {verb}, got WORLD_SIZE = {size}: each would do all of it; run it without torchrun "
            "(what trains in several processes is `ctune train`)"
        )


@contextmanager
def joined() -> Iterator[Group]:
    """The group that torchrun's environment describes; of this process alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local, on_gpu = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    # Two groups in one: objects and flags travel by gloo also where gradients travel by NCCL.
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    attempt = dist.PrefixStore(_attempt(), store)  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=attempt, rank=rank, world_size=size, timeout=PATIENCE,
    )  # fmt: skip
    try:
        yield Group(rank, size, local, dist.new_group(timeout=STEP))
    finally:
        dist.destroy_process_group()


def _attempt() -> str:
    """A name for this start of the workers, the same in all of them.

    torchrun's store outlives a restart: without a name of its own a new worker finds the address of one that is dead, and
    waits for it. On several nodes the agents count restarts apart, so there torchrun makes a store a start
    (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, docs/training.md).
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}" if alone else "attempt"
