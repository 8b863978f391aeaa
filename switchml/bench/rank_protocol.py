"""What the parent asks of a rank, and what a rank answers. They travel pickled over a Unix socket, so their classes
stand here and not in `rank`, which is `__main__` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from switchml.bench.systems.catalogue import Place


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
    """Allocate and touch the buffers of a collective, and keep them until the next `Prepare`; the larger has `count` elements."""

    count: int
    dtype: str
    op: str
    collective: str = "allreduce"


@dataclass(frozen=True)
class Batch:
    """Fill the buffer, wait for all ranks, carry out the collective `iterations` times in a row.

    It is filled, and all ranks are waited for, again after every `refill` of them. Answer: seconds of the collectives alone.
    """

    iterations: int
    refill: int


@dataclass(frozen=True)
class Timeline:
    """As `Batch`. Answer: seconds of the system's monotonic clock, at the beginning and after each reduction."""

    iterations: int
    refill: int


@dataclass(frozen=True)
class Check:
    """Carry out the collective on data of known results and compare. Answer: a `Verdict`."""


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
    """The answer of a rank that cannot go on.

    Attributes:
        kind: name of the exception's class.
        text: what it says.
        trace: of the stack; "" for errors that say all by themselves.
    """

    kind: str
    text: str
    trace: str


@dataclass(frozen=True)
class Resident:
    """Resident bytes of a process as the kernel counts them.

    Attributes:
        anonymous: private.
        files: of mapped files, program code.
        shared: with other processes.
        peak: largest sum of the three so far.
    """

    anonymous: int
    files: int
    shared: int
    peak: int

    @property
    def total(self) -> int:
        """All resident bytes now."""
        return self.anonymous + self.files + self.shared

    @property
    def data(self) -> int:
        """Resident bytes that are not program code."""
        return self.anonymous + self.shared


@dataclass(frozen=True)
class MemoryReading:
    """One rank's memory around an all-reduce of a tensor that is resident throughout.

    Attributes:
        tensor: bytes of it.
        before: when the rank had not yet loaded the system.
        loaded: with the system's modules, before joining.
        joined: after joining and a warm-up reduction, with the tensor.
        after: after the reduction, with its peak.
    """

    tensor: int
    before: Resident
    loaded: Resident
    joined: Resident
    after: Resident

    @property
    def growth(self) -> int:
        """Bytes that the reduction itself added at its peak."""
        return max(0, self.after.peak - self.joined.total)

    @property
    def held(self) -> int:
        """Bytes of data, not of program files, that joining and the first reductions brought and that stay."""
        return max(0, self.joined.data - self.loaded.data - self.tensor)

    @property
    def libraries(self) -> int:
        """Bytes of the system's libraries: what loading its modules took, and program files loaded since."""
        return max(0, self.loaded.total - self.before.total + self.joined.files - self.loaded.files)
