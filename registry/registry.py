"""The registry: a store of weights and a catalog of what they are.

The order of every registration is blob, then rows in one transaction: a process that is killed between the two leaves bytes
that nobody refers to, never a row without its bytes.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.catalog import Catalog
from registry.collect import GRACE_S, CollectReport, collect
from registry.database import Database
from registry.errors import IntegrityError, NotFoundError
from registry.fit import check_fit
from registry.folder import writing
from registry.mirror import open_store
from registry.names import check_name, check_text, parse
from registry.places import read_places, sqlite_url
from registry.records import (
    AnyRecord,
    BaseRecord,
    EvaluationRecord,
    EventRecord,
    HeadRecord,
    ModelRecord,
    blobs_of,
    canonical,
    check_classes,
    digest_of,
    read_record,
    records_of,
    subject_of,
)
from registry.rows import Name, Row, Version, now
from registry.store import Store
from registry.verify import FingerprintOf, VerifyReport, verify
from registry.weights import check_weights

if TYPE_CHECKING:  # numpy comes with the gate: only a promotion needs it
    from registry.gate import Gate
    from registry.promote import Promotion


@dataclass(frozen=True)
class Loaded:
    """A model with the records and weights of its parts; weights are safetensors, checked."""

    digest: str
    record: ModelRecord
    base: BaseRecord
    heads: Mapping[str, HeadRecord]
    registry: Registry

    def base_weights(self) -> bytes:
        return self.registry.get(self.base.weights)

    def head_weights(self, class_name: str) -> bytes:
        return self.registry.get(self.heads[class_name].weights)


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
    def open(cls, root: str | Path, catalog: str | None = None, blobs: str | None = None) -> Registry:
        """The registry in the folder `root`, made when it is not there.

        catalog: an SQLAlchemy URL, by default SQLite in `root`. blobs: a folder or fsspec URL, by default `root`. A file
        ``registry.toml`` in `root` may say both for all who open it. Raises NewerCatalogError for a registry that a newer
        ctune has used; an older one is brought up to date after a backup.
        """
        folder = Path(root)
        with writing(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        places = read_places(folder)
        url = catalog or places.catalog or sqlite_url(folder.resolve() / "catalog.sqlite")
        return cls(
            open_store(blobs or places.blobs or folder, places.node_cache()),
            Catalog(Database(url, folder / "backups")),
        )

    # Content ------------------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """Keep bytes; returns their sha256 in hexadecimal."""
        return self.store.put(data)

    def get(self, digest: str) -> bytes:
        """Bytes by digest, checked. Raises IntegrityError."""
        return self.store.get(digest)

    def register(
        self, record: AnyRecord, measured: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> str:
        """Register a record and return its digest; the same record again adds nothing.

        `measured` is kept beside it (seconds, device): it is no part of its identity. With `name` a model becomes the next
        version of that name, see ``add_version``. Raises IntegrityError when something that the record needs is not here,
        WeightsError when its weights are not safetensors, MismatchError when its parts do not belong together,
        InvalidNameError for a class that cannot be one.
        """
        check_classes(record, "what is to be registered")
        for blob in blobs_of(record):
            self.must_hold([blob])
            what = f"the weights sha256:{blob[:12]} of a {record.kind}"
            check_weights(self.store.read(blob), self.store.size(blob), what)
        check_fit(record, self.known)
        body = canonical(record)
        if name is not None:  # before anything is kept
            check_name(name)
            _as_model(record, digest_of(body))
        row = Row(digest_of(body), record.kind, subject_of(record), body, dict(measured or {}), now(), now())
        self.catalog.add_record(row, lambda: self._must_have_needs(record))
        if name is not None:
            self.add_version(name, row.digest)
        return row.digest

    def record_of(self, digest: str) -> AnyRecord:
        """A record by its whole digest. Raises NotFoundError, IntegrityError."""
        row = self.catalog.record(digest)
        if row is None:
            raise NotFoundError(
                f"expected a registered record, got sha256:{digest[:12]}; `ctune registry list` names what is here"
            )
        return read_record(row.body, digest)

    def known(self, digest: str) -> AnyRecord | None:
        """A record by its whole digest, or None."""
        row = self.catalog.record(digest)
        return None if row is None else read_record(row.body, digest)

    def measured(self, digest: str) -> dict[str, Any]:
        """What was measured when a record was first registered."""
        row = self.catalog.record(digest)
        return dict(row.measured) if row else {}

    def evaluations(self, model: str) -> list[EvaluationRecord]:
        """Evaluations of a model, oldest first."""
        found = (read_record(r.body, r.digest) for r in self.catalog.records("evaluation", model))
        return [record for record in found if isinstance(record, EvaluationRecord)]

    def load(self, reference: str) -> Loaded:
        """The model that a reference means, with its parts.

        Raises MismatchError when they do not belong together, InvalidNameError for a class that cannot be one.
        """
        digest = self.resolve(reference)
        record = self._model(digest)
        # Of a registry that an earlier version filled: it did not look when it took a model in.
        check_classes(record, f"sha256:{digest[:12]}")
        check_fit(record, self.known)
        base = self.record_of(record.base)
        heads = {name: self.record_of(head) for name, head in record.heads.items()}
        assert isinstance(base, BaseRecord)
        return Loaded(
            digest, record, base, {n: h for n, h in heads.items() if isinstance(h, HeadRecord)}, self
        )

    # Names --------------------------------------------------------------------------------------------------------

    def add_version(
        self, name: str, digest: str, *, actor: str | None = None, note: str = "", after: int | None = None
    ) -> Version:
        """The next version of `name`. after: the number that must still be the newest, 0 for none.

        Raises InvalidNameError, IntegrityError when `digest` is no model, OvertakenError when another version came.
        """
        check_name(name)
        self._model(digest)
        return self.catalog.add_version(name, digest, check_actor(actor), check_text(note), after)

    def resolve(self, reference: str) -> str:
        """The digest that a reference means. Raises InvalidNameError, NotFoundError."""
        wanted = parse(reference)
        if wanted.digest:
            found = self.catalog.starting_with(wanted.digest)
            if len(found) != 1:
                got = (
                    "none; `ctune registry list` shows digests" if not found else "several; give more digits"
                )
                raise NotFoundError(
                    f"expected one record that begins with sha256:{wanted.digest}, found {got}"
                )
            return found[0]
        assert wanted.name is not None
        if wanted.alias is None:
            return self.catalog.version(wanted.name, wanted.version).digest
        version = self.catalog.aliased(wanted.name, wanted.alias)
        if version is None:
            raise NotFoundError(
                f"expected an alias of {wanted.name}, got {wanted.alias!r}; `ctune registry alias {wanted.name}` names them"
            )
        return version.digest

    def set_alias(self, name: str, alias: str, version: int, *, actor: str | None = None) -> None:
        """Point ``name@alias`` at a version. Raises InvalidNameError, NotFoundError."""
        self.catalog.move_alias(
            check_name(name), check_name(alias, "alias"), version, actor=check_actor(actor)
        )

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], int]:
        """{(name, alias): version}."""
        return self.catalog.aliases(name)

    def names(self) -> list[Name]:
        """Every name with its newest version and aliases."""
        return self.catalog.names()

    def versions(self, name: str | None = None) -> list[Version]:
        """All versions (of a name)."""
        return self.catalog.versions(name)

    def events(self, name: str | None = None) -> list[EventRecord]:
        """What happened (to a name), oldest first."""
        return self.catalog.events(name)

    # Models of one another ------------------------------------------------------------------------------------------

    def compose(self, base: str, heads: Mapping[str, str], *, note: str = "") -> str:
        """See ``registry.compose.compose``."""
        from registry.compose import compose

        return compose(self, base, heads, note=check_text(note))

    def promote(
        self, reference: str, alias: str, *, gate: Gate | None = None, actor: str | None = None
    ) -> Promotion:
        """See ``registry.promote.promote``; without a gate the alias moves unasked."""
        from registry.promote import promote

        return promote(self, reference, alias, gate=gate, actor=check_actor(actor))

    def rollback(self, reference: str, *, actor: str | None = None) -> Promotion:
        """See ``registry.promote.rollback``."""
        from registry.promote import rollback

        return rollback(self, reference, actor=check_actor(actor))

    # Care ---------------------------------------------------------------------------------------------------------

    def verify(self, fingerprint_of: FingerprintOf | None = None) -> VerifyReport:
        """Hash everything again and look for what is missing, damaged or left over; nothing is changed."""
        return verify(self.store, self.catalog, fingerprint_of)

    def collect(
        self, *, dry: bool = True, grace_s: float = GRACE_S, actor: str | None = None
    ) -> CollectReport:
        """See ``registry.collect.collect``."""
        return collect(self.store, self.catalog, actor=check_actor(actor), dry=dry, grace_s=grace_s)

    def must_hold(self, blobs: Iterable[str]) -> None:
        """Raise IntegrityError unless all these blobs are here."""
        for blob in blobs:
            if blob not in self.store:
                raise IntegrityError(
                    f"expected the blob sha256:{blob[:12]} to be here before what needs it; put it first"
                )

    def _must_have_needs(self, record: AnyRecord) -> None:
        self.must_hold(blobs_of(record))
        for need in records_of(record):
            if self.catalog.record(need) is None:
                raise IntegrityError(
                    f"expected what the {record.kind} needs to be registered first, sha256:{need[:12]} is not here; "
                    "register it first"
                )

    def _model(self, digest: str) -> ModelRecord:
        return _as_model(self.record_of(digest), digest)


def _as_model(record: AnyRecord, digest: str) -> ModelRecord:
    if not isinstance(record, ModelRecord):
        raise IntegrityError(
            f"expected sha256:{digest[:12]} to be a model, it is a {record.kind}; name a model"
        )
    return record


def check_actor(actor: str | None) -> str:
    """Who does it: as given, or the user of this process."""
    if actor is not None:
        return check_text(actor, "name of who does it")
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user id, as in some containers
        return "unknown"
