"""What the parent asks of a rank, and what a rank answers. They travel pickled over a Unix socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switchml.bench.systems.system import Place


@dataclass(frozen=True)
class Hello:
    """A rank's first words, before it joins the others."""

    rank: int
    pid: int


@dataclass(frozen=True)
class Join:
    """The first command: load the system named "module:Class" and join the other ranks. Answer: `Ready`."""

    system: str
    place: Place


@dataclass(frozen=True)
class Ready:
    """The rank has joined; `facts` is what the system says of itself."""

    facts: dict[str, Any]


@dataclass(frozen=True)
class Prepare:
    """Allocate and touch a tensor of `count` elements, and keep it until the next `Prepare`."""

    count: int
    dtype: str
    op: str


@dataclass(frozen=True)
class Batch:
    """Fill the tensor, wait for all ranks, reduce it `iterations` times in a row, filling it and waiting again after
    every `refill`. Answer: seconds of the reductions alone."""

    iterations: int
    refill: int


@dataclass(frozen=True)
class Check:
    """Reduce tensors of known sums once each and compare. Answer: a `Verdict`."""


@dataclass(frozen=True)
class Counters:
    """Answer: the system's counters."""


@dataclass(frozen=True)
class MeasureMemory:
    """Measure the memory of one all-reduce of `count` elements. Answer: a `MemoryReading`."""

    count: int
    dtype: str
    op: str
    warm_up: int


@dataclass(frozen=True)
class Stop:
    """Leave and exit. No answer."""


@dataclass(frozen=True)
class Failure:
    """The answer of a rank that cannot go on. trace: "" for errors that say all by themselves."""

    kind: str
    text: str
    trace: str
