"""What a service asks the catalog all day, put together once: building a statement takes longer than its answer."""

from __future__ import annotations

import sqlalchemy as sa

from registry.tables import aliases, records, versions

_OF_NAME = sa.select(versions).where(versions.c.name == sa.bindparam("of"))
_POINTS_AT = (aliases.c.name == versions.c.name) & (aliases.c.version == versions.c.version)
_FROM: sa.BindParameter[str] = sa.bindparam("prefix")
_TO: sa.BindParameter[str] = sa.bindparam("end")

RECORD = sa.select(records).where(records.c.digest == sa.bindparam("digest"))
"""One record: `digest`."""
NEWEST = _OF_NAME.order_by(versions.c.version.desc()).limit(1)
"""The newest version of a name: `of`."""
NUMBERED = _OF_NAME.where(versions.c.version == sa.bindparam("number"))
"""One version of a name: `of`, `number`."""
ALIASED = _OF_NAME.join(aliases, _POINTS_AT).where(aliases.c.alias == sa.bindparam("alias"))
"""The version that an alias of a name points at: `of`, `alias`."""
STARTING = sa.select(records.c.digest).where(records.c.digest >= _FROM, records.c.digest < _TO).limit(5)
"""Digests of records from `prefix` on, before `end`; five at most."""
