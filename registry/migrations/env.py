"""Where Alembic starts: the connection is given, and its transaction holds every step or none."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
