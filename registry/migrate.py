"""Bring a catalog to the present form: a backup first, then Alembic, all steps in one transaction."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from registry.errors import NewerCatalogError
from registry.tables import REVISION

if TYPE_CHECKING:
    from registry.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(database: Database, found: str | None, backups: Path) -> None:
    """Run what the catalog of revision `found` still lacks (None: everything).

    Raises NewerCatalogError, before anything is touched, for a revision that this version does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    # Alembic tells every step to the log; who opens a registry has not asked.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None:
        if found not in known:
            raise NewerCatalogError(
                f"expected a catalog of revision {REVISION} or older in {database.url!r}, got {found}: a newer ctune has "
                "used it; update this one (nothing was changed)"
            )
        backup(database, backups / f"catalog-{found}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    with database.writing() as db:
        # Many processes may open an old catalog at once; Alembic looks again, now that this one holds the lock.
        config.attributes["connection"] = db
        command.upgrade(config, REVISION)


def backup(database: Database, target: Path) -> Path:
    """Copy a catalog: SQLite as a database, any other as JSON lines, one row each; returns the file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    final = target.with_suffix(".sqlite" if database.file else ".jsonl")
    temporary = final.with_name(f".{final.name}.tmp")
    if database.file:
        with (
            closing(sqlite3.connect(database.file)) as source,
            closing(sqlite3.connect(temporary)) as copy,
        ):
            source.backup(copy)
    else:
        _dump(database, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    return final


def _dump(database: Database, target: Path) -> None:
    tables = sa.MetaData()
    with database.reading() as db, target.open("w", encoding="utf-8") as file:
        tables.reflect(db)
        for table in tables.sorted_tables:
            for row in db.execute(sa.select(table)):
                values = {name: _plain(value) for name, value in row._mapping.items()}
                file.write(json.dumps({"table": table.name, "row": values}) + "\n")


def _plain(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value
