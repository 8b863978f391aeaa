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
    "experiment": (
        "switchml.experiment.cli:experiment",
        "Measure a figure: a sweep over the benchmarks, from a file.",
    ),
    "decode": ("switchml.packets.cli:decode", "Show what is in captures of packets."),
    "examples": (
        "switchml.shipped.cli:examples",
        "List the examples that come with it, or tell where one is.",
    ),
    "p4": ("switchml.new_program.cli:p4_app", "Begin a P4 program of one's own."),
    "stf": ("switchml.stf.cli:stf", "Play a packet script to a P4 program."),
    "check": ("switchml.check.cli:check", "Search the state machines of worker and switch exhaustively."),
    "version": ("switchml.version:version", "Show the versions of switchml and of what it stands on."),
}
"""Subcommands by name: where each one's function or `typer.Typer` is, and its line in the help."""

EXAMPLES = {
    "run": (
        "switchml run -n 4 -- $(switchml examples digits) --backend switchml",
        "switchml run -n 2 --data-parallel train.py",
        "switchml run -n 2 --transport udp --loss 0.01 --capture wire.pcap -- train.py",
    ),
    "switch": (
        "switchml switch --host 10.0.0.254 --token SECRET",
        "switchml switch --pipeline program.json --trace-slot 3 --trace-count 5",
    ),
    "doctor": ("switchml doctor", "switchml doctor --switch 10.0.0.254:50551"),
    "controller": (
        "switchml controller --target p4runtime://10.0.0.1:9559 --pipeline program.json --data-address 10.0.0.254",
    ),
    "status": ("switchml status", "switchml status --switch 10.0.0.254:50551 --watch 1"),
    "top": ("switchml top", "switchml top --switch 10.0.0.254:50551 --web"),
    "record": ("switchml record run.jsonl.gz",),
    "replay": ("switchml replay run.jsonl.gz",),
    "metrics": ("switchml metrics",),
    "experiment": (
        "switchml experiment loss --small",
        "switchml experiment workers workers=2,4,8,16 rate=1gbit --output out",
        "switchml experiment one-host --toml",
        "switchml experiment mine.toml --dry-run",
    ),
    "decode": (
        "switchml decode wire.pcap --rank 1 --count 20",
        "switchml decode wire.pcap wire.JOB.rank0.pcap",
        "switchml decode --dissector > switchml.lua",
    ),
    "stf": ("switchml stf program.json script.stf --trace", "switchml stf --suite programs --json"),
    "check": ("switchml check --workers 2 --window 2 --chunks 4",),
}
"""By subcommand, below its help; those that are not here have theirs in their own text."""


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
        examples = "\n\n".join(("For instance:", *EXAMPLES[name])) if name in EXAMPLES else None
        single.command(name, epilog=examples, context_settings={"allow_interspersed_args": name != "run"})(
            loaded
        )
        loaded = single
    return get_command(loaded)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        from switchml.version import installed_version

        print("switchml", installed_version("switchml"))
        raise typer.Exit


@app.callback(help="In-network gradient aggregation: switches, workers, training runs and benchmarks.")
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and end."),
    ] = False,
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
