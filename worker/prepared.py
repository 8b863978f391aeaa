"""The short way of calls that come again: what depends on a call's shape alone is made once, and used with any memory after that.

A collective that goes as one transfer, from where its elements lie, needs of a call no more than addresses, deadline and number.
Its handle is also its source in the stream, and whoever drives while nothing else is under way takes it through three compiled
calls. All other collectives take the long way of collectives.py, in the same stream and order: ranks may differ in it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.errors import UsageError
from switchml.link.records import new_records, table_of
from switchml.protocol.numerics import error_bound
from switchml.worker.collectives import Call, Collectives, Gathered, Part, Plans, Strategy
from switchml.worker.elements import reduce_rows
from switchml.worker.entry import Template
from switchml.worker.kernels import add_rows, divide
from switchml.worker.owner import Owner
from switchml.worker.signature import CALL_MASK
from switchml.worker.stream import Stream
from switchml.worker.tally import Tally
from switchml.worker.transfer import Added, Ready, Transfer
from switchml.worker.window import BLOCKS, TransferRecord
from switchml.worker.work import Work

Array = npt.NDArray[Any]

_KEPT_SHAPES = 256


class Shape(NamedTuple):
    """What a call has in common with others; `op`, `root` and `named` as in `Collectives`, where they have a meaning.

    Attributes:
        collective: a method of `Collectives`.
        dtype: of its array.
        elements: how many it has.
        op: the operation.
        root: the rank.
        named: the dtype, where numpy does not know it.
    """

    collective: str
    dtype: np.dtype[Any]
    elements: int
    op: str = "sum"
    root: int = 0
    named: str | None = None


class _Recorder(Collectives):
    """Carries nothing, but keeps the call that a method makes."""

    def __init__(self, rank: int, world_size: int, wire: str) -> None:
        self.rank, self.world_size, self.wire = rank, world_size, wire
        self._made: list[Call] = []

    @override
    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        self._made.append(call)
        return Work.ended(call.result)

    def call(self, shape: Shape) -> Call:
        """The call of that shape."""
        array = np.empty(shape.elements, shape.dtype)
        match shape.collective:
            case "allreduce":
                self.allreduce(array, shape.op, dtype=shape.named)
            case "reduce":
                self.reduce(array, shape.root, shape.op, dtype=shape.named)
            case "reduce_scatter":
                self.reduce_scatter(array.reshape(self.world_size, -1), shape.op, dtype=shape.named)
            case "broadcast":
                self.broadcast(array, shape.root)
            case "allgather":
                self.allgather(array)
            case _:
                self.barrier()
        return self._made.pop()


class _Lane(NamedTuple):
    """Memory of a call under way, and where it lies; 0 where there is none.

    Attributes:
        rows: uint32 (ranks, words of one), where all give theirs to be reduced here.
        flags: a byte a chunk of float32 blocks.
    """

    rows: Array | None
    flags: npt.NDArray[np.uint8] | None
    rows_at: int
    flags_at: int


class _Extent(NamedTuple):
    """An array's, without its memory."""

    size: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, array: Array) -> _Extent:
        return cls(array.size, array.dtype)

    def at(self, address: int) -> Array:
        """Memory that the caller keeps alive, as such an array."""
        if self.size == 0:
            return np.empty(0, self.dtype)
        raw = memoryview((ctypes.c_uint8 * (self.size * self.dtype.itemsize)).from_address(address))
        return np.frombuffer(raw, self.dtype)


def _unused(_: Any) -> None:
    raise AssertionError("a template is no transfer")


