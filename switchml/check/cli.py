"""`switchml check`: search the shipped state machines exhaustively."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from switchml.errors import UsageError
from switchml.termination import orderly_end

if TYPE_CHECKING:
    from switchml.check.search import Configuration, Finding, Step

_KINDS = ("words", "blocks")
_VERDICTS = (
    "FRESH",
    "ADDED",
    "RETRANSMIT",
    "DUPLICATE",
    "STALE",
    "MISFIT",
    "AHEAD",
    "FIRST",
    "UNSEEN",
    "WAITING",
)
_COLUMNS = (
    "racks",
    "workers",
    "window",
    "chunks",
    "kind",
    "packets",
    "machine",
    "resent",
    "in-flight",
    "asks",
    "restarts",
    "states",
    "steps",
    "seconds",
    "violations",
)


def check(
    workers: Annotated[
        int | None, typer.Option(help="Ranks of the job, or of each rack. [default: 2]")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Slots, a power of two. [default: 1]")] = None,
    chunks: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Chunks of each tensor. [default: 4]")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="words (integers) or blocks (float32 with exponents). [default: words]")
    ] = None,
    retransmissions: Annotated[
        int | None,
        typer.Option(
            help="Packets that workers send again, all together; each sending arrives once or is lost. Without it whatever "
            "was ever sent may arrive any number of times, and it is also looked at that all can still finish."
        ),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(help="Position at which the streams begin; 4294967294 wraps at once. [default: 0]"),
    ] = None,
    sparse: Annotated[
        bool,
        typer.Option("--sparse", help="Ranks take turns to have anything but zeros, which go as headers."),
    ] = False,
    to_one: Annotated[
        bool, typer.Option("--to-one", help="Each rank wants a part of the sums; the others get headers.")
    ] = False,
    but_one: Annotated[
        bool,
        typer.Option(
            "--but-one",
            help="Each rank gives a part of the words, and gets headers of it; not with --to-one.",
        ),
    ] = False,
    in_flight: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Packets that each rank's congestion window lets be under way, the last for all further ranks; 0 is no limit. "
            "[default: 0]",
        ),
    ] = None,
    asks: Annotated[
        bool,
        typer.Option(
            "--asks",
            help="Workers may ask the switch for packets without an answer, at any time (--retransmissions counts that). By what "
            "it says all can finish, though nothing is sent again on suspicion. Not with --paper.",
        ),
    ] = False,
    racks: Annotated[
        int | None,
        typer.Option(help="Racks with a switch each, below another switch. [default: 0, one switch for all]"),
    ] = None,
    levels: Annotated[
        int, typer.Option(help="Levels of switches, where there are --racks: so many below each.")
    ] = 2,
    restarts: Annotated[
        int | None,
        typer.Option(
            help="Switches that are lost, at any moment; the workers go on at one that has seen nothing. Not with --racks. "
            "[default: 0]"
        ),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The published slot machine, without stamps: finds its wrong sum.")
    ] = False,
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.stf", help="Write the way to a violation as a packet script for `switchml stf`."
        ),
    ] = None,
    program: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Our P4 program, compiled for 64 elements, which --script is written for. [default: switchml's own]",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="States after which a search gives up.")] = 5_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search every state that workers, switch and network can come to, with the functions that run in production.

    Looked for: a worker that takes a wrong sum, a packet of a worker's that the switch refuses as one before its turn, and a
    state from which not all can finish. Without options several
    configurations are searched. Exit code 1: a violation was found, or a search gave up.

    Examples: `switchml check`, `switchml check --workers 3 --window 2 --chunks 4`,
    `switchml check --paper --chunks 3 --script wrong_sum.stf`.
    """
    if limit < 1 or (retransmissions is not None and retransmissions < 0):
        raise UsageError("--limit and --retransmissions take numbers from 1 and from 0")
    switches = (sparse or None, to_one or None, but_one or None, asks or None)
    chosen = (workers, window, chunks, kind, retransmissions, start, in_flight, racks, restarts, *switches)
    if script is not None and (racks or restarts):
        raise UsageError("--script takes what one switch is given and answers, no --racks and no --restarts")
    if script is not None and chosen == (None,) * len(chosen) and not paper:
        raise UsageError(
            "--script takes the violation of one search: say which, --paper --chunks 3 for example"
        )
    if but_one and (to_one or kind == "blocks"):
        raise UsageError("--but-one takes words, and no --to-one")
    if kind is not None and kind not in _KINDS:
        raise UsageError(f"--kind {kind} is none of {', '.join(_KINDS)}")
    from switchml.check.search import Configuration
    from switchml.worker.window import BLOCKS, WORDS

    if chosen == (None,) * len(chosen) and not paper:
        configurations = list(_usual())
    else:
        configurations = [
            Configuration(
                workers=2 if workers is None else workers,
                window=1 if window is None else window,
                chunks=_numbers("--chunks", chunks or "4"),
                retransmissions=retransmissions,
                kind=BLOCKS if kind == "blocks" else WORDS,
                paper=paper,
                start=start or 0,
                sparse=sparse,
                to_one=to_one,
                but_one=but_one,
                in_flight=_numbers("--in-flight", in_flight or "0"),
                asks=asks,
                racks=racks or 0,
                levels=levels,
                restarts=restarts or 0,
            )
        ]
    with orderly_end():
        raise typer.Exit(_search(configurations, limit, script, program, as_json))


