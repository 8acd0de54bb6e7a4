"""``ctune review``: the page itself, or a sub-command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit, note
from cli.review_export import export

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(export)


@app.callback(invoke_without_command=True)
def review(
    ctx: typer.Context,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where the page listens.")] = 3100,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; loopback unless you say otherwise.")
    ] = "127.0.0.1",
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="The experts' tokens; review/tokens.json of the project by default."),
    ] = None,
    expert: Annotated[
        str, typer.Option("--expert", help="Whose the one-time link is; your login name by default.")
    ] = "",
    add_expert: Annotated[
        str, typer.Option("--add-expert", help="Make a token for this expert, print it once, and end.")
    ] = "",
    remove_expert: Annotated[
        str, typer.Option("--remove-expert", help="End this expert's token and sessions, at once, and end.")
    ] = "",
    experts: Annotated[bool, typer.Option("--experts", help="List who has a token, and end.")] = False,
    role: Annotated[str, typer.Option("--role", help="Of the new expert: view, revise or tune.")] = "revise",
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the audit log, and end; exit code 4 when it was changed.")
    ] = False,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Serve the review page: the next case, why it comes next, and the tools to correct it."""
    if ctx.invoked_subcommand is not None:
        return
    from ctune.project import find_project
    from ctune.review.tokens import add_token, remove_token

    found = find_project(project)
    where = tokens or found.root / "review" / "tokens.json"
    if add_expert:
        token = add_token(where, add_expert, role)
        said = {
            "expert": add_expert,
            "role": role,
            "token": token,
            "link": f"http://{host}:{port}/#token={token}",
        }
        emit(said, as_json, lambda console: console.print(said["link"], markup=False, soft_wrap=True))
    elif remove_expert:
        remove_token(where, remove_expert)
        emit(
            {"removed": remove_expert},
            as_json,
            lambda console: console.print(f"{remove_expert} has no token any more", markup=False),
        )
    elif experts:
        _experts(where, as_json)
    elif verify:
        _verify(found.root, as_json)
    else:
        _serve(found.root, where, host, port, expert, as_json)


def _experts(where: Path, as_json: bool) -> None:
    from ctune.review.tokens import experts

    known = [{"expert": one.name, "role": one.role} for one in experts(where)]

    def human(console: Console) -> None:
        for row in known:
            console.print(f"{row['expert']}: {row['role']}", markup=False)
        if not known:
            console.print("nobody has a token; make one with `ctune review --add-expert NAME`", markup=False)

    emit({"experts": known}, as_json, human)


def audit_problems(project: Path | None, registry: Path | None) -> tuple[str, ...]:
    """What is wrong with the audit log of the project whose registry is verified; a registry's folder alone has none."""
    if registry is not None:
        return ()
    from ctune.project import find_project
    from ctune.review.audit import AuditLog

    path = find_project(project).root / "review" / "audit.jsonl"
    return tuple(AuditLog(path).verify()) if path.parent.exists() else ()


def _verify(root: Path, as_json: bool) -> None:
    from ctune.review.audit import AuditLog

    log = AuditLog(root / "review" / "audit.jsonl")
    problems = log.verify()
    count = 0 if problems else len(log.lines())

    def human(console: Console) -> None:
        for line in problems or [f"audit log: {count} lines, all is well"]:
            console.print(line, markup=False)

    emit({"lines": count, "problems": problems, "clean": not problems}, as_json, human)
    if problems:
        raise typer.Exit(4)


def _serve(root: Path, tokens: Path, host: str, port: int, expert: str, as_json: bool) -> None:
    import getpass
    import secrets

    from ctune.project import open_project
    from ctune.review.server import build_app, serve
    from ctune.review.tokens import Expert

    link = secrets.token_urlsafe(32)
    owner = Expert(expert or getpass.getuser(), "tune")
    app = build_app(
        open_project(root),
        tokens=tokens,
        link_token=link,
        owner=owner,
        hosts=("127.0.0.1", "localhost", host),
    )
    url = f"http://{host}:{port}/#token={link}"
    emit(
        {"url": url, "expert": owner.name},
        as_json,
        lambda console: console.print(f"Open {url}", markup=False, soft_wrap=True),
    )
    note("the link works once; end with Ctrl-C")
    serve(app, host, port)
