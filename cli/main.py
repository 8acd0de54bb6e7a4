"""``ctune``: the table of commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli.output import emit_error, fail
from ctune import __version__

START, DATA, LOOP, MODELS, FIGURES = "Start here", "Data", "The loop", "Models", "Figures"


@dataclass(frozen=True)
class Command:
    """One line of ``ctune --help``.

    `target` is ``module:attribute``: a function, or a typer app of sub-commands.
    """

    name: str
    target: str
    help: str
    panel: str


COMMANDS = (
    Command("demo", "cli.demo:demo", "Run the whole loop on phantoms, with a report to look at.", START),
    Command("init", "cli.project:init", "Make a project: a folder with ctune.toml and an empty pool.", START),
    Command(
        "import", "cli.project:import_", "Bring cases and annotations of a data set into the pool.", DATA
    ),
    Command("phantom", "cli.phantom:phantom", "Write a cohort of synthetic CTs with their masks.", DATA),
    Command("train", "cli.train:train", "Train a base and its first heads on the pool.", LOOP),
    Command("predict", "cli.predict:predict", "Predict masks for cases of the pool or for CT files.", LOOP),
    Command("score", "cli.score:score", "Score where the model is likely wrong, per case and class.", LOOP),
    Command("select", "cli.select:select", "Choose the cases that an expert should revise next.", LOOP),
    Command("review", "cli.review:app", "Serve the review page: next case, why, tools to correct it.", LOOP),
    Command("revise", "cli.revise:revise", "Take in masks that an expert has revised.", LOOP),
    Command("tune", "cli.tune:tune", "Tune the heads of the revised classes; nothing else moves.", LOOP),
    Command("evaluate", "cli.evaluate:evaluate", "Measure Dice, NSD and HD95 on held-out cases.", LOOP),
    Command("round", "cli.round:app", "Run a whole round, look at it, resume it, or give it up.", LOOP),
    Command("classes", "cli.classes:app", "Remove, rename or split a model's classes.", MODELS),
    Command(
        "registry", "cli.registry:app", "Versions of models: list, compare, promote, verify, move.", MODELS
    ),
    Command("export", "cli.export:app", "Write a model for places where ctune is not: ONNX.", MODELS),
    Command("serve", "cli.serve:serve", "Serve a model over HTTP: CTs in, masks and volumes out.", MODELS),
    Command("bench", "cli.bench:app", "Measure what the loop costs and gives.", FIGURES),
)
"""Every command; its module is imported when the command runs, so that ``ctune --help`` stays quick."""


class LazyGroup(TyperGroup):
    """A group that lists commands from ``COMMANDS`` and imports only the one that runs."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [command.name for command in COMMANDS]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """A stand-in with the name and the line of help: all that a listing needs."""
        for command in COMMANDS:
            if command.name == cmd_name:
                return TyperCommand(command.name, help=command.help, rich_help_panel=command.panel)
        return None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        for command in COMMANDS:
            if args and command.name == args[0]:
                return command.name, load(command), args[1:]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta["ctune.json"] = "--json" in options
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        as_json = bool(ctx.meta["ctune.json"])
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if type(error).__module__.split(".")[0] in ("typer", "click"):  # usage errors print themselves
                if as_json:
                    emit_error(error, str(getattr(error, "message", error)))
                raise
            code = getattr(error, "exit_code", None)
            if isinstance(code, int):
                fail(error, code, as_json)
            if isinstance(error, OSError) and error.errno != errno.EPIPE:
                fail(error, 1, as_json)
            if as_json:
                emit_error(error, str(error))
            raise


app = typer.Typer(
    name="ctune",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ctune {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow a CT segmentation model together with experts, class by class, forgetting nothing.

    Exit codes: 0 done, 1 failed, 2 usage, 3 a gate said no, 4 integrity, 5 a benchmark paused.
    """


def load(command: Command) -> Any:
    """Import a command's module and build the command that typer runs."""
    module, _, attribute = command.target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        target.info.help = target.info.help or command.help
        built = typer.main.get_command(target)
    else:
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(command.name)(target)
        built = typer.main.get_command(single)
    built.name = command.name
    return built


def run(args: Sequence[str] | None = None) -> None:
    """The console script."""
    # Before torch is loaded: threads that wait should sleep. On a machine that others use too, spinning threads of the
    # default policy made a training step four times slower (2 cores, one other process); alone it costs next to nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:
        # What a library will change one day is for those who work on ctune: the tests show it, users cannot act on it.
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module="monai")
        # What real DICOM files do not write quite as the standard says: names of one part, empty numbers.
        warnings.filterwarnings("ignore", category=UserWarning, module="highdicom|pydicom")
    app(args=sys.argv[1:] if args is None else list(args), prog_name="ctune")


if __name__ == "__main__":
    run()
