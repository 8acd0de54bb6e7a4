"""How the catalog's tables came to be, one file a step; Alembic runs what a database still lacks."""
