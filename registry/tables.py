"""The tables of the catalog in their present form; ``migrations`` makes them and says how they came to be."""

from __future__ import annotations

import sqlalchemy as sa

REVISION = "0002"
"""The newest migration: the form of the tables below."""

metadata = sa.MetaData()

records = sa.Table(
    "records",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False, index=True),
    sa.Column("subject", sa.String, index=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("measured", sa.JSON, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("renewed", sa.String(32), nullable=False),
)
"""body: canonical JSON, whose sha256 is the digest. renewed: when it was last registered; a clean-up counts from there."""

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), sa.ForeignKey("records.digest"), nullable=False, index=True),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("note", sa.String, nullable=False),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("alias", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(128), nullable=False, index=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)
"""body: canonical JSON of an EventRecord, which holds the digest of the event before it."""
