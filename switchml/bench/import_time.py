"""How much longer `import torch` takes with switchml installed.

With TORCH_DEVICE_BACKEND_AUTOLOAD=1, the default, torch calls the entry point of every installed backend; with 0
it calls none. Two fresh interpreters a round, the order alternating.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from switchml.bench.results import Spread, interleaved
from switchml.errors import BenchError

HEAVY = ("numba", "llvmlite", "grpc", "google.protobuf", "matplotlib", "scapy", "rich", "typer")

_SCRIPT = """
import sys, time
started, worked = time.perf_counter(), time.process_time()
import torch
seconds, processor = time.perf_counter() - started, time.process_time() - worked
modules = sorted(sys.modules)
started = time.perf_counter()
torch._import_device_backends()
alone = time.perf_counter() - started
import json
print(json.dumps([seconds, processor, alone, modules]))
"""
_DEADLINE = 120.0


@dataclass(frozen=True)
class ImportTimes:
    """`import torch` without and with autoload, a value a round, and what the backend's entry point brought along.

    Attributes:
        elapsed: seconds by the clock, by whether autoload was on.
        processor: seconds of processor time, likewise.
        alone: seconds that calling all entry points takes once torch is imported without: the same work, but not the
            small difference of two long and noisy times.
        loaded: modules of `HEAVY` that are loaded with autoload and not without.
        own: modules of switchml that are loaded.
    """

    elapsed: dict[bool, list[float]]
    processor: dict[bool, list[float]]
    alone: list[float]
    loaded: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def difference(self) -> Spread:
        """Seconds that autoload adds by the clock, from the rounds' own differences."""
        return _difference(self.elapsed)

    @property
    def processor_difference(self) -> Spread:
        """Seconds of processor time that autoload adds, from the rounds' own differences."""
        return _difference(self.processor)

    def as_json(self) -> dict[str, Any]:
        """Plain values, seconds."""
        return {
            "elapsed_without": self.elapsed[False],
            "elapsed_with": self.elapsed[True],
            "elapsed_difference": dataclasses.asdict(self.difference),
            "processor_without": self.processor[False],
            "processor_with": self.processor[True],
            "processor_difference": dataclasses.asdict(self.processor_difference),
            "entry_points_alone": self.alone,
            "heavy_modules": self.loaded,
            "own_modules": self.own,
        }


def _difference(times: dict[bool, list[float]]) -> Spread:
    return Spread.of([on - off for on, off in zip(times[True], times[False], strict=True)])


def import_torch(autoload: bool) -> tuple[float, float, float, set[str]]:
    """`import torch` in a fresh interpreter.

    Returns:
        Seconds by the clock, seconds of processor time, seconds of calling the entry points afterwards, and the names of all
        modules that the import loaded.

    Raises:
        BenchError: torch cannot be imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": str(int(autoload))},
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
    )
    if done.returncode != 0:
        raise BenchError(f"import torch failed: {done.stderr.strip()[-2000:]}")
    elapsed, processor, alone, modules = json.loads(done.stdout)
    return float(elapsed), float(processor), float(alone), set(modules)


def measure_import(rounds: int) -> ImportTimes:
    """Import torch `rounds` times without and with autoload, the order alternating.

    Raises:
        BenchError: torch cannot be imported.
    """
    import_torch(True)  # fills the page cache for both sides
    elapsed: dict[bool, list[float]] = {False: [], True: []}
    processor: dict[bool, list[float]] = {False: [], True: []}
    alone: dict[bool, list[float]] = {False: [], True: []}
    modules: dict[bool, set[str]] = {False: set(), True: set()}
    for _, autoload in interleaved((False, True), rounds):
        seconds, worked, called, modules[autoload] = import_torch(autoload)
        alone[autoload].append(called)
        elapsed[autoload].append(seconds)
        processor[autoload].append(worked)
    added = modules[True] - modules[False]
    own = sorted(name for name in modules[True] if name == "switchml" or name.startswith("switchml."))
    return ImportTimes(
        elapsed, processor, alone[False], tuple(name for name in HEAVY if name in added), tuple(own)
    )
