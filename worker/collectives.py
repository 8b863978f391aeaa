"""How each collective becomes transfers: directly over the caller's memory, or in segments through a bounded staging memory.

A strategy loads a segment into a transfer and stores its result; `Pipeline` runs a strategy as a source of
transfers, with as many segments in flight as there is staging memory for. All ranks cut alike: only dtype,
operation, count and world size decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.worker import elements
from switchml.worker.signature import Signature
from switchml.worker.transfer import Source, Transfer
from switchml.worker.window import BLOCKS, WORDS

Array = npt.NDArray[Any]

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


class Strategy(Protocol):
    """How an array goes through the stream, in segments."""

    segments: int
    """How many."""
    depth: int
    """How many may be in flight: lanes, of which `load` and `store` are told the one to use."""

    def load(self, segment: int, lane: int) -> Part:
        """What goes on the wire of a segment, staged in a lane where it has to be."""

    def store(self, segment: int, lane: int) -> None:
        """Take the segment's result out of its lane."""


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

        signature = self._signature._replace(detail=(self._signature.detail + segment) & 0xFFFFFF)
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
        )


class Direct(Strategy):
    """One transfer over memory that is on the wire as it is."""

    segments = 1
    depth = 1

    def __init__(self, part: Part) -> None:
        self._part = part

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
        out: as `source`.
        name: of the dtype, as in `elements.dtype_name`.
        kind: BLOCKS or WORDS.
    """

    def __init__(self, source: Array, out: Array, name: str, kind: int) -> None:
        self._source, self._out, self._name, self._kind = source, out, name, kind
        self._length = min(_STAGING_BYTES // 4, source.size)
        self.segments = -(-source.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._staging = np.empty((self.depth, self._length), np.float32 if kind == BLOCKS else np.int32)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._source.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._source[self._slice(segment)]
        staged = self._staging[lane, : values.size]
        elements.widen(values, self._name, staged)
        words = staged if self._kind == BLOCKS else staged.view(np.uint32)
        return Part(self._kind, values.size, words, words)

    @override
    def store(self, segment: int, lane: int) -> None:
        where = self._slice(segment)
        elements.narrow(self._staging[lane, : where.stop - where.start], self._name, self._out[where])


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

    def part(self, lane: int) -> Part:
        every = self._all[lane].reshape(-1)
        return Part(WORDS, every.size, self._mine[lane], every, self._rank * self.words)

    def all(self, lane: int, dtype: np.dtype[Any], count: int) -> Array:
        """The first `count` values of every rank, (workers, count)."""
        raw: npt.NDArray[np.uint8] = self._all[lane].view(np.uint8)
        return raw[:, : count * dtype.itemsize].view(dtype)


class Gathered(Strategy):
    """A reduction the switch cannot do: everybody's raw words are gathered exactly and reduced here, in the order of ranks."""

    def __init__(self, source: Array, out: Array, name: str, op: str, rank: int, workers: int) -> None:
        self._source, self._out, self._name, self._op = source, out, name, op
        room = max(1, _STAGING_BYTES // (workers * source.itemsize))
        self._length = min(room, source.size)
        self.segments = -(-source.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._rows = _Rows(rank, workers, self._length * source.itemsize, self.depth)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._source.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._source[self._slice(segment)]
        self._rows.mine(lane)[: values.nbytes] = values.view(np.uint8)
        return self._rows.part(lane)

    @override
    def store(self, segment: int, lane: int) -> None:
        where = self._slice(segment)
        rows = self._rows.all(lane, self._source.dtype, where.stop - where.start)
        elements.reduce_rows(rows, self._name, self._op, self._out[where])


class GatheredBytes(Strategy):
    """An all-gather of rows that are not whole words.

    Args:
        source: uint8, flat.
        out: uint8 (workers, length).
    """

    def __init__(self, source: Array, out: Array, rank: int) -> None:
        self._source, self._out = source, out
        workers = out.shape[0]
        self._length = min(max(4, _STAGING_BYTES // workers), source.size)
        self.segments = -(-source.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._rows = _Rows(rank, workers, self._length, self.depth)

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
        self._length = min(_STAGING_BYTES, -(-array.size // 4) * 4)
        self.segments = -(-array.size // self._length)
        self.depth = min(_DEPTH, self.segments)
        self._staging = np.zeros((self.depth, self._length // 4), np.uint32)

    def _slice(self, segment: int) -> slice:
        return slice(segment * self._length, min((segment + 1) * self._length, self._array.size))

    @override
    def load(self, segment: int, lane: int) -> Part:
        values = self._array[self._slice(segment)]
        staged = self._staging[lane, : -(-values.size // 4)]
        if self._is_root:
            staged.view(np.uint8)[: values.size] = values
        return Part(WORDS, staged.size, staged if self._is_root else staged[:0], staged)

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
        return self._rows.part(lane)

    @override
    def store(self, segment: int, lane: int) -> None:
        chosen = self._chosen(segment)
        rows = self._rows.all(lane, np.dtype(np.float32), chosen.size * self._block)
        total = np.empty(rows.shape[1], np.float32)
        elements.reduce_rows(rows, "float32", "sum", total)
        for row, block in zip(total.reshape(-1, self._block), chosen, strict=True):
            out = self._transfer.destination[block * self._block : (block + 1) * self._block]
            out[...] = row[: out.size]
