"""Events become records, each with the digest of the one before: none can be changed or left out unseen."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    db = op.get_bind()
    rows = db.execute(sa.text("SELECT time, actor, action, name, details FROM events ORDER BY id")).all()
    op.drop_table("events")
    events = op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_index("ix_events_name", "events", ["name"])
    previous = None
    for time, actor, action, name, details in rows:
        event = {
            "kind": "event",
            "format": 1,
            "time": time,
            "actor": actor,
            "action": action,
            "name": name,
            "details": json.loads(details) if isinstance(details, str) else details,
            "previous": previous,
        }
        # Written out here and not imported: a migration stays as it was when the code moves on.
        body = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        previous = hashlib.sha256(body).hexdigest()
        db.execute(events.insert().values(name=name, body=body, digest=previous))
