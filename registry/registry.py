"""The registry: a store of blobs and a catalog of what they are.

The order of every registration is blob, record, row: a process that is killed between two leaves bytes that nobody refers
to, never a row without its bytes.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.catalog import Catalog, Event, Version
from registry.errors import IntegrityError, NotFoundError
from registry.names import check_name, parse
from registry.records import (
    AnyRecord,
    EvaluationRecord,
    HeadRecord,
    ModelRecord,
    blobs_of,
    canonical,
    read_record,
    records_of,
)
from registry.store import Store
from registry.verify import VerifyReport, verify


class Registry:
    """Bases, heads, models and evaluations, by digest and by name.

    >>> import tempfile
    >>> registry = Registry.open(tempfile.mkdtemp())
    >>> registry.get(registry.put(b"weights"))
    b'weights'
    """

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.store, self.catalog = store, catalog

    @classmethod
    def open(cls, root: str | Path, catalog: str | None = None) -> Registry:
        """The registry below `root`, made when it is not there; `catalog` is an SQLAlchemy URL, SQLite by default."""
        folder = Path(root)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(Store(folder), Catalog(catalog or f"sqlite:///{folder.resolve() / 'catalog.sqlite'}"))

    # Content ------------------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """Keep bytes; returns their sha256 in hexadecimal."""
        return self.store.put(data)

    def get(self, digest: str) -> bytes:
        """Bytes by digest, checked. Raises IntegrityError."""
        return self.store.get(digest)

    def register(self, record: AnyRecord, measured: Mapping[str, Any] | None = None) -> str:
        """Register a record and return its digest; the same record again adds nothing.

        `measured` is kept beside it (seconds, device): it is no part of its identity. Raises IntegrityError when something
        that the record needs is not here.
        """
        missing = [d for d in (*blobs_of(record), *records_of(record)) if d not in self.store]
        if missing:
            raise IntegrityError(
                f"expected what the {record.kind} needs to be registered first, sha256:{missing[0][:12]} is not here; put it first"
            )
        digest = self.store.put(canonical(record))
        self.catalog.add_record(digest, record.kind, _subject(record), dict(measured or {}))
        return digest

    def record_of(self, digest: str) -> AnyRecord:
        """A record by its digest. Raises IntegrityError, NotFoundError."""
        if digest not in self.store and not self.catalog.starting_with(digest):
            raise NotFoundError(
                f"expected a registered record, got sha256:{digest[:12]}; `ctune registry list` names what is here"
            )
        return read_record(self.store.get(digest), digest)

    def measured(self, digest: str) -> dict[str, Any]:
        """What was measured when a record was registered."""
        return self.catalog.measured(digest)

    def evaluations(self, model: str) -> list[EvaluationRecord]:
        """Evaluations of a model, oldest first."""
        found = (self.record_of(d) for d in self.catalog.digests("evaluation", subject=model))
        return [r for r in found if isinstance(r, EvaluationRecord)]

    # Names --------------------------------------------------------------------------------------------------------

    def add_version(self, name: str, digest: str, *, actor: str | None = None, note: str = "") -> Version:
        """The next version of `name`. Raises InvalidNameError, and IntegrityError when `digest` is no model."""
        check_name(name)
        if not isinstance(self.record_of(digest), ModelRecord):
            raise IntegrityError(
                f"expected sha256:{digest[:12]} to be a model; a version of a name is always one"
            )
        return self.catalog.add_version(name, digest, actor or _user(), note)

    def resolve(self, reference: str) -> str:
        """The digest that a reference means. Raises InvalidNameError, NotFoundError."""
        wanted = parse(reference)
        if wanted.digest:
            found = self.catalog.starting_with(wanted.digest)
            if len(found) != 1:
                got = "none" if not found else "several"
                raise NotFoundError(
                    f"expected one record that begins with sha256:{wanted.digest}, found {got}; give more digits"
                )
            return found[0]
        assert wanted.name is not None
        if wanted.alias is None:
            return self.catalog.version(wanted.name, wanted.version).digest
        version = self.catalog.aliases(wanted.name).get((wanted.name, wanted.alias))
        if version is None:
            raise NotFoundError(
                f"expected an alias of {wanted.name}, got {wanted.alias!r}; `ctune registry alias {wanted.name}` names them"
            )
        return self.catalog.version(wanted.name, version).digest

    def set_alias(self, name: str, alias: str, version: int, *, actor: str | None = None) -> None:
        """Point ``name@alias`` at a version. Raises InvalidNameError, NotFoundError."""
        self.catalog.set_alias(check_name(name), check_name(alias, "alias"), version, actor or _user())

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], int]:
        """{(name, alias): version}."""
        return self.catalog.aliases(name)

    def versions(self, name: str | None = None) -> list[Version]:
        """All versions (of a name)."""
        return self.catalog.versions(name)

    def events(self, name: str | None = None) -> list[Event]:
        """What happened (to a name), oldest first."""
        return self.catalog.events(name)

    def verify(self) -> VerifyReport:
        """Hash everything again and look for what is missing, damaged or left over; nothing is changed."""
        return verify(self.store, self.catalog)


def _subject(record: AnyRecord) -> str | None:
    if isinstance(record, EvaluationRecord):
        return record.model
    return record.class_name if isinstance(record, HeadRecord) else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user id, as in some containers
        return "unknown"
