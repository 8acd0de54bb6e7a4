"""Drafts across rounds: one that was begun before the model predicted its case anew is neither laid over the new prediction nor
forgotten. It stays with its round, and is offered until the expert goes on with it, draws the class anew or judges the case.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ctune.errors import PoolError

if TYPE_CHECKING:
    from ctune.review.desk import ReviewDesk
    from ctune.select import Selected


def left(desk: ReviewDesk, expert: str) -> list[Selected]:
    """Cases of earlier rounds that the newest does not have and in which the expert has an unfinished draft."""
    newest = desk.rows()
    here, out = {row.case_id for row in newest}, list["Selected"]()
    for number in reversed(desk.ready()[:-1]):
        for row in desk.rows(number):
            if row.case_id not in here and desk.state.unjudged_drafts(row.case_id, expert, number):
                here.add(row.case_id)
                words = f"your draft of round {number}; {row.reason}"
                out.append(replace(row, rank=len(newest) + len(out) + 1, reason=words))
    return out


def earlier(desk: ReviewDesk, case_id: str, expert: str) -> dict[str, int]:
    """{class: round} of the expert's unfinished drafts from before the case was predicted anew.

    A class that was drawn since is left out.
    """
    newest, out = desk.round_of(case_id), dict[str, int]()
    for number in desk.ready():
        if number < newest:
            out |= dict.fromkeys(desk.state.unjudged_drafts(case_id, expert, number), number)
    if not out:
        return out
    since, known = desk.state.drafts(case_id, expert, newest), desk.classes(case_id)
    return {name: number for name, number in out.items() if name in known and name not in since}


def take_up(desk: ReviewDesk, case_id: str, expert: str) -> dict[str, int]:
    """Go on with the earlier drafts: each becomes one of the case's round, and takes its time along.

    Returns {class: the round it was drawn in}.
    """
    found, newest = earlier(desk, case_id, expert), desk.round_of(case_id)
    grid = desk.project.pool.grid(case_id)
    for name, number in found.items():
        mask = desk.state.read_draft(case_id, expert, number, name, grid)
        if mask is not None:
            desk.state.save_draft(case_id, expert, newest, name, mask, grid)
    for number in sorted(set(found.values())):
        desk.state.carry_seconds(case_id, expert, number, newest)
    return found


def check_seen(desk: ReviewDesk, case_id: str, number: int) -> None:
    """Raise PoolError unless round `number`, whose prediction the expert looks at, is the newest that has the case."""
    newest = desk.round_of(case_id)
    if number != newest:
        raise PoolError(
            f"case {case_id}: expected it as round {newest} has predicted it, it was opened in round {number}; open it again, "
            "your draft is kept"
        )