class Prepared:
    """Calls of one shape. Made by `PreparedPlans`.

    Args:
        call: one of them, over memory of no meaning.
        strategy: its.
        part: the one of that.
        plans: of the worker.
    """

    def __init__(self, call: Call, strategy: Strategy, part: Part, plans: PreparedPlans) -> None:
        said = call.signature
        self.plans, self.what = plans, f"{said.told()} in job {plans.job!r}"
        self._said, self._words = said, said.words()
        self._given, self._bound = _Extent.of(call.source), call.bound
        self._mine = slice(0, call.source.size) if call.mine is None else call.mine
        self._gathers = isinstance(strategy, Gathered)
        self._adds = said.dtype == "float32" and said.op in ("sum", "avg")
        self._divisor = plans.world_size if said.op == "avg" else 1
        self._added: Added | None = None
        if self._adds and self._gathers and 0 < part.row <= plans.stream.shared_row:
            # Straight to where the result goes.
            mine = self._mine
            self._added = Added(mine.start, mine.stop - mine.start, self._divisor)
            self._gathers, self._divisor = False, 1
            part = replace(part, destination=call.source[mine])
        self._source, self._destination = _Extent.of(part.source), _Extent.of(part.destination)
        # Without the memory, which may be large.
        self._part = replace(part, source=part.source[:0].copy(), destination=part.destination[:0].copy())
        elements = plans.stream.elements[part.kind]
        laid = self._transfer(part.source, part.destination, self._words, _unused, _unused, 0, None)
        self._chunks = laid.chunks(elements) if part.kind == BLOCKS else 0
        self._record = new_records(TransferRecord, 1)
        self._record[0] = laid.record(elements, plans.stream.shared_row)
        self._table = table_of(Template(self._record))
        self.template: int = self._table.ctypes.data
        self._lanes: list[_Lane] = []

    def begin(
        self, source: int, out: int, kept: Any, result: Array, timeout: float | None, notify: bool
    ) -> Work:
        """Start a call.

        Args:
            source: address of the elements that this rank gives.
            out: address of where the result goes; may be `source`. Not used where this rank gets none.
            kept: lives until the call is over: who owns that memory.
            result: of the handle.
            timeout: deadline in seconds; None = that of the job.
            notify: False when `wait` follows at once.

        Raises:
            WorkerClosedError: in another process than the worker's.
            CollectiveError: the job has failed before.
        """
        plans = self.plans
        plans.owner.check()
        left = plans.timeout_ns if timeout is None else int(timeout * 1e9)
        work = _PreparedWork(self, source, out, kept, result, time.monotonic_ns() + left)
        tally = plans.tally
        with tally.lock:
            work.number = tally.called & CALL_MASK
            plans.stream.submit(work, notify)
            tally.called += 1
        if tally.limit is not None:
            tally.end_if_alone()
        return work

    def take_lane(self) -> _Lane:
        """Memory for a call."""
        try:
            return self._lanes.pop()
        except IndexError:
            pass
        rows = flags = None
        if self._gathers:
            rows = np.empty((self.plans.world_size, self._source.size), np.uint32)
        if self._chunks:
            flags = np.zeros(self._chunks, np.uint8)
        return _Lane(
            rows, flags, 0 if rows is None else rows.ctypes.data, 0 if flags is None else flags.ctypes.data
        )

    def finish(self, lane: _Lane, out: int) -> None:
        """Bring a result home."""
        if self._gathers:
            self._reduce(lane, out)
        elif self._divisor > 1:
            divide(out, self._destination.size, self._divisor)
        self._lanes.append(lane)

    def _reduce(self, lane: _Lane, out: int) -> None:
        mine, given = self._mine, self._given
        count, ranks = mine.stop - mine.start, self.plans.world_size
        if self._adds:
            add_rows(lane.rows_at + 4 * mine.start, given.size, ranks, count, out, self._divisor)
            return
        assert lane.rows is not None
        rows = lane.rows.view(given.dtype)[:, mine]
        if count:
            reduce_rows(rows, self._said.dtype, self._said.op, _Extent(count, given.dtype).at(out))

    def error_bound(self, highest: int) -> float:
        """Of a call with that exponent."""
        if self._bound == 0:
            return 0.0
        return error_bound(highest, self.plans.world_size, self.plans.bits) * self._bound

    def transfer(self, work: _PreparedWork) -> Transfer:
        """What a call is for the stream, if it does not go the short way."""
        lane, words = work.lane, self._words.copy()
        words[3] = work.number
        out = self._destination.at(work.destination)

        def done(transfer: Transfer) -> None:
            work.end(transfer.highest)

        source = self._source.at(work.source)
        return self._transfer(source, out, words, done, work.fail, work.deadline, lane.flags)

    def _transfer(
        self,
        source: Array,
        destination: Array,
        words: npt.NDArray[np.uint32],
        done: Callable[[Transfer], None],
        fail: Callable[[BaseException], None],
        deadline: int,
        flags: npt.NDArray[np.uint8] | None,
    ) -> Transfer:
        part = self._part
        return Transfer(
            part.kind, part.count, source, destination, words, done, fail, deadline, part.first, part.share, flags=flags,
            row=part.row, added=self._added,
        )  # fmt: skip


