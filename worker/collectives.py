"""The collectives, and how each becomes transfers.

`Collectives` has a method each, whatever carries them. On a switch a call runs as a strategy, over the caller's memory or
in segments through a bounded staging memory; it loads a segment into a transfer and stores its result. `Pipeline` runs a strategy
as a source of transfers, with as many segments in flight as there is staging memory for. All ranks cut alike: only dtype,
operation, count and world size decide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from ctypes import addressof, c_char
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.errors import SwitchMLError, UsageError
from switchml.protocol.messages import FLOAT32
from switchml.worker import elements
from switchml.worker.signature import Signature, broadcast_from, detail_of
from switchml.worker.transfer import EVERYTHING, TO_NEAREST, Rounding, Share, Source, Transfer
from switchml.worker.window import BLOCKS, WORDS
from switchml.worker.work import Work

Array = npt.NDArray[Any]

_SMALL_GATHER_BYTES = 32768
"""Float sums this small (bytes times workers) are gathered exactly: one round trip in place of two."""
_KEPT_BYTES = 65536
"""Rows up to which memory for them is kept from call to call."""
_STAGING_BYTES = 1 << 20
_DEPTH = 3


@dataclass(slots=True)
class Part:
    """What of a segment goes on the wire; fields as in Transfer."""

    kind: int
    count: int
    source: Array
    destination: Array
    first: int = 0
    share: Share = EVERYTHING
    rounding: Rounding = TO_NEAREST
    row: int = 0


class Strategy(Protocol):
    """How an array goes through the stream, in segments."""

    segments: int
    """How many."""
    depth: int
    """How many may be in flight: lanes, of which `load` and `store` are told the one to use."""
    units: int = 0
    """What it can be cut into, elements or bytes; 0 where it has to go whole."""

    def load(self, segment: int, lane: int) -> Part:
        """What goes on the wire of a segment, staged in a lane where it has to be."""

    def store(self, segment: int, lane: int) -> None:
        """Take the segment's result out of its lane."""

    def straight(self) -> Part | None:
        """The one part, between the caller's memory and memory that fits in its place; None where the elements are staged."""
        return None

    def cut(self, start: int, stop: int) -> Strategy:
        """The same for units `start` to `stop` - 1 alone, before anything is loaded. Cuts fall on whole packets."""
        raise AssertionError(f"{self} has to go whole")


