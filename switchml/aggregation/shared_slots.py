"""The slots of one job in memory that its workers share: whoever brings a chunk runs the slot machine on them itself.

Theory of operation
-------------------
The state is that of a switch (slot_machine.py), and a chunk goes the same way: `admit` says what it is, its elements go into the
copy's sums. What is new is that several processes do so at once, and that any of them may be stopped or die at any instruction:

    lock       Who brings a chunk holds its slot meanwhile (`try_lock`). Who finds it held does something else and comes back:
               nobody ever breaks a lock. A dead owner's slot stays held, its chunk is never complete, and the job ends by its
               deadline or with the news of the death: at no moment can half of a contribution be taken for a whole one.
    completed  Who completes a chunk writes its position + 1 beside the lock, after the sums. Whoever reads it there may read the
               sums, without a lock: the copy is used again only after all workers have brought the chunk a window later, which
               each does after it has taken this one.
    bell       Who has nothing to do says which chunk it wants to be woken for, looks once more and sleeps until its bell's number
               changes. Who completes chunks rings for those who want one that is complete.

The memory belongs to one job and is never used for another (docs/security.md), so a worker that is continued long after its job
has ended writes where nobody reads. Layout, in lines of 64 bytes:

    line 0          workers asleep
    per worker      a line: its bell, of which the low 32 bits are the futex, and the position it wants + 1
                    a line: when it was last heard
                    its share of the switch's counters
    per slot        a line: lock, completed of either copy
    per slot        four SlotCopy, of which two are used, so that slots do not share lines
    per copy        sums
    twice a worker  a line: where its row begins, and its length; the row: words that no other rank gives (worker/shared_rows.py).
                    Nobody else writes there, and the round that uses it next comes after one for which all have taken this one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.aggregation.slot_machine import SlotCopy
from switchml.link import libc
from switchml.link.memory import compare_and_swap, fence, fetch_add, load_acquire, store_release
from switchml.link.records import Records, dtype_of
from switchml.link.ring import LINE, PAGE
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.protocol.jit import compiled
from switchml.protocol.messages import ELEMENT_BYTES
from switchml.protocol.slots import slot_of, version_of

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]

FORMAT = 3
"""Of the layout: to be raised with every change of it, of SlotCopy or of the counters."""

ROW_WORDS = 1 << 15
"""uint32 of a row: enough that copying them takes longer than meeting."""

COPIES_A_SLOT = 4
"""SlotCopy a slot; those of versions 0 and 1 are used."""

_LONGS_A_LINE = LINE // 8
_ASLEEP = 0
_WORKERS = _LONGS_A_LINE
_WANTED_AT = 1
_HEARD_AT = _LONGS_A_LINE
_COUNTERS_AT = 2 * _LONGS_A_LINE
_LONGS_A_WORKER = (2 + -(-len(SWITCH_COUNTERS) // _LONGS_A_LINE)) * _LONGS_A_LINE


_MOST = 1 << 48


class SharedLayout(NamedTuple):
    """Sizes of one job's memory, the same at the switch and at every worker.

    Attributes:
        workers: of the job.
        window: its slots.
        room: int32 sums of a slot's copy.
        row: uint32 of a row.
    """

    workers: int
    window: int
    room: int
    row: int = ROW_WORDS

    @property
    def _slots_at(self) -> int:
        return LINE + self.workers * 8 * _LONGS_A_WORKER

    @property
    def _copies_at(self) -> int:
        return self._slots_at + self.window * LINE

    @property
    def _sums_at(self) -> int:
        end = self._copies_at + COPIES_A_SLOT * self.window * dtype_of(SlotCopy).itemsize
        return -(-end // PAGE) * PAGE

    @property
    def _rows_at(self) -> int:
        return self._sums_at + -(-2 * self.window * self.room * ELEMENT_BYTES // PAGE) * PAGE

    @property
    def total_bytes(self) -> int:
        """Length of the memory, whole pages."""
        return self._rows_at + -(-2 * self.workers * (LINE + self.row * ELEMENT_BYTES) // PAGE) * PAGE


class SharedSlots(NamedTuple):
    """The memory of one job.

    Attributes:
        workers: of the job.
        window: its slots.
        room: int32 sums of a slot's copy.
        row: uint32 of a row.
        longs: all of the memory before the copies.
        copies: `copy_index` says which is whose.
        sums: by copy.
        row_places: two a line, by `row_index`.
        rows: likewise.
    """

    workers: int
    window: int
    room: int
    row: int
    longs: Longs
    copies: Records[SlotCopy]
    sums: Words
    row_places: Longs
    rows: Words


def shared_slots(memory: Bytes, layout: SharedLayout) -> SharedSlots:
    """The slots in a memory of that layout, which begins all zero. The caller keeps it alive."""
    copies = memory[layout._copies_at : layout._copies_at + COPIES_A_SLOT * layout.window * _COPY.itemsize]
    sums = memory[layout._sums_at : layout._sums_at + 2 * layout.window * layout.room * ELEMENT_BYTES]
    places, rows = 2 * layout.workers * LINE, 2 * layout.workers * layout.row * ELEMENT_BYTES
    return SharedSlots(
        layout.workers,
        layout.window,
        layout.room,
        layout.row,
        memory[: layout._copies_at].view(np.int64),
        copies.view(_COPY),
        sums.view(np.uint32),
        memory[layout._rows_at : layout._rows_at + places].view(np.int64),
        memory[layout._rows_at + places : layout._rows_at + places + rows].view(np.uint32),
    )


_COPY = dtype_of(SlotCopy)


@compiled
def copy_index(slot: int, version: int) -> int:
    """Which of `copies` that is."""
    return COPIES_A_SLOT * slot + version


@compiled
def sums_at(slots: SharedSlots, slot: int, version: int) -> int:
    """The first sum of a copy, in `sums`."""
    return (2 * slot + version) * slots.room


@compiled
def row_index(slots: SharedSlots, position: int, worker: int) -> int:
    """Which of the rows is the worker's in the round at that position."""
    return (position & 1) * slots.workers + worker


