"""Carrying out an experiment: what is missing is measured, each run is kept when it is done, and nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from switchml.bench.findings import Finding, Found
from switchml.bench.settings import Point
from switchml.errors import BenchError, UsageError

_NAME_LENGTH = 80


@dataclass(frozen=True)
class Run:
    """What is measured at once and kept in a file.

    Attributes:
        settings: all that its outcome depends on; plain values.
    """

    settings: Mapping[str, Any]

    @property
    def canonical(self) -> str:
        """Two runs are the same where this is."""
        return json.dumps(self.settings, sort_keys=True)

    @property
    def digest(self) -> str:
        """Of that, for the name of a file."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Kept:
    """A run that was done.

    Attributes:
        run: it.
        findings: a system each.
        machine: where, and with which versions.
        began: when, in UTC, ISO 8601.
        seconds: that it took.
    """

    run: Run
    findings: list[Finding]
    machine: Mapping[str, Any]
    began: str
    seconds: float


class Runner(Protocol):
    """What carries out runs, and knows what they depend on."""

    def runs(self, point: Point) -> list[Run]:
        """Those whose findings together are a point's."""

    def check(self, points: Sequence[Point]) -> None:
        """Whether all can be carried out here.

        Raises:
            UsageError: one cannot; says which and why.
        """

    def words(self, run: Run) -> str:
        """A run's name, for people."""

    def seconds(self, run: Run) -> float:
        """How long it will take, about."""

    def batches(self, runs: Sequence[Run]) -> Iterable[Sequence[Run]]:
        """Runs that are better done together, as those that need the same network."""

    def measure(self, batch: Sequence[Run], phase: Phase) -> Iterator[tuple[Run, list[Finding]]]:
        """Carry out a batch; each run is told when it is done.

        Raises:
            BenchError: something measured has failed.
        """


class Phase(Protocol):
    """Told what is being done."""

    def __call__(self, text: str) -> None:
        """Something that takes time begins."""


class Watcher(Protocol):
    """Told how the campaign goes on."""

    def phase(self, text: str) -> None:
        """Something that takes time begins."""

    def done(self, words: str, findings: Sequence[Finding], left: float) -> None:
        """A run is done; `left` seconds are to come, about."""

    def failed(self, words: str, error: BenchError) -> None:
        """Those runs have failed; the others go on."""


class Store:
    """The folder of what was measured, a file a run."""

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        """Of a folder that need not be there yet.

        Args:
            folder: of the files.
            machine: what is noted with what is kept from now on.
        """
        self._folder = folder
        self._machine = machine

    def _path(self, run: Run, words: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9.%-]+", "_", words).strip("_")[:_NAME_LENGTH]
        return self._folder / f"{name}-{run.digest}.json"

    def load(self, run: Run) -> Kept | None:
        """What was kept of a run; None = nothing."""
        for path in self._folder.glob(f"*-{run.digest}.json"):
            try:
                found = json.loads(path.read_text())
                findings = [Finding(**one) for one in found["findings"]]
                kept = Kept(Run(found["run"]), findings, found["machine"], found["began"], found["seconds"])
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{path}: not what was written there: {error!r}; remove it") from None
            if kept.run.canonical == run.canonical:
                return kept
        return None

    def keep(
        self, run: Run, words: str, findings: Sequence[Finding], began: datetime, seconds: float
    ) -> None:
        """Write what was found; the file is there as a whole or not at all."""
        document = {
            "run": run.settings,
            "machine": self._machine,
            "began": began.isoformat(timespec="seconds"),
            "seconds": seconds,
            "findings": [one.as_json() for one in findings],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(run, words)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
        partial.rename(path)


def wanted(points: Iterable[Point], runner: Runner) -> list[Run]:
    """All runs that points are made of, each once, in order."""
    runs = {run.canonical: run for point in points for run in runner.runs(point)}
    return list(runs.values())


def missing(runs: Iterable[Run], store: Store) -> list[Run]:
    """Those that were not kept yet."""
    return [run for run in runs if store.load(run) is None]


def carry_out(runs: Sequence[Run], runner: Runner, store: Store, watcher: Watcher) -> int:
    """Measure runs and keep each.

    Args:
        runs: those to be done.
        runner: does them.
        store: keeps what was found.
        watcher: told how it goes on.

    Returns:
        How many have failed.

    Raises:
        UsageError: one cannot be carried out.
    """
    expected = {run.canonical: runner.seconds(run) for run in runs}
    ahead, behind, taken, failed = sum(expected.values()), 0.0, 0.0, 0
    for batch in runner.batches(runs):
        undone = {run.canonical: run for run in batch}
        began, before = datetime.now(UTC), time.monotonic()
        try:
            for run, findings in runner.measure(batch, watcher.phase):
                now = time.monotonic()
                store.keep(run, runner.words(run), findings, began, now - before)
                del undone[run.canonical]
                ahead -= expected[run.canonical]
                behind += expected[run.canonical]
                taken += now - before
                watcher.done(runner.words(run), findings, ahead * taken / behind)
                began, before = datetime.now(UTC), now
        except BenchError as error:
            failed += len(undone)
            ahead -= sum(expected[each] for each in undone)
            watcher.failed("; ".join(runner.words(run) for run in undone.values()), error)
    return failed


def found_at(points: Iterable[Point], runner: Runner, store: Store) -> Found:
    """Points whose runs are all kept, with what they found."""
    found = []
    for point in points:
        kept = [store.load(run) for run in runner.runs(point)]
        if all(kept):
            found.append((point, [one for each in kept if each is not None for one in each.findings]))
    return found
