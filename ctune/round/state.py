"""What a round knows of itself: ``rounds/<NNN>/round.json``, written whole after every arrow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctune.data.files import read_json, write_json
from ctune.errors import RoundError
from ctune.project import Project

ARROWS = ("predict", "score", "select", "revise", "hybrid", "tune", "evaluate", "register")


class ArrowDone(BaseModel):
    """One finished arrow: when, how long, and what it has to say for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    finished: str
    seconds: float
    summary: dict[str, Any] = Field(default_factory=dict)


class RoundState(BaseModel):
    """Everything that a round needs to go on from where it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int
    name: str
    """Of the model in the registry that gets a new version."""
    model: str
    """Digest of the model that the round starts from."""
    classes: tuple[str, ...]
    """To be revised and tuned."""
    cases: int
    strategy: str
    seed: int
    expert: str
    truth: str | None = None
    """Folder of a hidden truth: a simulated expert revises."""
    annotations: int | None = None
    minutes: float | None = None
    """What else the expert has: classes of cases, minutes (``select.Budget``)."""
    leased: tuple[str, ...] = ()
    """Cases that experts had open when the list was made: they were left out of it."""
    force: bool = False
    """Register heads that are worse than those they replace."""
    newest: int | None = None
    """The newest version of `name` when the round began, 0 for none; None in rounds of before this was kept."""
    started: str
    arrows: dict[str, ArrowDone] = Field(default_factory=dict)
    model_out: str | None = None
    abandoned: str | None = None
    """When it was given up, unfinished; what it has made and what experts handed in stays."""
    why: str = ""
    """It was given up."""

    @property
    def next_arrow(self) -> str | None:
        """The arrow to do next; None when the round is over, or was given up."""
        return None if self.abandoned else next((a for a in ARROWS if a not in self.arrows), None)


def rounds(project: Project) -> list[RoundState]:
    """All rounds of a project, oldest first. Raises RoundError for a record that cannot be read."""
    return [
        read_state(path)
        for path in sorted((project.root / "rounds").glob("[0-9]*/round.json"))
        if path.parent.name != "000"
    ]


def takes_revisions(state: RoundState) -> bool:
    """Whether what an expert hands in now is this round's: until its revisions are taken, also while it still predicts."""
    return not state.abandoned and "revise" not in state.arrows


def folder_of(project: Project, number: int) -> Path:
    """Where a round lives."""
    return project.root / "rounds" / f"{number:03d}"


def read_state(path: Path) -> RoundState:
    try:
        return RoundState.model_validate(read_json(path))
    except (ValidationError, ValueError) as error:
        raise RoundError(
            f"expected a round's record in {path}, got {str(error).splitlines()[0]}; restore it"
        ) from None


def write_state(project: Project, state: RoundState) -> None:
    path = folder_of(project, state.number) / "round.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, state.model_dump(mode="json"))


def now() -> str:
    """The time as records carry it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