class _PreparedWork(Work, Ready):
    """A call of a prepared shape: its handle, and its source in the stream."""

    _highest = 0

    def __init__(
        self, prepared: Prepared, source: int, out: int, kept: Any, result: Array, deadline: int
    ) -> None:
        # All that the bases' constructors would set.
        self._lock = Lock()
        self._owner = prepared.plans.owner
        self._progress = prepared.plans.stream
        self._result = result
        self._prepared = prepared
        self._out = out
        self._kept = kept
        self.lane = lane = prepared.take_lane()
        self._waits = True
        self.template = prepared.template
        self.source = source
        self.destination = lane.rows_at or out
        self.flags = lane.flags_at
        self.deadline = deadline

    @property
    @override
    def _what(self) -> str:
        return self._prepared.what

    @override
    def wait(self, timeout: float | None = None) -> npt.NDArray[Any]:
        plans = self._prepared.plans
        if not self._ended and timeout is None and plans.owner.is_here():
            plans.stream.at_once(self)
        if self._ended and self._error is None:
            return self._result
        return Work.wait(self, timeout)

    @override
    def error_bound(self) -> float:
        return self._prepared.error_bound(self._highest) if self._ended and self._error is None else 0.0

    @override
    def end(self, highest: int) -> None:
        prepared = self._prepared
        tally = prepared.plans.tally
        with tally.lock:
            tally.finished += 1
        if tally.limit is not None:
            tally.end_if_alone()
        self._highest = highest
        try:
            prepared.finish(self.lane, self._out)
        except Exception as error:
            self.finish(error)
            return
        self._kept = None
        self.finish()

    @override
    def transfer(self) -> Transfer:
        return self._prepared.transfer(self)

    @override
    def pull(self) -> Transfer | None:
        if not self._waits:
            return None
        self._waits = False
        if self.lane.flags is not None:
            self.lane.flags[:] = 0
        return self.transfer()

    @override
    def exhausted(self) -> bool:
        return not self._waits

    @override
    def fail(self, error: BaseException) -> None:
        self.finish(error)


class PreparedPlans(Plans):
    """Prepares a shape at its second call, because many come once.

    Args:
        rank: of the worker.
        world_size: of the job.
        wire: what float32 sums travel as.
        bits: of an element on it.
        job: for messages.
        timeout: seconds for a collective that names none.
        stream: the one of the worker.
        tally: of the worker.
        owner: of the worker.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        wire: str,
        bits: int,
        job: str,
        timeout: float,
        stream: Stream,
        tally: Tally,
        owner: Owner,
    ) -> None:
        self._recorder = _Recorder(rank, world_size, wire)
        self._seen: set[tuple[Any, ...]] = set()
        self.world_size, self.bits, self.job, self.timeout_ns = world_size, bits, job, int(timeout * 1e9)
        self.stream, self.tally, self.owner = stream, tally, owner

    @override
    def is_settled(self, shape: tuple[Any, ...]) -> bool:
        return shape in self

    @override
    def __missing__(self, shape: tuple[Any, ...]) -> Prepared | None:
        if shape not in self._seen:
            if len(self._seen) >= _KEPT_SHAPES:
                self._seen.clear()
            self._seen.add(shape)
            return None
        try:
            call = self._recorder.call(Shape(*shape))
        except UsageError:
            return None  # which the long way tells
        if len(self) >= _KEPT_SHAPES:
            self.clear()
        strategy = call.strategy()
        part = strategy.straight()
        prepared = self[shape] = None if part is None else Prepared(call, strategy, part, self)
        return prepared
