"""The slot machine: what a switch does with one packet. A pure function on numpy state: no I/O, no clock.

Theory of operation
-------------------
A job has a range of slots, each in two copies (versions). A copy works on one chunk at a time:

    copy empty, or tsi newer than its stamp:
      the chunk's turn has come               start afresh with this packet         FRESH
      it has not                              drop                                  AHEAD
    tsi = stamp, worker not seen yet          add the elements, maximise exponents  ADDED
      whose elements are the first to come    take the elements, maximise exponents FIRST
    tsi = stamp, worker seen, all seen        send the result to this worker        RETRANSMIT
    tsi = stamp, worker seen, some missing    drop                                  DUPLICATE
    tsi older than the stamp                  drop                                  STALE

A worker sends a chunk when it holds the result of the one a window before, which the slot's other copy works on. So a chunk's
turn has come when that copy has completed exactly this one; and the first chunk of a slot has its turn while the slot is unused.
Then every worker has had the result that this copy still keeps, so nobody can ask for it any more. No packet, forged or not, can
take a copy anywhere else.

A worker whose elements are all 0 sends none (ABSENT). The copy's kind tells whether elements have come: until then it is ABSENT.

A worker that hears nothing may ask whether its packet has come (ASK, `inquire`). That changes nothing:

    copy empty, or tsi newer than its stamp   say that it has not come              UNSEEN
    tsi = stamp, worker not seen yet          say that it has not come              UNSEEN
    tsi = stamp, worker seen, all seen        send the result to this worker        RETRANSMIT
    tsi = stamp, worker seen, some missing    say that it has come                  WAITING
    tsi older than the stamp                  drop                                  STALE

After FRESH or ADDED the chunk may be complete (COMPLETE is added to the verdict): then the result goes to all workers.

The published algorithm (NSDI 2021, algorithm 3) has no stamp: a packet of one version clears the worker's bit in the other. A
duplicate that is delayed past the next use of its copy is then added to a foreign chunk, and sums are silently wrong without a
single loss (shown for the public P4 program by VeriNC, arXiv 2604.10186). The flag `paper` runs that machine, for reference
clients and to show the bug.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from switchml.aggregation.aggregate import (
    add,
    add_and_emit,
    add_lanes,
    emit_lanes,
    shift_of,
    take_and_emit,
    take_lanes,
)
from switchml.link.records import Int8, Records, UInt8, UInt16, UInt32, new_records
from switchml.protocol.byteorder import copy_swapped
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ABSENT, EXPONENTS
from switchml.protocol.slots import tsi_distance

MAX_WORKERS = 256
_SEEN_WORDS = MAX_WORKERS // 64


class SlotCopy(TypedDict):
    """One of the two copies of a slot."""

    stamp: UInt32  # tsi of the chunk the copy works on
    seen_count: UInt16  # workers in the sum; in the paper's machine modulo their number
    kind: UInt8  # message type of the chunk's packets; ABSENT until elements have come
    e0: Int8
    e1: Int8
    used: UInt8  # 0 until the first packet
    ways: UInt8  # below another switch: whom the elements are for, see racks.py
    seen: Annotated[npt.NDArray[np.uint64], (_SEEN_WORDS,)]  # a bit per worker


FRESH = 1
ADDED = 2
RETRANSMIT = 3
DUPLICATE = 4
STALE = 5
MISFIT = 6  # the chunk's other packets are of another kind
AHEAD = 7
FIRST = 8
UNSEEN = 9
WAITING = 10
COMPLETE = 16

Words = npt.NDArray[np.uint32]


class Pool(NamedTuple):
    """State of all slots of a switch.

    Attributes:
        slots: two copies a slot, index 2 * slot + version.
        sums: the partial sums in the machine's byte order.
    """

    slots: Records[SlotCopy]
    sums: Words


def new_pool(slots: int, elements: int) -> Pool:
    """An empty pool of `slots` slots (two copies each) with room for `elements` int32 in all copies together."""
    return Pool(new_records(SlotCopy, 2 * slots), np.zeros(elements, np.uint32))


@compiled
def clear_slots(slots: Records[SlotCopy], first: int, count: int) -> None:
    """Make `count` slots from slot `first` empty, both copies."""
    for index in range(2 * first, 2 * (first + count)):
        slots[index]["used"] = 0
        _clear_seen(slots, index)


@compiled
def _clear_seen(slots: Records[SlotCopy], index: int) -> None:
    for word in range(_SEEN_WORDS):
        slots[index]["seen"][word] = np.uint64(0)
    slots[index]["seen_count"] = 0


@compiled
def is_seen(slots: Records[SlotCopy], index: int, worker: int) -> bool:
    """Whether the copy's bitmap has the worker."""
    return (int(slots[index]["seen"][worker >> 6] >> np.uint64(worker & 63)) & 1) != 0


@compiled
def _flip_seen(slots: Records[SlotCopy], index: int, worker: int) -> None:
    slots[index]["seen"][worker >> 6] ^= np.uint64(1) << np.uint64(worker & 63)


@compiled
def mark_seen(slots: Records[SlotCopy], index: int, worker: int) -> int:
    """Bring a worker that the copy's bitmap has not into it; how many it has then."""
    _flip_seen(slots, index, worker)
    count = int(slots[index]["seen_count"]) + 1
    slots[index]["seen_count"] = count
    return count


@compiled
def _start(slots: Records[SlotCopy], index: int, tsi: int, kind: int, e0: int, e1: int) -> None:
    slots[index]["used"] = 1
    slots[index]["stamp"] = tsi
    slots[index]["kind"] = kind
    slots[index]["e0"] = e0
    slots[index]["e1"] = e1


