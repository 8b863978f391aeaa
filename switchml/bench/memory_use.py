"""A worker's memory around one all-reduce, system by system and size by size."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from switchml.bench import rank_protocol
from switchml.bench.allreduce import Network, Observer, Plan
from switchml.bench.rank_protocol import MemoryReading
from switchml.bench.systems.catalogue import Entry
from switchml.bench.verification import element_type

WARM_UP_BYTES = 1 << 20


@dataclass(frozen=True)
class MemoryUse:
    """One system at one size: the readings of all its ranks."""

    system: str
    workers: int
    size: int
    readings: tuple[MemoryReading, ...]

    @property
    def growth(self) -> int:
        """Bytes that the all-reduce added at its peak, of the rank where they are most."""
        return max(reading.growth for reading in self.readings)

    @property
    def held(self) -> int:
        """Bytes of data kept while joined, of the rank where they are most."""
        return max(reading.held for reading in self.readings)

    @property
    def extra(self) -> int:
        """Bytes beside tensor and libraries, of the rank where they are most."""
        return max(reading.growth + reading.held for reading in self.readings)

    @property
    def libraries(self) -> int:
        """Bytes of the system's libraries, of the rank where they are most."""
        return max(reading.libraries for reading in self.readings)

    @property
    def peak(self) -> int:
        """Largest resident size of a rank, everything included."""
        return max(reading.after.peak for reading in self.readings)

    def as_json(self) -> dict[str, Any]:
        """Plain values, bytes."""
        figures = ("growth", "held", "extra", "libraries", "peak")
        return {**asdict(self), **{name: getattr(self, name) for name in figures}}


def measure_memory(plan: Plan, observer: Observer) -> list[MemoryUse]:
    """Every system and size in fresh processes, after one that is not counted: it fills caches of compiled code."""
    plan.validate()
    found = []
    for workers in plan.workers:
        for entry in plan.entries:
            _read(plan, workers, entry, WARM_UP_BYTES)
            for size in plan.sizes:
                observer.phase(f"{workers} workers, {entry.name}: {size} bytes")
                found.append(MemoryUse(entry.name, workers, size, _read(plan, workers, entry, size)))
                observer.step()
    return found


def _read(plan: Plan, workers: int, entry: Entry, size: int) -> tuple[MemoryReading, ...]:
    kind = element_type(plan.dtype)
    count, warm_up = size // kind.itemsize, WARM_UP_BYTES // kind.itemsize
    with contextlib.ExitStack() as stack:
        group = Network.build(plan, workers, stack).start(entry, plan, stack)
        return tuple(group.ask(rank_protocol.MeasureMemory(count, kind.name, plan.op, warm_up), plan.timeout))
