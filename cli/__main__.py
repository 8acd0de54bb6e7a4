"""``python -m cli``, for what starts modules and not commands."""

from cli.main import run

run()