@compiled
def fits(slots: Records[SlotCopy], index: int, kind: int) -> bool:
    """Whether a packet of that type may be of the copy's chunk."""
    chunk = int(slots[index]["kind"])
    if kind == ABSENT or chunk == ABSENT:
        return kind != EXPONENTS and chunk != EXPONENTS
    return chunk == kind


@compiled
def _join(slots: Records[SlotCopy], index: int, kind: int, e0: int, e1: int) -> int:
    """Bring a packet of another worker into the chunk that the copy works on: ADDED or FIRST."""
    slots[index]["e0"] = max(int(slots[index]["e0"]), e0)
    slots[index]["e1"] = max(int(slots[index]["e1"]), e1)
    if kind == ABSENT or slots[index]["kind"] != ABSENT:
        return ADDED
    slots[index]["kind"] = kind
    return FIRST


@compiled
def _turn_has_come(slots: Records[SlotCopy], index: int, workers: int, window: int, tsi: int) -> bool:
    other = slots[index ^ 1]
    if other["used"] == 0:
        return tsi < window
    return int(other["seen_count"]) == workers and tsi_distance(tsi, int(other["stamp"])) == window


@compiled
def admit(
    slots: Records[SlotCopy],
    index: int,
    worker: int,
    workers: int,
    window: int,
    tsi: int,
    kind: int,
    e0: int,
    e1: int,
) -> int:
    """The verdict on a packet; updates everything of the copy but its sums.

    Args:
        slots: of the pool.
        index: 2 * (pool base + slot) + version.
        worker: 0 to workers - 1.
        workers: of the job.
        window: slots of the job.
        tsi: of the packet, which slot and version follow from.
        kind: message type.
        e0: -128 to 127.
        e1: -128 to 127.
    """
    distance = tsi_distance(tsi, int(slots[index]["stamp"]))
    if slots[index]["used"] == 0 or distance > 0:
        if not _turn_has_come(slots, index, workers, window, tsi):
            return AHEAD
        _start(slots, index, tsi, kind, e0, e1)
        _clear_seen(slots, index)
        verdict = FRESH
    elif distance < 0:
        return STALE
    elif is_seen(slots, index, worker):
        return RETRANSMIT if int(slots[index]["seen_count"]) == workers else DUPLICATE
    elif not fits(slots, index, kind):
        return MISFIT
    else:
        verdict = _join(slots, index, kind, e0, e1)
    return verdict + COMPLETE if mark_seen(slots, index, worker) == workers else verdict


@compiled
def inquire(slots: Records[SlotCopy], index: int, worker: int, workers: int, tsi: int) -> int:
    """The verdict on a worker's question whether its packet has come; arguments as those of `admit`."""
    distance = tsi_distance(tsi, int(slots[index]["stamp"]))
    if slots[index]["used"] == 0 or distance > 0:
        return UNSEEN
    if distance < 0:
        return STALE
    if not is_seen(slots, index, worker):
        return UNSEEN
    return RETRANSMIT if int(slots[index]["seen_count"]) == workers else WAITING


@compiled
def admit_paper(
    slots: Records[SlotCopy],
    index: int,
    worker: int,
    workers: int,
    window: int,
    tsi: int,
    kind: int,
    e0: int,
    e1: int,
) -> int:
    """The verdict of the published algorithm, which tells chunks apart by their version alone."""
    count = int(slots[index]["seen_count"])
    if is_seen(slots, index, worker):
        return RETRANSMIT if count == 0 else DUPLICATE
    if count != 0 and not fits(slots, index, kind):
        return MISFIT
    _flip_seen(slots, index, worker)
    other = index ^ 1
    if is_seen(slots, other, worker):
        _flip_seen(slots, other, worker)
    if count == 0:
        _start(slots, index, tsi, kind, e0, e1)
        verdict = FRESH
    else:
        verdict = _join(slots, index, kind, e0, e1)
    count = (count + 1) % workers
    slots[index]["seen_count"] = count
    return verdict + COMPLETE if count == 0 else verdict


@inlined
def apply(verdict: int, packet: Words, sums: Words, out: Words) -> None:
    """Do to the elements what the verdict says.

    Args:
        verdict: of `admit`.
        packet: its elements in network order; none of ABSENT.
        sums: of the copy.
        out: takes the result in network order when one leaves (COMPLETE or RETRANSMIT), and is left alone otherwise; empty where
            the result has no elements.
    """
    action = verdict % COMPLETE
    emits = out.size > 0 and (verdict >= COMPLETE or action == RETRANSMIT)
    if packet.size == 0 or action == RETRANSMIT:
        if emits:
            copy_swapped(sums, out)
    elif action == ADDED:
        if emits:
            add_and_emit(packet, sums, out)
        else:
            add(packet, sums)
    elif action in (FRESH, FIRST):
        if emits:
            take_and_emit(packet, sums, out)
        else:
            copy_swapped(packet, sums)


@compiled
def apply_lanes(verdict: int, packet: Any, shift: int, sums: Words, out: Any) -> int:
    """As `apply`, for narrow lanes (aggregate.py): sums are kept whole, and rounded into lanes whenever a result leaves.

    Args:
        verdict: of `admit`.
        packet: its lanes.
        shift: bits by which they are shifted right: sums of a rack are, not a worker's.
        sums: of the copy.
        out: as of `apply`.

    Returns:
        By how many bits the result is shifted; 0 when none leaves.
    """
    values = sums.view(np.int32)
    action = verdict % COMPLETE
    if packet.size > 0:
        if action in (FRESH, FIRST):
            take_lanes(packet, shift, values)
        elif action == ADDED:
            add_lanes(packet, shift, values)
    if out.size == 0 or (verdict < COMPLETE and action != RETRANSMIT):
        return 0
    by = shift_of(values, 8 * out.itemsize)
    emit_lanes(values, out, by)
    return by
