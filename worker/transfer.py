"""What collectives hand to the stream: transfers, and sources that give them in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.link.records import row_of
from switchml.worker.window import BLOCKS, QUEUED, WORDS, TransferRecord

Words = npt.NDArray[np.uint32]


@dataclass(eq=False)
class Transfer:
    """One stretch of the stream (worker/window.py). Its arrays are kept alive by it.

    Attributes:
        kind: BLOCKS, float32 arrays of `count`, or WORDS, uint32.
        count: elements in all.
        source: WORDS: this rank's words, first to first + len(source) - 1 of all; the others are the other ranks'.
        destination: takes the result.
        signature: four words (worker/signature.py).
        done: called when it has ended well.
        fail: called when the stream has broken.
        deadline: ns, of CLOCK_MONOTONIC.
        first: WORDS: where `source` begins.
        part: 0: every rank wants all sums. Else element i is wanted by rank (origin + i) // part alone, and `destination` takes
            what this rank wants.
        origin: see `part`.
        flags: BLOCKS: a byte a chunk, 1 for one to be exchanged exactly; made when it is not given.
        highest: afterwards, the largest exponent.
    """

    kind: int
    count: int
    source: npt.NDArray[Any]
    destination: npt.NDArray[Any]
    signature: Words
    done: Callable[[Transfer], None]
    fail: Callable[[BaseException], None]
    deadline: int
    first: int = 0
    part: int = 0
    origin: int = 0
    flags: npt.NDArray[np.uint8] | None = None
    highest: int = field(default=0, init=False)

    def chunks(self, elements: int) -> int:
        """Chunks it is cut into, `elements` each."""
        return -(-self.count // elements)

    def record(self, elements: int) -> tuple[Any, ...]:
        """Its entry as a TransferRecord; what the stream fills in itself is 0."""
        chunks = self.chunks(elements)
        if self.kind == BLOCKS and self.flags is None:
            self.flags = np.zeros(chunks, np.uint8)
        words = self.kind == WORDS
        fields: TransferRecord = {
            "kind": self.kind, "status": QUEUED, "start": 0, "prologue": 0, "chunks": chunks, "count": self.count,
            "source": _address(self.source), "destination": _address(self.destination),
            "flags": 0 if self.flags is None else _address(self.flags),
            "first": self.first if words else 0, "last": self.first + self.source.size if words else 0,
            "part": self.part, "origin": self.origin, "unknown": 0, "left": 0, "flagged": 0, "released": 0, "highest": 0,
            "deadline": self.deadline, "signature": self.signature,
        }  # fmt: skip
        return _in_order(fields)


_in_order = row_of(TransferRecord)


def _address(array: npt.NDArray[Any]) -> int:
    # Half the time of array.ctypes.data, and there are many small transfers.
    address: int = array.__array_interface__["data"][0]
    return address


def wanted(rank: int, count: int, part: int, origin: int) -> slice:
    """Which of a transfer's `count` sums a rank wants; for `part` and `origin` see `Transfer`."""
    if part == 0:
        return slice(0, count)
    mine = rank * part - origin
    first = min(max(0, mine), count)
    return slice(first, max(first, min(mine + part, count)))


class Source(Protocol):
    """Gives transfers in the order in which they must be laid, which is the same on all ranks."""

    def pull(self) -> Transfer | None:
        """The next transfer, or None when it cannot be given yet (or there is no other)."""

    def exhausted(self) -> bool:
        """True when there will be no other."""

    def fail(self, error: BaseException) -> None:
        """The stream is broken: nothing will be pulled or finished any more."""


class Listed(Source):
    """A source of transfers that exist already."""

    def __init__(self, transfers: Sequence[Transfer]) -> None:
        self._transfers = list(transfers)

    @override
    def pull(self) -> Transfer | None:
        return self._transfers.pop(0) if self._transfers else None

    @override
    def exhausted(self) -> bool:
        return not self._transfers

    @override
    def fail(self, error: BaseException) -> None:
        for transfer in self._transfers:
            transfer.fail(error)
        self._transfers.clear()
