"""What collectives hand to the stream: transfers, and sources that give them in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.link.records import row_of
from switchml.worker.kernels import NEAREST
from switchml.worker.window import BLOCKS, QUEUED, ROWS, WORDS, TransferRecord

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How float32 values are rounded for a narrow wire.

    Attributes:
        seed: of stochastic rounding: up with the probability of the fraction. Seed (its low 32 bits) and an element's
            position decide, so that bits repeat; ranks should use different ones. None: to nearest.
        feedback: leave in the array that is summed what rounding took off it, for the next sum ("error feedback").
    """

    seed: int | None = None
    feedback: bool = False


TO_NEAREST = Rounding()


class Share(NamedTuple):
    """Which sums of a reduction a rank wants: with `part` 0 all, else those of `part` elements from rank * part - origin on.

    So element i is wanted by rank (origin + i) // part alone, or by every rank. With `others` it is that rank's own, and wanted
    by all others; what a rank takes is the whole all the same.

    Attributes:
        rank: it.
        part: the same on all ranks.
        origin: the same on all ranks.
        others: the same on all ranks.
    """

    rank: int
    part: int = 0
    origin: int = 0
    others: bool = False

    def of(self, where: slice) -> slice:
        """What the rank wants among the elements `where`, counted from its start."""
        count = where.stop - where.start
        if self.part == 0 or self.others:
            return slice(0, count)
        mine = self.rank * self.part - self.origin - where.start
        first = min(max(0, mine), count)
        return slice(first, max(first, min(mine + self.part, count)))

    def place(self, where: slice) -> slice:
        """Where that stands in what the rank wants altogether."""
        mine = self.of(where)
        if mine.start == mine.stop:
            return slice(0, 0)
        before = 0 if self.others else max(0, self.rank * self.part - self.origin)
        return slice(where.start + mine.start - before, where.start + mine.stop - before)

    def beyond(self, start: int) -> Share:
        """The same of the elements from `start` on."""
        return self._replace(origin=self.origin + start)


EVERYTHING = Share(0)


class Added(NamedTuple):
    """What a rank wants of rows that are added as float32, in the order of ranks, where they lie in memory that ranks share.

    Attributes:
        start: of a row, the first.
        length: how many.
        divisor: of the sums.
    """

    start: int
    length: int
    divisor: int


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
        first: WORDS: where `source` begins. BLOCKS: position of the first element in the collective, which decides on rounding.
        share: which sums this rank wants; `destination` takes those.
        rounding: BLOCKS.
        flags: BLOCKS: a byte a chunk, 1 for one to be exchanged exactly; made when it is not given.
        row: WORDS: the most words that a rank gives, where no word is given by two; 0: words are summed.
        added: where rows are shared: `destination` takes sums of rows.
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
    share: Share = EVERYTHING
    rounding: Rounding = TO_NEAREST
    flags: npt.NDArray[np.uint8] | None = None
    row: int = 0
    added: Added | None = None
    highest: int = field(default=0, init=False)

    def chunks(self, elements: int) -> int:
        """Chunks it is cut into, `elements` each."""
        return -(-self.count // elements)

    def record(self, elements: int, shared_row: int = 0) -> tuple[Any, ...]:
        """Its entry as a TransferRecord; what the stream fills in itself is 0.

        Args:
            elements: of a full chunk.
            shared_row: words of a rank that go in one round through memory that ranks share; 0: they share none.
        """
        rows = min(self.row, shared_row) > 0
        chunks = -(-self.row // shared_row) - 1 if rows else self.chunks(elements)
        part, origin, divisor = self.share.part, self.share.origin, 0
        if self.added is not None:
            origin, part, divisor = self.added
        if self.kind == BLOCKS and self.flags is None:
            self.flags = np.zeros(chunks, np.uint8)
        words = self.kind == WORDS
        seed = self.rounding.seed
        fields: TransferRecord = {
            "kind": ROWS if rows else self.kind, "status": QUEUED,
            "start": 0, "prologue": 0, "chunks": chunks, "count": self.count,
            "source": _address(self.source), "destination": _address(self.destination),
            "flags": 0 if self.flags is None else _address(self.flags),
            "first": self.first, "last": self.first + self.source.size if words else 0,
            "part": part, "origin": origin, "others": self.share.others, "divisor": divisor,
            "unknown": 0, "left": 0, "flagged": 0, "released": 0, "highest": 0,
            "deadline": self.deadline, "seed": NEAREST if seed is None else seed & 0xFFFFFFFF,
            "feedback": self.rounding.feedback, "signature": self.signature,
        }  # fmt: skip
        return _in_order(fields)


_in_order = row_of(TransferRecord)


def _address(array: npt.NDArray[Any]) -> int:
    # Half the time of array.ctypes.data, and there are many small transfers.
    address: int = array.__array_interface__["data"][0]
    return address


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


class Ready:
    """A source of one transfer that is prepared: entry.py can put it into an empty ring in place of `pull`.

    Attributes:
        template: address of an `entry.Template`.
        source: address; likewise those below.
        destination: as in Transfer.
        flags: as in Transfer; 0 for none.
        deadline: as in Transfer.
        number: fourth word of the signature.
    """

    template: int
    source: int
    destination: int
    flags: int
    deadline: int
    number: int

    def end(self, highest: int) -> None:
        """In place of the transfer's `done`. highest: its."""
        raise NotImplementedError

    def transfer(self) -> Transfer:
        """What has been put into the ring, as it goes on the long way."""
        raise NotImplementedError

    def pull(self) -> Transfer | None:
        """As of any Source."""
        raise NotImplementedError

    def exhausted(self) -> bool:
        """As of any Source."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """As of any Source."""
        raise NotImplementedError
