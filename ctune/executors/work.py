"""Work over many items by several workers: handed out as they have room, tried again when it fails, every item answered once.

What does the work is an executor: threads or processes of this machine (``executors.local``), or actors of a Ray cluster
(``executors.ray_cluster``). What is here is the same for all: how much is under way at once, and what becomes of a failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ctune.types import OnProgress, Progress, silent

Item = TypeVar("Item")

ATTEMPTS = 3
"""How often an item is tried before it is reported."""


class Work(Protocol):
    """What workers do; sent to each of them once, so it holds settings and no weights.

    overlap: how many items a worker has under way at once, so that it reads one while it computes another.
    """

    @property
    def overlap(self) -> int: ...

    def open(self) -> Callable[[Any], Any]:
        """In the worker: load what every item needs, and give the function that does one item.

        The function is called from `overlap` threads. What it gives back must be small: files are for the rest. It leaves
        all of an item or nothing, and does an item that is done already without harm.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """What became of one ticket. error: None when it is done. lost: the worker ended before it answered."""

    ticket: int
    value: Any = None
    error: str | None = None
    lost: bool = False


class Crew(Protocol):
    """Workers that are ready, or on their way."""

    def room(self) -> int:
        """How many more items can be handed over now."""
        ...

    def give(self, ticket: int, item: Any) -> None:
        """Hand over an item; its answer carries the ticket."""
        ...

    def take(self) -> list[Answer]:
        """Wait for answers; none when only the room has changed. Raises ExecutorError when no worker can be had."""
        ...


class Executor(Protocol):
    """Where work is done."""

    def crew(self, work: Work) -> AbstractContextManager[Crew]:
        """Workers that have opened `work`; they are gone when the context is left."""
        ...


@dataclass(frozen=True)
class Done(Generic[Item]):
    """An item with its answer. error: why it could not be done in `attempts` tries; None when it was."""

    item: Item
    value: Any
    error: str | None
    attempts: int


def stream(
    executor: Executor, work: Work, items: Iterable[Item], *, attempts: int = ATTEMPTS
) -> Iterator[Done[Item]]:
    """Every item once, in the order in which they end; no more of `items` is read than workers have room for.

    Memory follows what is under way, not the number of items. An item that fails is tried again after all others,
    one whose worker was lost before them. Raises ExecutorError when no worker can be had.
    """
    fresh, ticket = iter(items), 0
    first, last = deque[tuple[Item, int]](), deque[tuple[Item, int]]()
    under_way: dict[int, tuple[Item, int]] = {}

    def following() -> tuple[Item, int] | None:
        if first:
            return first.popleft()
        for item in fresh:
            return item, 0
        return last.popleft() if last else None

    with executor.crew(work) as crew:
        waiting = following()
        while waiting or under_way:
            while waiting and crew.room() > 0:
                under_way[ticket] = waiting
                crew.give(ticket, waiting[0])
                ticket, waiting = ticket + 1, following()
            for answer in crew.take():
                item, tried = under_way.pop(answer.ticket)
                if answer.error is not None and tried + 1 < attempts:
                    (first if answer.lost else last).append((item, tried + 1))
                else:
                    yield Done(item, answer.value, answer.error, tried + 1)
            waiting = waiting or following()


def run_all(
    executor: Executor,
    work: Work,
    items: Iterable[Item],
    *,
    total: int,
    stage: str,
    name: Callable[[Item], str],
    attempts: int = ATTEMPTS,
    on_done: Callable[[Done[Item]], None] = lambda _: None,
    on_progress: OnProgress = silent,
) -> list[tuple[str, str]]:
    """Do every item with progress; returns (name, error) of those that could not be done. See ``stream``."""
    failed = []
    for number, done in enumerate(stream(executor, work, items, attempts=attempts)):
        if done.error is not None:
            failed.append((name(done.item), done.error))
        on_done(done)
        on_progress(Progress(stage, number + 1, total, name(done.item)))
    return sorted(failed)