def _usual() -> Iterator[Configuration]:
    from switchml.check.search import Configuration
    from switchml.worker.window import BLOCKS

    yield Configuration(chunks=(6,))
    yield Configuration(chunks=(2, 3), start=2**32 - 3)
    yield Configuration(window=2, chunks=(4, 3))
    yield Configuration(window=2, chunks=(4, 3), kind=BLOCKS)
    yield Configuration(window=4, chunks=(7,))
    yield Configuration(workers=3, window=2, chunks=(4,))
    yield Configuration(workers=3, window=2, chunks=(3,), kind=BLOCKS)
    yield Configuration(workers=4, chunks=(4,))
    yield Configuration(workers=6, chunks=(4,))
    yield Configuration(chunks=(4,), retransmissions=2)
    yield Configuration(workers=3, chunks=(3,), retransmissions=1)
    yield Configuration(chunks=(6,), sparse=True)
    yield Configuration(chunks=(5,), sparse=True, to_one=True)
    yield Configuration(window=2, chunks=(4, 3), sparse=True, to_one=True)
    yield Configuration(window=2, chunks=(4,), kind=BLOCKS, to_one=True)
    yield Configuration(window=2, chunks=(4,), kind=BLOCKS, sparse=True, to_one=True)
    yield Configuration(workers=3, window=2, chunks=(4,), sparse=True, to_one=True)
    yield Configuration(workers=4, chunks=(5,), sparse=True, to_one=True)
    yield Configuration(chunks=(4,), sparse=True, to_one=True, retransmissions=2)
    yield Configuration(chunks=(6,), but_one=True)
    yield Configuration(window=2, chunks=(4, 3), but_one=True)
    yield Configuration(workers=3, window=2, chunks=(4,), but_one=True)
    yield Configuration(chunks=(4,), but_one=True, retransmissions=2)
    yield Configuration(window=2, chunks=(4,), in_flight=(1,))
    yield Configuration(window=4, chunks=(5,), in_flight=(1, 3))
    yield Configuration(window=4, chunks=(2, 1), kind=BLOCKS, in_flight=(2, 1))
    yield Configuration(workers=3, window=2, chunks=(3,), in_flight=(1, 0))
    yield Configuration(chunks=(4,), asks=True)
    yield Configuration(chunks=(2, 1), start=2**32 - 3, kind=BLOCKS, asks=True)
    yield Configuration(workers=3, chunks=(2,), asks=True)
    yield Configuration(chunks=(5,), sparse=True, to_one=True, asks=True)
    yield Configuration(chunks=(4,), but_one=True, asks=True)
    yield Configuration(window=2, chunks=(2,), asks=True, in_flight=(1,))
    yield Configuration(chunks=(3,), retransmissions=2, asks=True)
    yield Configuration(racks=2, chunks=(4,))
    yield Configuration(racks=2, workers=1, window=2, chunks=(2,))
    yield Configuration(racks=2, chunks=(4,), sparse=True, to_one=True)
    yield Configuration(racks=2, chunks=(4,), but_one=True)
    yield Configuration(racks=2, workers=1, levels=3, chunks=(2,))
    yield Configuration(racks=2, workers=1, chunks=(2,), retransmissions=1)
    yield Configuration(racks=2, workers=1, chunks=(2,), asks=True)
    yield Configuration(chunks=(4,), restarts=2)
    yield Configuration(window=2, chunks=(3,), restarts=1)
    yield Configuration(window=2, chunks=(2,), kind=BLOCKS, restarts=1)
    yield Configuration(workers=3, chunks=(3,), restarts=1)
    yield Configuration(chunks=(4,), sparse=True, to_one=True, restarts=1)
    yield Configuration(chunks=(4,), but_one=True, restarts=1)
    yield Configuration(chunks=(3,), asks=True, restarts=1)
    yield Configuration(chunks=(3,), retransmissions=2, restarts=1)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text} is no list of numbers, such as 4 or 2,3") from None


