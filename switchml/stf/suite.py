"""All scripts of a folder: every PROGRAM.json that has a PROGRAM.stf beside it."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from switchml.errors import MalformedProgramError, SwitchMLError, UnsupportedProgramError, UsageError
from switchml.stf.script_files import run_files

PASSED, FAILED, REFUSED = "passed", "failed", "refused"


@dataclass(frozen=True)
class Outcome:
    """What came of a program and its script.

    Attributes:
        verdict: passed, failed, or refused: the target does not support what the program uses.
    """

    program: str
    verdict: str
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _outcome(program: Path, target: str) -> Outcome:
    try:
        report = run_files(program, program.with_suffix(".stf"), target)
    except MalformedProgramError as error:
        return Outcome(program.stem, FAILED, str(error))
    except UnsupportedProgramError as error:
        return Outcome(program.stem, REFUSED, str(error))
    except SwitchMLError as error:
        return Outcome(program.stem, FAILED, str(error))
    except Exception as error:  # a fault of the target: the other programs still have their turn
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(
            program.stem, FAILED, f"crashed in {Path(last.filename).name}:{last.lineno}: {error!r}"
        )
    if report.passed:
        return Outcome(program.stem, PASSED)
    first, more = report.failures[0], len(report.failures) - 1
    place = f"line {first.line}: " if first.line else ""
    return Outcome(program.stem, FAILED, f"{place}{first.message}{f' (and {more} more)' if more else ''}")


def programs_of(folder: Path) -> list[Path]:
    """The programs of a folder that have a script, by name.

    Raises:
        UsageError: there is none.
    """
    programs = [program for program in sorted(folder.glob("*.json")) if program.with_suffix(".stf").exists()]
    if not programs:
        raise UsageError(f"{folder} has no PROGRAM.json with a PROGRAM.stf beside it")
    return programs


def run_suite(
    programs: Iterable[Path],
    target: str = "emulator",
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run each with the script beside it; `done` hears of every one."""
    outcomes = []
    for program in programs:
        outcomes.append(_outcome(program, target))
        done(outcomes[-1])
    return outcomes


def counts(outcomes: list[Outcome]) -> dict[str, int]:
    """How many of each verdict."""
    found = Counter(outcome.verdict for outcome in outcomes)
    return {verdict: found[verdict] for verdict in (PASSED, FAILED, REFUSED)}