@compiled
def place_row(slots: SharedSlots, index: int, begin: int, length: int) -> None:
    """Say where a row begins among the words of its transfer, and how many it has."""
    slots.row_places[index * _LONGS_A_LINE] = begin
    slots.row_places[index * _LONGS_A_LINE + 1] = length


@compiled
def row_place(slots: SharedSlots, index: int) -> tuple[int, int]:
    """What `place_row` said: begin, and length, which fits whatever is written there."""
    begin, length = (
        int(slots.row_places[index * _LONGS_A_LINE]),
        int(slots.row_places[index * _LONGS_A_LINE + 1]),
    )
    return begin, min(max(0, length), slots.row)


@compiled
def _worker(worker: int) -> int:
    return _WORKERS + worker * _LONGS_A_WORKER


@compiled
def _line(slots: SharedSlots, slot: int) -> int:
    return _WORKERS + slots.workers * _LONGS_A_WORKER + slot * _LONGS_A_LINE


@compiled
def is_held(slots: SharedSlots, slot: int) -> bool:
    """Whether somebody has the slot just now."""
    return load_acquire(slots.longs, _line(slots, slot)) != 0


@compiled
def try_lock(slots: SharedSlots, slot: int, worker: int) -> bool:
    """Take a slot for oneself, unless somebody has it."""
    return compare_and_swap(slots.longs, _line(slots, slot), 0, worker + 1)


@compiled
def unlock(slots: SharedSlots, slot: int) -> None:
    """Give the slot back."""
    store_release(slots.longs, _line(slots, slot), 0)


@compiled
def complete(slots: SharedSlots, slot: int, version: int, position: int) -> None:
    """The sums of the chunk at that position are whole: show them. For the slot's owner."""
    store_release(slots.longs, _line(slots, slot) + 1 + version, position + 1)


@compiled
def is_complete(slots: SharedSlots, slot: int, version: int, position: int) -> bool:
    """Whether the sums of the chunk at that position are there to be read."""
    return load_acquire(slots.longs, _line(slots, slot) + 1 + version) == position + 1


@compiled
def note_heard(slots: SharedSlots, worker: int, now: int) -> None:
    """The worker lives; ns of CLOCK_MONOTONIC."""
    slots.longs[_worker(worker) + _HEARD_AT] = now


@compiled
def last_heard(slots: SharedSlots, worker: int) -> int:
    """When `note_heard` was last called; 0: never."""
    return int(slots.longs[_worker(worker) + _HEARD_AT])


@compiled
def count(slots: SharedSlots, worker: int, counter: int, number: int) -> None:
    """Add to the worker's share of a counter, by its index in SWITCH_COUNTERS."""
    slots.longs[_worker(worker) + _COUNTERS_AT + counter] += number


def counted(slots: SharedSlots) -> Longs:
    """The counters of all workers together, in the order of SWITCH_COUNTERS; in range whatever is written there."""
    shares = slots.longs[_WORKERS : _worker(slots.workers)].reshape(slots.workers, -1)
    total: Longs = shares[:, _COUNTERS_AT : _COUNTERS_AT + len(SWITCH_COUNTERS)].sum(axis=0)
    return total.clip(0, _MOST)


@compiled
def ring_bell(longs: Longs, worker: int) -> None:
    """Wake a worker that sleeps, or is about to. longs: of the slots."""
    bell = _worker(worker)
    fetch_add(longs, bell, 1)
    libc.futex_wake_all(longs[bell:].ctypes.data)


@compiled
def ring_for_sleepers(slots: SharedSlots) -> None:
    """After chunks have become complete: wake the workers that want one of these."""
    fence()
    if load_acquire(slots.longs, _ASLEEP) == 0:
        return
    for worker in range(slots.workers):
        at = _worker(worker) + _WANTED_AT
        wanted = load_acquire(slots.longs, at)
        if wanted == 0:
            continue
        position = wanted - 1
        slot, version = slot_of(position, slots.window), version_of(position, slots.window)
        # Of several who find it complete, one rings.
        if is_complete(slots, slot, version, position) and compare_and_swap(slots.longs, at, wanted, 0):
            ring_bell(slots.longs, worker)


@compiled
def lie_down(slots: SharedSlots, worker: int, position: int) -> int:
    """Say for which chunk this worker wants to be woken; then look once more, and `sleep` or `get_up`.

    Returns:
        The number of its bell.
    """
    fetch_add(slots.longs, _ASLEEP, 1)
    bell = load_acquire(slots.longs, _worker(worker))
    store_release(slots.longs, _worker(worker) + _WANTED_AT, position + 1)
    fence()
    return int(bell)


@compiled
def sleep(slots: SharedSlots, worker: int, bell: int, timeout_ns: int, scratch: Longs) -> None:
    """Sleep until the number of the worker's bell is another, or the time is over."""
    libc.futex_wait(slots.longs[_worker(worker) :].ctypes.data, bell, timeout_ns, scratch)


@compiled
def get_up(slots: SharedSlots, worker: int) -> None:
    """The end of what `lie_down` began."""
    store_release(slots.longs, _worker(worker) + _WANTED_AT, 0)
    fetch_add(slots.longs, _ASLEEP, -1)
