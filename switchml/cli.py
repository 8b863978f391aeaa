"""The `switchml` command. Each subcommand is loaded when it is called, so that `switchml --help` is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command
from typing_extensions import override

from switchml.errors import SwitchMLError
from switchml.variables import heed_environment

COMMANDS = {
    "run": ("switchml.launch.cli:run", "Start a switch, and a training script over it."),
    "switch": ("switchml.switch_emulator.cli:switch_command", "Start a switch that others can join."),
    "doctor": (
        "switchml.doctor:doctor",
        "Check that training can work here, and show how collectives travel.",
    ),
    "controller": (
        "switchml.control_plane:controller_command",
        "Program a P4 switch, and let workers join jobs on it.",
    ),
    "status": ("switchml.status:status", "Show a switch's jobs, workers and counters."),
    "top": ("switchml.telemetry.cli:top", "Watch switches live: jobs, workers, rates, losses."),
    "record": ("switchml.telemetry.cli:record", "Write to a file what switches do, to look at it later."),
    "replay": ("switchml.telemetry.cli:replay", "Show such a file as it happened."),
    "metrics": ("switchml.telemetry.cli:metrics", "Offer what switches do to Prometheus."),
    "bench": ("switchml.bench.cli:bench_app", "Measure collectives, next to other backends."),
    "stf": ("switchml.stf.cli:stf", "Play a packet script to a P4 program."),
    "check": ("switchml.check.cli:check", "Search the state machines of worker and switch exhaustively."),
    "version": ("switchml.version:version", "Show the versions of switchml and of what it stands on."),
}
"""Subcommands by name: where each one's function or `typer.Typer` is, and its line in the help."""


class LazyGroup(TyperGroup):
    """Lists every subcommand by its line of help, and loads the one that is called."""

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SwitchMLError as error:
            if ctx.params.get("debug"):
                raise
            print(f"switchml: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


def load(name: str) -> Any:
    """The click command of a subcommand."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    if not isinstance(loaded, typer.Typer):
        single = typer.Typer(add_completion=False)
        # A script's own options follow the launcher's: the first word that is no option ends those.
        single.command(name, context_settings={"allow_interspersed_args": name != "run"})(loaded)
        loaded = single
    return get_command(loaded)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(help="In-network gradient aggregation: switches, workers, training runs and benchmarks.")
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    heed_environment()


def _listed() -> None:
    """Stands for a subcommand until it is loaded."""


for _name, (_, _line) in COMMANDS.items():
    app.command(_name, help=_line)(_listed)


def main() -> None:
    """The command's entry point."""
    app(prog_name="switchml")


if __name__ == "__main__":
    main()