class Pipeline(Source):
    """Runs a strategy as a source of transfers.

    Args:
        strategy: how the arrays go.
        signature: of the collective; each segment's own has its number added to `detail`.
        deadline: ns, of CLOCK_MONOTONIC.
        done: called with the highest exponent, after the last segment was stored.
        fail: called if the stream breaks.
    """

    def __init__(
        self,
        strategy: Strategy,
        signature: Signature,
        deadline: int,
        done: Callable[[int], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._strategy = strategy
        self._signature = signature
        self._deadline = deadline
        self._done = done
        self._fail = fail
        self._next = 0
        self._stored = 0
        self._highest = -128
        self._lanes = list(range(strategy.depth))

    @override
    def fail(self, error: BaseException) -> None:
        self._fail(error)

    @override
    def exhausted(self) -> bool:
        return self._next >= self._strategy.segments

    @override
    def pull(self) -> Transfer | None:
        if self.exhausted() or not self._lanes:
            return None
        lane = self._lanes.pop()
        segment = self._next
        self._next += 1
        part = self._strategy.load(segment, lane)

        def store(transfer: Transfer) -> None:
            self._strategy.store(segment, lane)
            self._lanes.append(lane)
            self._stored += 1
            if transfer.kind == BLOCKS:
                self._highest = max(self._highest, transfer.highest)
            if self._stored == self._strategy.segments:
                self._done(self._highest)

        signature = self._signature
        if segment:
            signature = signature._replace(detail=(signature.detail + segment) & 0xFFFFFF)
        return Transfer(
            part.kind,
            part.count,
            part.source,
            part.destination,
            signature.words(),
            store,
            self._fail,
            self._deadline,
            part.first,
            part.share,
            part.rounding,
            row=part.row,
        )


class Direct(Strategy):
    """One transfer over memory that is on the wire as it is."""

    segments = 1
    depth = 1

    def __init__(self, part: Part) -> None:
        self._part = part
        self.units = part.count

    @override
    def straight(self) -> Part | None:
        return self._part

    @override
    def cut(self, start: int, stop: int) -> Strategy:
        part = self._part
        if part.kind == BLOCKS:
            own, first = part.source[start:stop], part.first + start
        else:
            own = part.source[max(start - part.first, 0) : max(stop - part.first, 0)]
            first = min(max(part.first - start, 0), stop - start)
        return Direct(
            replace(
                part,
                count=stop - start,
                source=own,
                destination=part.destination[part.share.place(slice(start, stop))],
                first=first,
                share=part.share.beyond(start),
                row=min(part.row, stop - start),
            )
        )

    @override
    def load(self, segment: int, lane: int) -> Part:
        return self._part

    @override
    def store(self, segment: int, lane: int) -> None:
        return None


def nothing() -> Direct:
    """A transfer of its descriptor alone: a barrier."""
    empty = np.zeros(0, np.uint32)
    return Direct(Part(WORDS, 0, empty, empty))


class Converted(Strategy):
    """A sum through float32 blocks or int32 words.

    Args:
        source: flat, of dtype `name`.
        out: as what this rank wants of `source`.
        name: of the dtype, as in `elements.dtype_name`.
        kind: BLOCKS or WORDS.
        share: what this rank wants.
    """

    def __init__(self, source: Array, out: Array, name: str, kind: int, share: Share) -> None:
        self._source, self._out, self._name, self._kind, self._share = source, out, name, kind, share
        self.units = source.size
        self._length = min(_STAGING_BYTES // 4, source.size)
        self.segments = -(-source.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._staging = np.empty((self.depth, self._length), np.float32 if kind == BLOCKS else np.int32)

    @override
    def cut(self, start: int, stop: int) -> Strategy:
        out, share = self._out[self._share.place(slice(start, stop))], self._share.beyond(start)
        return Converted(self._source[start:stop], out, self._name, self._kind, share)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._source.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._source[self._slice(segment)]
        staged = self._staging[lane, : values.size]
        elements.widen(values, self._name, staged)
        words = staged if self._kind == BLOCKS else staged.view(np.uint32)
        where, share = self._slice(segment), self._share
        return Part(self._kind, values.size, words, words[share.of(where)], share=share.beyond(where.start))

    @override
    def store(self, segment: int, lane: int) -> None:
        where = self._slice(segment)
        mine = self._staging[lane, : where.stop - where.start][self._share.of(where)]
        elements.narrow(mine, self._name, self._out[self._share.place(where)])


def gathering(mine: Array, rows: Array, rank: int, root: int | None) -> Part:
    """A gather of all ranks' words, each as many as `mine`, into `rows`, at all ranks or at one."""
    every = rows.reshape(-1)
    share = Share(rank, mine.size, others=True)
    if root is not None:
        share = Share(rank, every.size, root * every.size)
    wanted = every[share.of(slice(0, every.size))]
    return Part(WORDS, every.size, mine, wanted, rank * mine.size, share, row=mine.size)


class _Rows:
    """Staging for the raw words of all ranks side by side: an exact gather of up to `length` bytes each."""

    def __init__(self, rank: int, workers: int, length: int, depth: int) -> None:
        self._rank, self._workers = rank, workers
        self.words = -(-length // 4)
        self._mine = np.empty((depth, self.words), np.uint32)
        self._mine[:, -1:] = 0  # bytes beyond the last value
        self._all = np.empty((depth, workers, self.words), np.uint32)

    def mine(self, lane: int) -> npt.NDArray[np.uint8]:
        """This rank's bytes, to be filled."""
        raw: npt.NDArray[np.uint8] = self._mine[lane].view(np.uint8)
        return raw

    def part(self, lane: int, root: int | None = None) -> Part:
        """What goes on the wire. root: the only rank that wants the rows; None: all do."""
        return gathering(self._mine[lane], self._all[lane], self._rank, root)

    def all(self, lane: int, dtype: np.dtype[Any], count: int) -> Array:
        """The first `count` values of every rank, (workers, count)."""
        raw: npt.NDArray[np.uint8] = self._all[lane].view(np.uint8)
        return raw[:, : count * dtype.itemsize].view(dtype)


class Gathered(Strategy):
    """A reduction the switch cannot do: everybody's raw words are gathered exactly and reduced here, in the order of ranks.

    Args:
        source: flat, of dtype `name`.
        out: as what this rank wants of `source`.
        name: of the dtype, as in `elements.dtype_name`.
        op: the operation.
        share: what this rank wants.
        workers: ranks.
        root: the only rank that wants anything; None: see `share`.
    """

    def __init__(
        self,
        source: Array,
        out: Array,
        name: str,
        op: str,
        share: Share,
        workers: int,
        root: int | None = None,
    ) -> None:
        self._source, self._out, self._name, self._op = source, out, name, op
        self._share, self._workers, self._root = share, workers, root
        self.units = source.size
        room = max(1, _STAGING_BYTES // (workers * source.itemsize))
        self._length = min(room, source.size)
        self.segments = -(-source.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._rows = _Rows(share.rank, workers, self._length * source.itemsize, self.depth)

    @override
    def straight(self) -> Part | None:
        if self.segments > 1 or self._source.nbytes % 4 or self._source.nbytes * self._workers > _KEPT_BYTES:
            return None
        words = self._source.view(np.uint32)
        rows = np.empty((self._workers, words.size), np.uint32)
        return gathering(words, rows, self._share.rank, self._root)

    @override
    def cut(self, start: int, stop: int) -> Strategy:
        source, out = self._source[start:stop], self._out[self._share.place(slice(start, stop))]
        share = self._share.beyond(start)
        return Gathered(source, out, self._name, self._op, share, self._workers, self._root)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._source.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._source[self._slice(segment)]
        self._rows.mine(lane)[: values.nbytes] = values.view(np.uint8)
        return self._rows.part(lane, self._root)

    @override
    def store(self, segment: int, lane: int) -> None:
        where = self._slice(segment)
        mine = self._share.of(where)
        if mine.start < mine.stop:
            rows = self._rows.all(lane, self._source.dtype, where.stop - where.start)
            elements.reduce_rows(rows[:, mine], self._name, self._op, self._out[self._share.place(where)])


class GatheredBytes(Strategy):
    """An all-gather of rows that are not whole words.

    Args:
        source: uint8, flat.
        out: uint8 (workers, length).
    """

    def __init__(self, source: Array, out: Array, rank: int) -> None:
        self._source, self._out, self._rank = source, out, rank
        self.units = source.size
        workers = out.shape[0]
        self._length = min(max(4, _STAGING_BYTES // workers), source.size)
        self.segments = -(-source.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._rows = _Rows(rank, workers, self._length, self.depth)

    @override
    def cut(self, start: int, stop: int) -> Strategy:
        return GatheredBytes(self._source[start:stop], self._out[:, start:stop], self._rank)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._source.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._source[self._slice(segment)]
        self._rows.mine(lane)[: values.size] = values
        return self._rows.part(lane)

    @override
    def store(self, segment: int, lane: int) -> None:
        where = self._slice(segment)
        self._out[:, where] = self._rows.all(lane, np.dtype(np.uint8), where.stop - where.start)


class BroadcastBytes(Strategy):
    """A broadcast of bytes that are not whole words.

    Args:
        array: uint8, flat.
    """

    def __init__(self, array: Array, is_root: bool) -> None:
        self._array, self._is_root = array, is_root
        self.units = array.size
        self._length = min(_STAGING_BYTES, -(-array.size // 4) * 4)
        self.segments = -(-array.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._staging = np.zeros((self.depth, self._length // 4), np.uint32)

    @override
    def cut(self, start: int, stop: int) -> Strategy:
        return BroadcastBytes(self._array[start:stop], self._is_root)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._array.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._array[self._slice(segment)]
        staged = self._staging[lane, : -(-values.size // 4)]
        if self._is_root:
            staged.view(np.uint8)[: values.size] = values
        return Part(WORDS, staged.size, staged if self._is_root else staged[:0], staged, row=staged.size)

    @override
    def store(self, segment: int, lane: int) -> None:
        where = self._slice(segment)
        self._array[where] = self._staging[lane].view(np.uint8)[: where.stop - where.start]


class ExactBlocks(Strategy):
    """The blocks of a BLOCKS transfer that block floating point cannot carry.

    They are gathered exactly and added in float32, in the order of ranks.

    Args:
        transfer: laid, with its blocks flagged.
        block: elements of one.
    """

    def __init__(self, transfer: Transfer, block: int, rank: int, workers: int) -> None:
        assert transfer.flags is not None
        self._transfer, self._block = transfer, block
        self._share = transfer.share
        self._blocks = np.flatnonzero(transfer.flags)
        self._batch = min(max(1, _STAGING_BYTES // (4 * block * workers)), self._blocks.size)
        self.segments = -(-self._blocks.size // self._batch)
        self.depth = min(_DEPTH, self.segments)
        self._rows = _Rows(rank, workers, 4 * block * self._batch, self.depth)

    @property
    def blocks(self) -> int:
        """How many."""
        return int(self._blocks.size)

    def _chosen(self, segment: int) -> npt.NDArray[np.intp]:
        return self._blocks[segment * self._batch : (segment + 1) * self._batch]

    @override
    def load(self, segment: int, lane: int) -> Part:
        staged = self._rows.mine(lane).view(np.float32).reshape(-1, self._block)
        for row, block in zip(staged, self._chosen(segment), strict=False):
            values = self._transfer.source[block * self._block : (block + 1) * self._block]
            row[: values.size] = values
            if self._transfer.rounding.feedback:
                values[...] = 0
        return self._rows.part(lane)

    @override
    def store(self, segment: int, lane: int) -> None:
        chosen = self._chosen(segment)
        rows = self._rows.all(lane, np.dtype(np.float32), chosen.size * self._block)
        total = np.empty(rows.shape[1], np.float32)
        elements.reduce_rows(rows, "float32", "sum", total)
        for row, block in zip(total.reshape(-1, self._block), chosen, strict=True):
            begin = int(block) * self._block
            where = slice(begin, min(begin + self._block, self._transfer.count))
            self._transfer.destination[self._share.place(where)] = row[self._share.of(where)]


def _do_nothing() -> None:
    return


@dataclass(eq=False, slots=True)
class Call:
    """One collective of one rank, as it is given to whatever carries it.

    Attributes:
        signature: what all ranks must agree on; its `call` is for the carrier to count.
        source: what this rank gives; flat, C-contiguous.
        out: where the carrier puts the result; flat, C-contiguous; may be `source` itself.
        result: the caller's array, which `out` is the memory of, or which `finish` brings `out` to.
        strategy: makes the transfers by which a switch does it.
        finish: to be called once `out` is complete.
        bound: by what to multiply the error bound of block floating point; 0 where that is not used.
        mine: which elements of the result over all of `source` `out` takes; None: all.
        feedback: `source` is to be left with what has been rounded off it: by a carrier that does not round, with zeros.
    """

    signature: Signature
    source: Array
    out: Array
    result: Array
    strategy: Callable[[], Strategy]
    finish: Callable[[], None] = _do_nothing
    bound: float = 0.0
    mine: slice | None = None
    feedback: bool = False


class Beginning(Protocol):
    """Calls of one shape, for memory anywhere."""

    def begin(
        self, source: int, out: int, kept: Any, result: Array, timeout: float | None, notify: bool
    ) -> Work:
        """Start a call; see prepared.py."""


class Plans(dict[tuple[Any, ...], "Beginning | None"]):
    """By shape (the fields of `prepared.Shape`) what has a short way; None goes the long one, as everything does here."""

    def is_settled(self, shape: tuple[Any, ...]) -> bool:
        """Whether a shape that has none now will have none later."""
        return True

    def __missing__(self, shape: tuple[Any, ...]) -> Beginning | None:
        return None


class Collectives(ABC):
    """What one rank can do together with the others, by whatever carries it (`_submit`)."""

    rank: int
    world_size: int
    wire = FLOAT32
    """What sums of float32 (and what goes through it) travel as: of protocol.messages.WIRES."""
    plans = Plans()

    @abstractmethod
    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        """Start a call. See the methods for `timeout` and `notify`."""

    def counters(self) -> dict[str, int]:
        """Counters of this rank by name; empty where nothing is counted."""
        return {}

    def abort(self, error: SwitchMLError) -> None:
        """Fail everything in flight and, where that is possible, everything to come. From any thread."""
        return

    def leave(self) -> None:
        """Give everything back; works in flight fail. Idempotent."""
        return

    def allreduce(
        self,
        array: Array,
        op: str = "sum",
        *,
        out: Array | None = None,
        dtype: str | None = None,
        rounding: Rounding = TO_NEAREST,
        timeout: float | None = None,
        notify: bool = True,
    ) -> Work:
        """Reduce `array` over all ranks, in place unless `out` is given.

        Sums of float32, float16 and bfloat16 go through block floating point (`Work.error_bound`), small ones and
        everything else are exact in the sense of the dtype; the bits of the result are the same on all ranks.

        Args:
            array: float32, float16, float64, any integer, bool or complex dtype; any shape.
            op: sum, avg, prod, min, max, band, bor or bxor.
            out: of the same shape and dtype as `array`.
            dtype: "bfloat16" where `array` holds such in uint16.
            rounding: of float32 on a narrow wire, a choice of each rank's own. Its feedback needs a contiguous `array` and
                another `out`.
            timeout: deadline in seconds; None = that of the job.
            notify: False when `wait` follows at once.

        Raises:
            UsageError: dtype, operation or `out` do not fit, or the result's memory is read-only.
            CollectiveError: the job has failed before.
        """
        target = array if out is None else out
        if (
            rounding is TO_NEAREST
            and _is_plain(array)
            and (target is array or _is_like(target, array.shape, array.dtype))
            and (short := self.plans["allreduce", array.dtype, array.size, op, 0, dtype]) is not None
        ):
            place = _address(array)
            there = place if target is array else _address(target)
            return short.begin(place, there, (array, target), target, timeout, notify)
        name = elements.dtype_name(array, dtype)
        elements.check_operation(name, op)
        if target.shape != array.shape or target.dtype != array.dtype:
            raise UsageError(
                f"out has shape {target.shape} and dtype {target.dtype}, the array {array.shape} and {array.dtype}"
            )
        _check_writable(target)
        flat_in = np.ascontiguousarray(array).reshape(-1)
        if rounding != TO_NEAREST:
            self._check_rounding(rounding, array, target, name, op)
        flat_out = flat_in
        if target is not array:
            flat_out = target.reshape(-1) if target.flags.c_contiguous else np.empty_like(flat_in)
        strategy, bounded = self._reduction(flat_in, flat_out, name, op, Share(self.rank), rounding=rounding)
        divide = op == "avg" and bounded

        def finish() -> None:
            if rounding.feedback and not bounded:
                flat_in[...] = 0  # went exactly
            if divide:
                self._divide(flat_out, name)
            if not target.flags.c_contiguous:
                target[...] = flat_out.reshape(target.shape)

        call = Call(
            Signature("allreduce", name, op, array.size),
            flat_in,
            flat_out,
            target,
            strategy,
            finish,
            bound=(1 / self.world_size if divide else 1.0) if bounded else 0.0,
            feedback=rounding.feedback,
        )
        return self._submit(call, timeout, notify)

    def reduce(
        self,
        array: Array,
        root: int = 0,
        op: str = "sum",
        *,
        dtype: str | None = None,
        timeout: float | None = None,
        notify: bool = True,
    ) -> Work:
        """Reduce `array` over all ranks, in place at `root`; the others' arrays stay as they are, and they get no elements.

        Numbers as in `allreduce`.

        Args:
            array: as in `allreduce`.
            root: the rank that gets the result; the works of the others have an empty one.
            op: as in `allreduce`.
            dtype: as in `allreduce`.
            timeout: deadline in seconds; None = that of the job.
            notify: False when `wait` follows at once.

        Raises:
            UsageError: `root` is no rank, dtype or operation do not fit, or the root's array is read-only.
        """
        if (
            _is_plain(array)
            and (short := self.plans["reduce", array.dtype, array.size, op, root, dtype]) is not None
        ):
            result = array if self.rank == root else array.reshape(-1)[:0]
            place = _address(array)
            return short.begin(place, place, array, result, timeout, notify)
        if not 0 <= root < self.world_size:
            raise UsageError(f"root {root} is no rank of {self.world_size}")
        flat = np.ascontiguousarray(array).reshape(-1)
        is_root = self.rank == root
        if is_root:
            _check_writable(array)
        share = Share(self.rank, max(1, flat.size), root * max(1, flat.size))
        out = flat if is_root else flat[:0]

        def finish() -> None:
            if is_root and not array.flags.c_contiguous:
                array[...] = flat.reshape(array.shape)

        said = ("reduce", op, detail_of(root))
        return self._reduce_to(
            array, flat, out, array if is_root else out, dtype, said, share, finish, timeout, notify, root
        )

    def reduce_scatter(
        self,
        array: Array,
        op: str = "sum",
        *,
        out: Array | None = None,
        dtype: str | None = None,
        timeout: float | None = None,
        notify: bool = True,
    ) -> Work:
        """Reduce `array` over all ranks and give row r of the result to rank r alone.

        Numbers as in `allreduce`.

        Args:
            array: of shape (world_size, ...).
            op: as in `allreduce`.
            out: for the result, of shape `array.shape[1:]`; the row of `array` itself, or memory apart from `array`.
            dtype: as in `allreduce`.
            timeout: deadline in seconds; None = that of the job.
            notify: False when `wait` follows at once.

        Raises:
            UsageError: shape, dtype, operation or `out` do not fit, or `out` is read-only.
        """
        if array.ndim == 0 or array.shape[0] != self.world_size:
            raise UsageError(
                f"the array has shape {array.shape}, and needs a row for each of {self.world_size} ranks"
            )
        shape = array.shape[1:]
        if out is None:
            out = np.empty(shape, array.dtype)
        if (
            _is_plain(array)
            and _is_like(out, shape, array.dtype)
            and (short := self.plans["reduce_scatter", array.dtype, array.size, op, 0, dtype]) is not None
        ):
            return short.begin(_address(array), _address(out), (array, out), out, timeout, notify)
        if out.shape != shape or out.dtype != array.dtype or not out.flags.c_contiguous:
            raise UsageError(f"out must be contiguous, of shape {shape} and dtype {array.dtype}")
        _check_writable(out)
        flat = np.ascontiguousarray(array).reshape(-1)
        share = Share(self.rank, max(1, flat.size // self.world_size))
        said = ("reduce_scatter", op, 0)
        return self._reduce_to(
            array, flat, out.reshape(-1), out, dtype, said, share, _do_nothing, timeout, notify, None
        )

    def _reduce_to(
        self,
        array: Array,
        flat: Array,
        out: Array,
        result: Array,
        dtype: str | None,
        said: tuple[str, str, int],
        share: Share,
        then: Callable[[], None],
        timeout: float | None,
        notify: bool,
        root: int | None,
    ) -> Work:
        """A reduction of which each rank wants a share. said: collective, operation and detail of the signature."""
        name = elements.dtype_name(array, dtype)
        collective, op, detail = said
        elements.check_operation(name, op)
        strategy, bounded = self._reduction(flat, out, name, op, share, root)
        divide = op == "avg" and bounded

        def finish() -> None:
            if divide:
                self._divide(out, name)
            then()

        call = Call(
            Signature(collective, name, op, array.size, detail=detail),
            flat,
            out,
            result,
            strategy,
            finish,
            bound=(1 / self.world_size if divide else 1.0) if bounded else 0.0,
            mine=share.of(slice(0, flat.size)),
        )
        return self._submit(call, timeout, notify)

    def _reduction(
        self,
        source: Array,
        out: Array,
        name: str,
        op: str,
        share: Share,
        root: int | None = None,
        rounding: Rounding = TO_NEAREST,
    ) -> tuple[Callable[[], Strategy], bool]:
        """How to reduce, and whether block floating point is used."""
        if source.size == 0:
            return nothing, False
        way = elements.summed_as(name, op)
        small = way == "blocks" and source.nbytes * self.world_size <= _SMALL_GATHER_BYTES
        if way == "" or small:
            return partial(Gathered, source, out, name, op, share, self.world_size, root), False
        if name == "float32":
            blocks = Part(BLOCKS, source.size, source, out, share=share, rounding=rounding)
            return partial(Direct, blocks), True
        if name == "int32":
            raw = source.view(np.uint32), out.view(np.uint32)
            words = Part(WORDS, source.size, *raw, share=share)
            return partial(Direct, words), False
        kind = BLOCKS if way == "blocks" else WORDS
        return partial(Converted, source, out, name, kind, share), way == "blocks"

    def _check_rounding(self, rounding: Rounding, array: Array, out: Array, name: str, op: str) -> None:
        if self.wire == FLOAT32 or name != "float32" or elements.summed_as(name, op) != "blocks":
            raise UsageError(
                f"rounding can be chosen for sums and averages of float32 on a narrow wire, not for {op} of {name} on the wire "
                f"{self.wire}"
            )
        if rounding.feedback and (not array.flags.c_contiguous or np.may_share_memory(array, out)):
            raise UsageError(
                "with feedback the array is left with what was rounded off it: give one that is contiguous, and another `out`"
            )
        if rounding.feedback:
            _check_writable(array)

    def _divide(self, values: Array, name: str) -> None:
        if name == "float32":
            values /= np.float32(self.world_size)
            return
        wide = np.empty(values.size, np.float32)
        elements.widen(values, name, wide)
        wide /= np.float32(self.world_size)
        elements.narrow(wide, name, values)

    def broadcast(
        self, array: Array, root: int = 0, *, timeout: float | None = None, notify: bool = True
    ) -> Work:
        """Give every rank the array of `root`, in place, bit for bit. Any dtype.

        Args:
            array: of the same shape and dtype on all ranks.
            root: the rank that gives it.
            timeout: deadline in seconds; None = that of the job.
            notify: False when `wait` follows at once.

        Raises:
            UsageError: `root` is no rank, or the array is read-only.
        """
        if (
            _is_plain(array)
            and (short := self.plans["broadcast", array.dtype, array.size, "sum", root, None]) is not None
        ):
            place = _address(array)
            return short.begin(place, place, array, array, timeout, notify)
        if not 0 <= root < self.world_size:
            raise UsageError(f"root {root} is no rank of {self.world_size}")
        _check_writable(array)
        flat, raw = _bytes(array)
        is_root = self.rank == root
        strategy: Callable[[], Strategy]
        if raw.size == 0:
            strategy = nothing
        elif raw.size % 4 == 0:
            words = raw.view(np.uint32)
            own = words if is_root else words[:0]
            strategy = partial(Direct, Part(WORDS, words.size, own, words, row=words.size))
        else:
            strategy = partial(BroadcastBytes, raw, is_root)

        def finish() -> None:
            if not array.flags.c_contiguous:
                array[...] = flat.reshape(array.shape)

        call = Call(broadcast_from(root, raw.size), raw, raw, array, strategy, finish)
        return self._submit(call, timeout, notify)

    def allgather(
        self, array: Array, *, out: Array | None = None, timeout: float | None = None, notify: bool = True
    ) -> Work:
        """Gather every rank's array. Any dtype.

        Args:
            array: of the same shape and dtype on all ranks.
            out: for the result, of shape (world_size, *array.shape).
            timeout: deadline in seconds; None = that of the job.
            notify: False when `wait` follows at once.

        Raises:
            UsageError: `out` is not contiguous, read-only or does not fit.
        """
        shape = (self.world_size, *array.shape)
        if out is None:
            out = np.empty(shape, array.dtype)
        if (
            _is_plain(array)
            and _is_like(out, shape, array.dtype)
            and (short := self.plans["allgather", array.dtype, array.size, "sum", 0, None]) is not None
        ):
            return short.begin(_address(array), _address(out), (array, out), out, timeout, notify)
        if out.shape != shape or out.dtype != array.dtype or not out.flags.c_contiguous:
            raise UsageError(f"out must be contiguous, of shape {shape} and dtype {array.dtype}")
        _check_writable(out)
        _, raw = _bytes(array)
        _, every = _bytes(out)
        strategy: Callable[[], Strategy]
        if raw.size == 0:
            strategy = nothing
        elif raw.size % 4 == 0:
            words, mine = every.view(np.uint32), raw.view(np.uint32)
            strategy = partial(Direct, gathering(mine, words, self.rank, None))
        else:
            strategy = partial(GatheredBytes, raw, every.reshape(self.world_size, -1), self.rank)
        return self._submit(
            Call(Signature("allgather", "bytes", "none", raw.size), raw, every, out, strategy),
            timeout,
            notify,
        )

    def barrier(self, *, timeout: float | None = None, notify: bool = True) -> Work:
        """Done when every rank has called it. For `timeout` and `notify` see `allreduce`."""
        empty = np.zeros(0, np.uint8)
        if (short := self.plans["barrier", empty.dtype, 0, "sum", 0, None]) is not None:
            return short.begin(0, 0, None, empty, timeout, notify)
        call = Call(Signature("barrier", "bytes", "none", 0), empty, empty, empty, nothing)
        return self._submit(call, timeout, notify)


def _is_plain(array: Array) -> bool:
    return array.flags.carray and array.size > 0


def _is_like(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return out.flags.carray and out.shape == shape and out.dtype == dtype


def _address(array: Array) -> int:
    """Of a plain array's memory; a sixth of the time of array.ctypes.data."""
    memory: Any = array  # numpy's stubs lack the buffer protocol in Python 3.11
    return addressof(c_char.from_buffer(memory))


def _check_writable(array: Array) -> None:
    if not array.flags.writeable:
        raise UsageError(
            "the result is to be written to a read-only array: give a copy of it, or another `out`"
        )


def _bytes(array: Array) -> tuple[Array, npt.NDArray[np.uint8]]:
    """The array, flat and contiguous, and its bytes: a copy only where it is not contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat, flat.view(np.uint8) if flat.size else np.zeros(0, np.uint8)
