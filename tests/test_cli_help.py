"""The edges of the command line: help, version, usage errors, and errors as a line and an exit code."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import main
from cli.main import COMMANDS, Command, app, load
from ctune import __version__
from ctune.errors import CtuneError, FrozenChangedError, GateError, UnknownClassError

runner = CliRunner()


def test_help_lists_every_command_with_its_line() -> None:
    answer = runner.invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert answer.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command.name}\b.*{re.escape(command.help)}", answer.stdout), command.name


def test_version() -> None:
    answer = runner.invoke(app, ["--version"])
    assert (answer.exit_code, answer.stdout) == (0, f"ctune {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_every_command_explains_itself(command: Command) -> None:
    answer = runner.invoke(app, [command.name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert answer.exit_code == 0, answer.output
    assert load(command).help, "a command without a docstring"


def leaves(built: object, name: str) -> list[tuple[str, object]]:
    if isinstance(built, typer.core.TyperGroup):
        return [leaf for child, c in built.commands.items() for leaf in leaves(c, f"{name} {child}")]
    return [(name, built)]


@pytest.mark.parametrize(
    ("name", "built"), [leaf for c in COMMANDS for leaf in leaves(load(c), c.name)], ids=str
)
def test_every_command_takes_json_and_says_what_its_options_do(
    name: str, built: typer.core.TyperCommand
) -> None:
    options = {flag: p for p in built.params for flag in p.opts}
    assert "--json" in options
    assert [flag for flag, p in options.items() if not getattr(p, "help", "x")] == []


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    """A ctune with one command, ``boom``, that raises what the test puts into BOOM."""
    (tmp_path / "boom.py").write_text(
        inspect.cleandoc(
            """
            from cli.output import AsJson
            ERRORS = []
            def boom(count: int = 1, as_json: AsJson = False) -> None:
                "Fail."
                raise ERRORS[-1]
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(main, "COMMANDS", (Command("boom", "boom:boom", "Fail.", "Start here"),))
    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CtuneError("expected one, got two"), 1),
        (UnknownClassError("expected one, got two"), 2),
        (GateError("expected one, got two"), 3),
        (FrozenChangedError("expected one,\n got two"), 4),
        (PermissionError(13, "Permission denied", "ctune.toml"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else str(v),
)
def test_an_error_is_one_line_and_an_exit_code(
    command_that: typer.Typer, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boom  # type: ignore[import-not-found]

    monkeypatch.setattr(boom, "ERRORS", [error])
    answer = runner.invoke(command_that, ["boom"])
    assert answer.exit_code == code
    assert answer.stdout == ""
    if isinstance(error, OSError):
        assert answer.stderr == "error: [Errno 13] Permission denied: 'ctune.toml'\n"
    if isinstance(error, CtuneError):
        assert answer.stderr == "error: expected one, got two\n"
        answer = runner.invoke(command_that, ["boom", "--json"])
        assert answer.exit_code == code
        assert json.loads(answer.stdout) == {
            "error": {"type": type(error).__name__, "message": "expected one, got two"}
        }


def test_a_fault_of_the_program_keeps_its_traceback(
    command_that: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boom

    monkeypatch.setattr(boom, "ERRORS", [ZeroDivisionError("division by zero")])
    answer = runner.invoke(command_that, ["boom", "--json"])
    assert answer.exit_code == 1
    assert isinstance(answer.exception, ZeroDivisionError)
    assert json.loads(answer.stdout)["error"]["type"] == "ZeroDivisionError"


@pytest.mark.parametrize("arguments", [["nope"], ["boom", "--count", "many"], ["boom", "--nope"]])
def test_usage_errors_end_with_two(command_that: typer.Typer, arguments: list[str]) -> None:
    answer = runner.invoke(command_that, arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    answer = runner.invoke(command_that, [*arguments, "--json"])
    assert answer.exit_code == 2
    assert json.loads(answer.stdout)["error"]["message"]