def _search(
    configurations: Sequence[Configuration],
    limit: int,
    script: Path | None,
    program: Path | None,
    as_json: bool,
) -> int:
    from rich.console import Console

    from switchml.check.search import Search

    console = Console(stderr=True)
    findings: list[Finding] = []
    if not as_json:
        print(_row(_COLUMNS))
    for configuration in configurations:
        with console.status("compiling or loading the machines ...") as status:
            finding = Search(
                configuration,
                limit=limit,
                progress=lambda states: status.update(f"{states:,} states"),
            ).run()
        findings.append(finding)
        if not as_json:
            print(_row(_cells(finding)))
            print("".join(f"{line}\n" for line in described(finding)), end="", flush=True)
    if as_json:
        print(json.dumps([as_dict(finding) for finding in findings], indent=2))
    if script is not None:
        if not findings[0].trace:
            raise UsageError(f"no violation was found, so there is nothing to write to {script}")
        from switchml.check.packet_script import packet_script

        script.write_text(packet_script(findings[0], program))
        print(f"switchml: the packets are in {script}", file=sys.stderr)
    return int(any(finding.violations or not finding.complete for finding in findings))


def _row(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>{len(column) + 2}}" for cell, column in zip(cells, _COLUMNS, strict=True))


def _cells(finding: Finding) -> tuple[str, ...]:
    shown = as_dict(finding)
    resent = shown["retransmissions"]
    return (
        " x ".join([str(shown["racks"])] * (shown["levels"] - 1)) if shown["racks"] else "-",
        str(shown["workers"]),
        str(shown["window"]),
        ",".join(map(str, shown["chunks"])),
        shown["kind"],
        shown["packets"],
        shown["machine"],
        "any" if resent is None else str(resent),
        ",".join(map(str, shown["in_flight"])) if any(shown["in_flight"]) else "any",
        "yes" if shown["asks"] else "no",
        str(shown["restarts"]),
        f"{finding.states:,}",
        f"{finding.steps:,}",
        f"{finding.seconds:.1f}",
        str(finding.violations) if finding.complete or finding.violations else "gave up",
    )


def as_dict(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it."""
    from switchml.worker.window import BLOCKS

    configuration = finding.configuration
    return {
        "racks": configuration.racks,
        "levels": configuration.levels if configuration.racks else 1,
        "workers": configuration.workers,
        "window": configuration.window,
        "chunks": list(configuration.chunks),
        "kind": "blocks" if configuration.kind == BLOCKS else "words",
        "packets": _packets(configuration),
        "machine": "paper" if configuration.paper else "stamped",
        "retransmissions": configuration.retransmissions,
        "start": configuration.start,
        "in_flight": list(configuration.in_flight),
        "asks": configuration.asks,
        "restarts": configuration.restarts,
        "states": finding.states,
        "steps": finding.steps,
        "seconds": finding.seconds,
        "complete": finding.complete,
        "violations": finding.violations,
        "wrong": finding.wrong,
        "stuck": finding.stuck,
        "trace": [_sentence(step) for step in finding.trace],
    }


def _packets(configuration: Configuration) -> str:
    if configuration.but_one:
        return "but one"
    if configuration.sparse:
        return "both" if configuration.to_one else "sparse"
    return "to one" if configuration.to_one else "full"


def described(finding: Finding) -> list[str]:
    """What was found in words: nothing where nothing is wrong."""
    if not finding.violations:
        return [] if finding.complete else [f"gave up after {finding.states:,} states: --limit allows more"]
    again = "ask" if finding.configuration.asks else "send again"
    what = (
        finding.wrong
        or f"from {finding.stuck:,} states not all workers finish, though they {again}, such as after"
    )
    return [f"violation: {what}", *(f"{n:>4}  {_sentence(step)}" for n, step in enumerate(finding.trace, 1))]


def _sentence(step: Step) -> str:
    from switchml.aggregation import slot_machine
    from switchml.aggregation.racks import RISES
    from switchml.protocol.header import parse_header
    from switchml.protocol.messages import ASK

    if not step.packet:
        return step.does if step.rank < 0 else f"worker {step.rank} {step.does}"
    header = parse_header(step.packet)
    place = f"position {header.tsi} (slot {header.slot}, version {header.version})"
    asked = header.msg_type == ASK
    if not step.at_switch:
        if asked:
            return (
                f"worker {step.rank} hears that its packet of {place} has {'' if header.e0 else 'not '}come"
            )
        return f"worker {step.rank} gets the result of {place}"
    switch, whose, to = step.names
    bare = step.sent and parse_header(step.sent[0][1]).msg_type == ASK
    leaves = ""
    if step.verdict >= RISES:
        leaves = f", and {'the question' if bare else 'a packet'} goes up to {to}"
    elif step.sent:
        leaves = f", and {'the answer' if bare else 'a result'} leaves{to and f' to {to}'}"
    verdict = next(
        name for name in _VERDICTS if getattr(slot_machine, name) == step.verdict % slot_machine.COMPLETE
    )
    came = f"{whose}'s {'question' if asked else 'packet'}"
    return f"{switch} gets {came} of {place}: {verdict}{leaves}"
