"""`switchml stf`: packet scripts against a P4 program."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from switchml.cli_options import AsJson, Capture, Trace
from switchml.errors import UsageError
from switchml.p4runtime.p4info_files import refuse_source
from switchml.progress import progress_bar
from switchml.stf.language import StfError
from switchml.stf.runner import Failure, Report
from switchml.termination import orderly_end


def stf(
    program: Annotated[Path | None, typer.Argument(metavar="PROGRAM.json", help="BMv2 JSON of p4c.")] = None,
    scripts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCRIPT.stf", help="Packet scripts, each on a new switch."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="emulator, or bmv2 (simple_switch, where installed).")
    ] = "emulator",
    suite: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run every PROGRAM.json with a PROGRAM.stf beside it.")
    ] = None,
    as_json: AsJson = False,
    trace: Trace = False,
    capture: Capture = None,
) -> None:
    """Play packet scripts (STF, as in p4c's tests) to a P4 program and compare what leaves. Exit code 1: something differs."""
    if suite is not None:
        if program is not None or trace or capture is not None:
            raise UsageError("--suite goes with --target and --json only")
        with orderly_end():
            raise typer.Exit(_run_suite(suite, target, as_json))
    if program is None or not scripts:
        raise UsageError("give PROGRAM.json and SCRIPT.stf, or --suite DIR")
    refuse_source(program)
    if trace and target != "emulator":
        raise UsageError("--trace shows the emulator's own steps: use --target emulator")
    if capture is not None and len(scripts) > 1:
        raise UsageError("--capture takes the packets of one script")
    with orderly_end():
        raise typer.Exit(_run_scripts(program, scripts, target, as_json, trace, capture))


def _run_scripts(
    program: Path, scripts: Sequence[Path], target: str, as_json: bool, trace: bool, capture: Path | None
) -> int:
    from switchml.stf.script_files import run_files

    def show(line: str) -> None:
        print(line, file=sys.stderr)

    told: list[dict[str, Any]] = []
    for script in scripts:
        try:
            report = run_files(program, script, target, trace=show if trace else None, capture=capture)
        except StfError as error:  # the script's own fault: the others still have their turn
            print(f"switchml: {error}", file=sys.stderr)
            told.append({"script": str(script), "passed": False, "error": str(error)})
            continue
        told.append({"script": str(script), **report.as_dict()})
        if not as_json:
            print("\n".join(described(script, report)))
    passed = sum(result["passed"] for result in told)
    if as_json:
        failed = len(told) - passed
        print(
            json.dumps(
                {
                    "program": str(program),
                    "target": target,
                    "passed": passed,
                    "failed": failed,
                    "scripts": told,
                }
            )
        )
    elif len(told) > 1:
        print(f"{len(told)} scripts, {passed} passed")
    return 0 if passed == len(told) else 1


def described(script: Path, report: Report) -> list[str]:
    """The report as lines for people."""
    lines = [
        f"{script}:{line}: {text}" if line else f"{script}: {text}" for line, text in sorted(report.notes)
    ]
    for failure in report.failures:
        lines += _failed(script, failure)
    verdict = "passed" if report.passed else f"FAILED ({len(report.failures)})"
    lines.append(f"{script}: {verdict}: {report.packets_in} packets in, {report.packets_out} out")
    return lines


def _failed(script: Path, failure: Failure) -> list[str]:
    place = f"{script}:{failure.line}" if failure.line else str(script)
    rows = failure.difference.rows() if failure.difference is not None else []
    return [f"{place}: {failure.message}", *(f"  {row}" for row in rows)]


def _run_suite(folder: Path, target: str, as_json: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from switchml.stf.suite import FAILED, PASSED, counts, programs_of, run_suite

    programs = programs_of(folder)
    with progress_bar(len(programs)) as bar:
        outcomes = run_suite(programs, target, lambda outcome: bar.step())
    told = counts(outcomes)
    if as_json:
        print(
            json.dumps(
                {"target": target, **told, "programs": [outcome.as_dict() for outcome in outcomes]}, indent=1
            )
        )
    else:
        table = Table("program", "verdict", "reason", title=f"{folder} on {target}")
        for outcome in outcomes:
            if outcome.verdict != PASSED:
                table.add_row(outcome.program, outcome.verdict, outcome.reason)
        console = Console()
        if table.row_count:
            console.print(table)
        share = 100 * told[PASSED] / len(outcomes)
        console.print(
            f"{len(outcomes)} programs: "
            + ", ".join(f"{count} {verdict}" for verdict, count in told.items())
            + f" ({share:.1f} % passed)"
        )
    return 1 if told[FAILED] else 0
