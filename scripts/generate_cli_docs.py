"""Write docs/cli.md from the command line itself, so that the page cannot tell anything else.

usage: python scripts/generate_cli_docs.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from cli.main import COMMANDS, Command, app, load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """# The command line

<!-- Written by scripts/generate_cli_docs.py (`make docs`); do not edit by hand. -->

Every command takes `--json`: one JSON document on stdout, while progress and logs go to stderr. A command
that works on a project finds it from the working directory upwards, or takes it by `--project DIR`. Exit
codes: 0 done, 1 failed, 2 usage, 3 a gate said no, 4 integrity, 5 a benchmark paused. An error is one line on stderr, and
with `--json` also a document `{"error": {"type": ..., "message": ...}}` on stdout.
"""


def page() -> str:
    """The text of docs/cli.md."""
    panels = dict.fromkeys(command.panel for command in COMMANDS)
    lines = [HEAD]
    for panel in panels:
        lines += [f"**{panel}**", ""]
        lines += [f"- [`ctune {c.name}`](#ctune-{c.name}): {c.help}" for c in COMMANDS if c.panel == panel]
        lines += [""]
    for command in COMMANDS:
        lines += section(command)
    return "\n".join(lines).rstrip() + "\n"


def section(command: Command) -> Iterator[str]:
    """The part of one command, its sub-commands included."""
    root = typer.Context(typer.main.get_command(app), info_name="ctune")
    yield from describe(load(command), command.name, root)


def describe(built: Any, name: str, parent: typer.Context) -> Iterator[str]:
    context = typer.Context(built, info_name=name, parent=parent)
    path = context.command_path
    yield f"{'#' * len(path.split())} {path}"
    yield ""
    if built.help:
        yield built.help.replace("\x08", "").replace("\f", "").strip()
        yield ""
    yield "```console"
    yield f"$ {path} {' '.join(built.collect_usage_pieces(context))}"
    yield "```"
    yield ""
    options = []
    for parameter in built.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            options.append(f"- `{record[0]}`" + (f": {record[1]}" if record[1] else ""))
    if options:
        yield from [*options, ""]
    if isinstance(built, TyperGroup):
        for child in built.list_commands(context):
            yield from describe(built.get_command(context, child), child, context)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
