"""How much longer `import torch` takes with switchml installed.

With TORCH_DEVICE_BACKEND_AUTOLOAD=1, the default, torch calls the entry point of every installed backend; with 0
it calls none. Two fresh interpreters a round, the order alternating.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from switchml.bench.errors import BenchError
from switchml.bench.spread import Spread

HEAVY = ("numba", "llvmlite", "grpc", "google.protobuf", "matplotlib", "scapy", "rich", "typer")

_SCRIPT = """
import sys, time
started = time.perf_counter()
import torch
seconds = time.perf_counter() - started
import json
print(json.dumps([seconds, sorted(sys.modules)]))
"""
_DEADLINE = 120.0


@dataclass(frozen=True)
class ImportTimes:
    """Seconds of `import torch`, a value a round, and what the backend's entry point brought along.

    loaded: modules of `HEAVY` that are loaded with autoload and not without.
    own: modules of switchml that are loaded.
    """

    without: tuple[float, ...]
    with_autoload: tuple[float, ...]
    loaded: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def difference(self) -> Spread:
        """Seconds that autoload adds, from the rounds' own differences."""
        return Spread.of([on - off for on, off in zip(self.with_autoload, self.without, strict=True)])


def import_torch(autoload: bool) -> tuple[float, set[str]]:
    """Seconds of `import torch` in a fresh interpreter and the names of all modules loaded after it."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": str(int(autoload))},
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
    )
    if done.returncode != 0:
        raise BenchError(f"import torch failed: {done.stderr.strip()[-2000:]}")
    seconds, modules = json.loads(done.stdout)
    return float(seconds), set(modules)


def measure_import(rounds: int) -> ImportTimes:
    """Raises `BenchError` when torch cannot be imported."""
    import_torch(True)  # fills the page cache for both sides
    times: dict[bool, list[float]] = {False: [], True: []}
    modules: dict[bool, set[str]] = {False: set(), True: set()}
    for number in range(rounds):
        for autoload in (False, True) if number % 2 == 0 else (True, False):
            seconds, modules[autoload] = import_torch(autoload)
            times[autoload].append(seconds)
    added = modules[True] - modules[False]
    own = sorted(name for name in modules[True] if name == "switchml" or name.startswith("switchml."))
    heavy = tuple(name for name in HEAVY if name in added)
    return ImportTimes(tuple(times[False]), tuple(times[True]), heavy, tuple(own))
