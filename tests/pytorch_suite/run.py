"""PyTorch's own backend suite, for gloo and for switchml side by side: `make test-torch`.

run.py [--world-sizes 2,3,4] [--backends gloo,switchml] [--only PATTERN]... [--jobs N] [--deadline SECONDS] [--json]

Every test that gloo passes has to pass with switchml; the exit status is 1 where one does not. All tests over switchml
share one emulated switch. A test that fails is tried once more, with either backend, and the report says so. Ctrl-C ends
everything, and prints what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from switchml.control import embedded

ONE_BACKEND = Path(__file__).with_name("one_backend.py")
OUTCOMES = ("passed", "failed", "skipped")
AGAIN = {"passed": " on the second try", "failed": " twice", "skipped": " on the second try"}
NOTE = (
    "Tests of monitored_barrier call the group's own method where the backend is not gloo: the function in "
    "torch.distributed refuses every other backend by name."
)


@dataclass(frozen=True)
class Result:
    """What became of one test."""

    test: str
    world_size: int
    backend: str
    outcome: str  # of OUTCOMES
    message: str
    seconds: float
    log: str = ""
    tries: int = 1


def tests_of(
    backend: str, world_size: int, environment: dict[str, str], arguments: list[str]
) -> Iterator[dict[str, Any]]:
    """What one_backend.py prints, line by line."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(ONE_BACKEND), backend, str(world_size), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if process.wait() != 0:
            raise SystemExit(f"{ONE_BACKEND.name} {backend} {world_size} ended with {process.returncode}")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Progress:
    """Says on stderr how far the tests are."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._counts: Counter[str] = Counter()
        self._head, self._total = "", 0

    def begin(self, backend: str, world_size: int, total: int) -> None:
        self._counts.clear()
        self._head, self._total = f"world size {world_size}, {backend}", total

    def note(self, result: Result) -> None:
        self._counts[result.outcome] += 1
        done = sum(self._counts.values())
        if self._live or done % 50 == 0 or done == self._total:
            counts = ", ".join(f"{self._counts[outcome]} {outcome}" for outcome in OUTCOMES)
            end = "\n" if done == self._total or not self._live else "\r"
            print(f"{self._head}: {done} of {self._total}: {counts}", end=end, file=sys.stderr, flush=True)


def run(backend: str, world_size: int, asked: argparse.Namespace, progress: Progress) -> list[Result]:
    """Every test that was asked for, over one backend. One that fails is tried once more, by itself: some depend on time."""
    first = run_once(backend, world_size, asked.only, asked.jobs, asked.deadline, progress)
    failed = [one.test for one in first if one.outcome == "failed"]
    if not failed:
        return first
    again = {one.test: one for one in run_once(backend, world_size, failed, 1, asked.deadline, progress)}
    return [replace(again[one.test], tries=2) if one.test in again else one for one in first]


def run_once(
    backend: str, world_size: int, only: list[str], jobs: int, deadline: float, progress: Progress
) -> list[Result]:
    """Tests over one backend, once each; those over switchml share one emulated switch."""
    arguments = [f"--jobs={jobs}", f"--deadline={deadline}"]
    arguments += [f"--only={pattern}" for pattern in only]
    results = []
    with contextlib.ExitStack() as stack:
        environment = {}
        if backend == "switchml":
            switch = embedded.start()
            stack.callback(switch.close, grace=0.0)
            environment = {"SWITCHML_SWITCH": switch.address, "SWITCHML_TOKEN": switch.token}
        for answer in stack.enter_context(
            contextlib.closing(tests_of(backend, world_size, environment, arguments))
        ):
            if "tests" in answer:
                progress.begin(backend, world_size, len(answer["tests"]))
                continue
            result = Result(world_size=world_size, backend=backend, **answer)
            results.append(result)
            progress.note(result)
    return results


def verdict(results: list[Result]) -> list[Result]:
    """Tests that do not pass with another backend though they do with gloo."""
    passed = {
        (one.test, one.world_size) for one in results if one.backend == "gloo" and one.outcome == "passed"
    }
    return [
        one
        for one in results
        if one.outcome != "passed" and (one.test, one.world_size) in passed and one.backend != "gloo"
    ]


def table(results: list[Result]) -> str:
    counts = Counter((one.world_size, one.backend, one.outcome) for one in results)
    heads = list(dict.fromkeys((one.world_size, one.backend) for one in results))
    lines = [("world size", "backend", *OUTCOMES)]
    lines += [
        (str(size), name, *(str(counts[size, name, outcome]) for outcome in OUTCOMES)) for size, name in heads
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def details(results: list[Result]) -> str:
    """Every test with another outcome than passed or a skip that all backends share."""
    outcomes: dict[tuple[int, str], dict[str, Result]] = {}
    for one in results:
        outcomes.setdefault((one.world_size, one.test), {})[one.backend] = one
    lines = []
    for (world_size, test), by_backend in sorted(outcomes.items()):
        outcomes_told = {one.outcome for one in by_backend.values()}
        if (
            "failed" in outcomes_told
            or len(outcomes_told) > 1
            or any(one.tries > 1 for one in by_backend.values())
        ):
            said = ", ".join(
                f"{name} {one.outcome}{AGAIN[one.outcome] if one.tries > 1 else ''}"
                for name, one in by_backend.items()
            )
            lines.append(f"world size {world_size}, {test}: {said}")
    return "\n".join(lines)


def summary(results: list[Result], worse: list[Result]) -> dict[str, Any]:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for one in results:
        by_backend = counts.setdefault(str(one.world_size), {})
        by_backend.setdefault(one.backend, dict.fromkeys(OUTCOMES, 0))[one.outcome] += 1
    return {
        "torch": metadata.version("torch"),
        "note": NOTE,
        "counts": counts,
        "worse_than_gloo": [{"test": one.test, "world_size": one.world_size} for one in worse],
        "results": [asdict(one) for one in results],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world-sizes", default="2,3,4", metavar="N,N")
    parser.add_argument("--backends", default="gloo,switchml", metavar="NAME,NAME")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="names, with * and ?")
    parser.add_argument("--jobs", type=int, default=1, help="tests at the same time")
    parser.add_argument("--deadline", type=float, default=150.0, help="seconds for a test")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    results: list[Result] = []
    progress = Progress()
    interrupted = False
    try:
        for world_size in map(int, asked.world_sizes.split(",")):
            for backend in asked.backends.split(","):
                results += run(backend, world_size, asked, progress)
    except KeyboardInterrupt:
        interrupted = True
    worse = verdict(results)
    if asked.json:
        print(json.dumps(summary(results, worse), indent=1))
    else:
        print(table(results))
        print(details(results))
        print(NOTE)
        for one in worse:
            print(f"\n--- {one.test}, world size {one.world_size}, {one.backend}\n{one.message}\n{one.log}")
    return 130 if interrupted else int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
