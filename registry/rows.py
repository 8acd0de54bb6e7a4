"""The rows of the catalog as values: what it gives out and takes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Version:
    """One version of a name; never changes."""

    name: str
    version: int
    digest: str
    created: str
    note: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Name:
    """A name at a glance: its newest version, how many there are, {alias: version}."""

    name: str
    versions: int
    latest: Version
    aliases: Mapping[str, int]


@dataclass(frozen=True)
class Row:
    """A record as it is kept: `body` is its canonical JSON."""

    digest: str
    kind: str
    subject: str | None
    body: bytes
    measured: Mapping[str, Any]
    created: str
    renewed: str


@dataclass(frozen=True)
class Snapshot:
    """Everything in the catalog at one moment; `events` are (digest, canonical JSON)."""

    records: list[Row]
    versions: list[Version]
    aliases: Mapping[tuple[str, str], int]
    events: list[tuple[str, bytes]]


def now() -> str:
    """The time in UTC, as it is stored: sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_row(row: Any) -> Row:
    """A row of the table of records."""
    kept = dict(row._mapping)
    return Row(**{**kept, "body": as_bytes(kept["body"]), "measured": dict(kept["measured"] or {})})


def as_bytes(value: Any) -> bytes:
    """A column of bytes as bytes, whatever stands in it."""
    # SQLite keeps whatever somebody puts there; text is no record, and its digest will show it.
    return value.encode() if isinstance(value, str) else bytes(value)
