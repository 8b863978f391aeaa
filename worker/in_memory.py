"""The worker's compiled loop where the switch is in memory: it runs the slot machine itself, and nobody sends packets.

Nothing is lost here, so there are no timers for that, and no network that a congestion window could follow. What a rank waits for
is another rank. Slots, locks and the bell: aggregation/shared_slots.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.aggregation.shared_slots import (
    SharedSlots,
    complete,
    copy_index,
    count,
    get_up,
    is_complete,
    is_held,
    lie_down,
    note_heard,
    ring_for_sleepers,
    sleep,
    sums_at,
    try_lock,
    unlock,
)
from switchml.aggregation.slot_machine import ADDED, AHEAD, COMPLETE, FIRST, FRESH, MISFIT, STALE, admit
from switchml.link import libc
from switchml.link.memory import load_acquire
from switchml.link.records import view_of
from switchml.protocol.counters import SWITCH_COUNTERS, WORKER_COUNTERS, indices
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ABSENT, ELEMENT_BYTES, LANE_BITS, SUM
from switchml.protocol.numerics import UNKNOWN_EXPONENT
from switchml.protocol.slots import TSI_MASK, slot_of, version_of
from switchml.worker.chunks import RUN, bytes_of, exponent_of, given_kind, is_withheld, named_rank
from switchml.worker.engine import ATTENTION, EXACT_NEEDED, FINISHED, IDLE_STREAM, exact_needed
from switchml.worker.entry import NOT_OVER, enter, leave
from switchml.worker.shared_rows import give_row, take_rows
from switchml.worker.shared_sums import give_elements, take_elements
from switchml.worker.window import (
    MISMATCHED,
    RING,
    ROWS,
    SENT,
    TIMED_OUT,
    Window,
    advance,
    bring_forward,
    exponents_at,
    finish,
    lay,
    mark_sent,
    overdue_transfer,
    ready_from,
    relative,
    slot_at,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]

_OURS = indices(WORKER_COUNTERS)
_PACKETS_SENT, _BYTES_SENT = _OURS["packets_sent"], _OURS["bytes_sent"]
_PACKETS_TAKEN, _BYTES_TAKEN, _CHUNKS = (
    _OURS["packets_received"],
    _OURS["bytes_received"],
    _OURS["chunks_completed"],
)
_THEIRS = indices(SWITCH_COUNTERS)
_PACKETS_IN, _BYTES_IN = _THEIRS["packets_received"], _THEIRS["bytes_received"]
_PACKETS_OUT, _BYTES_OUT = _THEIRS["packets_sent"], _THEIRS["bytes_sent"]
_ELEMENTS_ADDED, _CHUNKS_COMPLETED = _THEIRS["elements_added"], _THEIRS["chunks_completed"]
_AHEAD, _STALE = _THEIRS["dropped_ahead"], _THEIRS["dropped_stale"]
_DUPLICATE, _MISFIT = _THEIRS["dropped_duplicate"], _THEIRS["dropped_wrong_size"]

_BURST = 32
_LOOKS = 3
"""Chunks that are not complete yet, or slots that others hold, before the rest is taken to be so too."""
_MAX_SLEEP_NS = 50_000_000
_TRIES = 100
"""How often a chunk is looked for without asking the clock: a fraction of a microsecond."""
_HELD_SPIN_NS = 20_000
_HELD_SLEEP_NS = 100_000
"""Nobody rings when a slot is given back: it is held for a microsecond, unless its owner was stopped."""
_YIELD_NS = 1_000_000
"""Longer than it takes to wake a rank that sleeps, or two would wait for each other asleep ever after."""
_RUNS = 4
"""Of exponents that are kept, because a chunk whose slot is held comes later."""
_FOREIGN_NS = 200_000
"""Who offers its core and gets it back later than this has given it to another program, which will take it again."""
_RESERVED_NS = 1_000_000
"""For so long it is not offered any more: who sleeps is woken when it is time. Twice as long each time, and an eighth less with
every offer that ends well: it may have been another rank that was busy once."""
_LONGEST_RESERVED_NS = 1_000_000_000
OVER = 1 << 10
"""Added to the highest exponent of a transfer that `run_in_memory` has taken in and out."""


class MemoryEngine(NamedTuple):
    """What the loop works on.

    Attributes:
        slots: of the job.
        counters: by index of WORKER_COUNTERS; what there are called packets are chunks brought and results taken.
        descriptor: takes that of the last transfer.
        lanes: a packet's payload, for narrow wires.
        exponents: `new_exponents`.
        reserved: of two: until then (ns) this core is not offered to the other ranks; how long (ns) that was or may be next.
        flag: of one, set to 1 by another thread to make the loop return ATTENTION.
    """

    window: Window
    slots: SharedSlots
    counters: Longs
    descriptor: Words
    lanes: Bytes
    exponents: Longs
    reserved: Longs
    flag: Longs
    scratch: Longs


memory_engine_at = view_of(MemoryEngine)


def new_exponents() -> Longs:
    """Runs of exponents, none known: each its transfer + 1, its first chunk, and the exponents."""
    return np.zeros(_RUNS * (2 + RUN), np.int64)


@inlined
def _elements(window: Window, kind: int) -> int:
    bits = int(LANE_BITS[kind])
    return 32 // bits * int(window.stream[0]["elements"]) if bits > 0 else 0


@inlined
def _exponent_ahead(engine: MemoryEngine, slot: int) -> int:
    """As `exponent_ahead`, a run at a time: in turn with other work at each chunk, reading elements takes twice as long."""
    window, found = engine.window, engine.exponents
    index = int(window.slots[slot]["transfer"])
    transfer = window.transfers[index % RING]
    chunks = int(transfer["chunks"])
    chunk, end = exponents_at(window, transfer, relative(window, slot))
    if chunk == end:
        return UNKNOWN_EXPONENT
    first = chunk // RUN * RUN
    at = chunk // RUN % _RUNS * (2 + RUN)
    if found[at] != index + 1 or found[at + 1] != first:
        found[at], found[at + 1] = index + 1, first
        for each in range(first, min(first + RUN, chunks)):
            found[at + 2 + each - first] = exponent_of(window, transfer, each)
    return int(found[at + 2 + chunk - first])


@inlined
def _in_rows(window: Window, slot: int) -> bool:
    return bool(window.transfers[window.slots[slot]["transfer"] % RING]["kind"] == ROWS)


@inlined
def _take(engine: MemoryEngine, slot: int) -> bool:
    """Take the result of the slot's chunk, which is complete; False when ranks do not mean the same."""
    window, slots, counters = engine.window, engine.slots, engine.counters
    entry = window.slots[slot]
    version = version_of(int(entry["position"]), int(window.stream[0]["window"]))
    copy = slots.copies[copy_index(slot, version)]
    kind, exponent = int(copy["kind"]), int(copy["e0"])
    first = sums_at(slots, slot, version)
    sums = slots.sums[first : first + _elements(window, kind)]
    rows = _in_rows(window, slot)
    counters[_PACKETS_TAKEN] += 1
    counters[_BYTES_TAKEN] += (
        HEADER_BYTES if not rows and is_withheld(window, slot) else bytes_of(window, kind)
    )
    counters[_CHUNKS] += 1
    has_sums = not rows or relative(window, slot) == 0
    if has_sums and not take_elements(window, slot, exponent, kind, sums, engine.lanes, engine.descriptor):
        finish(window, int(entry["transfer"]), MISMATCHED)
        return False
    if rows:
        counters[_BYTES_TAKEN] += take_rows(window, slot, slots)
    advance(window, slot, exponent)
    return True


@inlined
def _take_complete(engine: MemoryEngine) -> int:
    """Take the results that are there; returns how many, or -1 when ranks do not mean the same."""
    window, slots = engine.window, engine.slots
    stream = window.stream[0]
    width = int(stream["window"])
    first, taken, missing = int(stream["lowest"]), 0, 0
    for place in range(first, min(first + width, int(stream["end"]))):
        slot = slot_of(place, width)
        if window.slots[slot]["state"] != SENT:
            continue
        position = int(window.slots[slot]["position"])
        if is_complete(slots, slot, version_of(position, width), position):
            if not _take(engine, slot):
                return -1
            taken += 1
        else:
            missing += 1
            if missing == _LOOKS:
                break
    return taken


@inlined
def _count_dropped(slots: SharedSlots, rank: int, action: int) -> None:
    counter = _DUPLICATE
    if action == AHEAD:
        counter = _AHEAD
    elif action == STALE:
        counter = _STALE
    elif action == MISFIT:
        counter = _MISFIT
    count(slots, rank, counter, 1)


@inlined
def _bring(engine: MemoryEngine, at: int, now: int) -> int:
    """Bring the chunk at a place of the queue to the slot machine; its verdict, or -1 when another rank is at its slot."""
    window, slots, counters = engine.window, engine.slots, engine.counters
    slot = slot_at(window, at)
    stream, entry = window.stream[0], window.slots[slot]
    rank, width = int(stream["rank"]), int(stream["window"])
    if is_held(slots, slot):
        return -1
    row = 0
    if _in_rows(window, slot):
        kind, ahead, named = SUM if relative(window, slot) == 0 else ABSENT, UNKNOWN_EXPONENT, -1
        row = give_row(window, slot, slots)
    else:
        kind, ahead, named = given_kind(window, slot), _exponent_ahead(engine, slot), named_rank(window, slot)
    if not try_lock(slots, slot, rank):
        return -1
    position = int(entry["position"])
    version = version_of(position, width)
    index = copy_index(slot, version)
    verdict = admit(
        slots.copies, index, rank, int(stream["workers"]), width, position & TSI_MASK, kind, ahead,
        named if named >= 0 else UNKNOWN_EXPONENT,
    )  # fmt: skip
    action = verdict % COMPLETE
    elements = _elements(window, kind)
    counts = action in (FRESH, FIRST, ADDED)
    if counts and elements > 0:
        first = sums_at(slots, slot, version)
        give_elements(window, slot, slots.sums[first : first + elements], engine.lanes, action == ADDED)
    answer = bytes_of(window, int(slots.copies[index]["kind"]))
    if verdict >= COMPLETE:
        complete(slots, slot, version, position)
    unlock(slots, slot)
    length = bytes_of(window, kind) + row
    bring_forward(window, at)
    mark_sent(window, slot, now, length)
    counters[_PACKETS_SENT] += 1
    counters[_BYTES_SENT] += length
    count(slots, rank, _PACKETS_IN, 1)
    count(slots, rank, _BYTES_IN, length)
    if counts:
        count(slots, rank, _ELEMENTS_ADDED, elements + row // ELEMENT_BYTES)
    else:
        # Another wrote nonsense, or means another chunk: this one will never be complete, and its deadline says so.
        _count_dropped(slots, rank, action)
    if verdict >= COMPLETE:
        count(slots, rank, _CHUNKS_COMPLETED, 1)
        count(slots, rank, _PACKETS_OUT, 1)
        count(slots, rank, _BYTES_OUT, answer)
    return verdict


@inlined
def _bring_ready(engine: MemoryEngine, now: int) -> int:
    """Bring what is to be brought and can be now; returns how many chunks."""
    window = engine.window
    stream = window.stream[0]
    stream["fifo_head"] = ready_from(window, int(stream["fifo_head"]))
    at = int(stream["fifo_head"])
    brought, held, completed = 0, 0, 0
    while at < stream["fifo_tail"] and brought < _BURST and held < _LOOKS:
        verdict = _bring(engine, at, now)
        if verdict < 0:
            held += 1
        else:
            brought += 1
            completed += int(verdict >= COMPLETE)
        at = ready_from(window, at + 1)
    if completed > 0:
        ring_for_sleepers(engine.slots)
    return brought


@inlined
def _turn(engine: MemoryEngine, now: int) -> int:
    taken = _take_complete(engine)
    if taken < 0:
        return 1
    if taken > 0:
        lay(engine.window)
    return taken + _bring_ready(engine, now)


@compiled
def turn(handle: int, now: int) -> int:
    """Take results and bring chunks, once, as far as that goes without waiting.

    Args:
        handle: of a MemoryEngine.
        now: ns of CLOCK_MONOTONIC.

    Returns:
        How much was done; 0: another rank is waited for.
    """
    return _turn(memory_engine_at(handle), now)


@inlined
def _comes_soon(engine: MemoryEngine) -> bool:
    """Whether the first chunk that this rank waits for, where it has brought it, is complete before long."""
    window = engine.window
    lowest, width = int(window.stream[0]["lowest"]), int(window.stream[0]["window"])
    slot = slot_of(lowest, width)
    if window.slots[slot]["state"] != SENT or window.slots[slot]["position"] != lowest:
        return False
    for _ in range(_TRIES):  # noqa: SIM110 - compiled
        if is_complete(engine.slots, slot, version_of(lowest, width), lowest):
            return True
    return False


@inlined
def _next_is_held(engine: MemoryEngine) -> bool:
    """Whether there is a chunk to be brought; then another rank is at its slot."""
    window = engine.window
    return ready_from(window, int(window.stream[0]["fifo_head"])) < window.stream[0]["fifo_tail"]


@inlined
def _worth_waking(window: Window) -> int:
    """The position to be woken for: half a window after the first that is waited for, so that one wake-up serves many chunks.

    It is one that this rank has brought, so the others can complete it whatever this rank does; and of the same transfer, because
    they may call the next one only when they have this one.
    """
    stream = window.stream[0]
    lowest, width = int(stream["lowest"]), int(stream["window"])
    transfer = window.slots[slot_of(lowest, width)]["transfer"]
    for position in range(lowest + width // 2, lowest, -1):
        entry = window.slots[slot_of(position, width)]
        if entry["position"] == position and entry["state"] == SENT and entry["transfer"] == transfer:
            return position
    return lowest


@compiled
def note_offer(reserved: Longs, offered: int, back: int) -> None:
    """Learn from a core that was offered to the other ranks whether to do so again.

    Args:
        reserved: of a MemoryEngine.
        offered: when (ns).
        back: when it was given back (ns).
    """
    if back - offered > _FOREIGN_NS:
        reserved[1] = min(max(2 * reserved[1], _RESERVED_NS), _LONGEST_RESERVED_NS)
        reserved[0] = back + reserved[1]
    else:
        reserved[1] -= reserved[1] >> 3


@inlined
def _sleep(engine: MemoryEngine, timeout_ns: int) -> None:
    window, slots = engine.window, engine.slots
    if _next_is_held(engine):
        libc.pause(min(timeout_ns, _HELD_SLEEP_NS), engine.scratch)
        return
    rank, position = int(window.stream[0]["rank"]), _worth_waking(window)
    bell = lie_down(slots, rank, position)
    width = int(window.stream[0]["window"])
    come = is_complete(slots, slot_of(position, width), version_of(position, width), position)
    if not come and load_acquire(engine.flag, 0) == 0:
        sleep(slots, rank, bell, timeout_ns, engine.scratch)
    get_up(slots, rank)


@compiled
def run_in_memory(
    handle: int,
    spin_ns: int,
    limit_ns: int,
    template: int,
    source: int,
    destination: int,
    flags: int,
    deadline: int,
    call: int,
) -> int:
    """As `engine.run`, of a MemoryEngine. With a template first as `entry.enter`, and at the end as `entry.leave`.

    Args:
        handle: of a MemoryEngine.
        spin_ns: how long to look again before this core is offered to others; 0: there are more ranks than cores.
        limit_ns: as of `engine.run`.
        template: as of `enter`, and so on; 0: nothing is entered.
        source: likewise.
        destination: likewise.
        flags: likewise.
        deadline: likewise.
        call: likewise.

    Returns:
        As `engine.run`; with a template that is over, OVER and its highest exponent.
    """
    if template != 0:
        enter(handle, template, source, destination, flags, deadline, call)
    reason = _run(handle, spin_ns, limit_ns)
    if template != 0 and reason == FINISHED:
        highest = leave(handle)
        if highest != NOT_OVER:
            return OVER + highest
    return reason


@inlined
def _run(handle: int, spin_ns: int, limit_ns: int) -> int:
    engine = memory_engine_at(handle)
    window, scratch = engine.window, engine.scratch
    stream = window.stream[0]
    finished = int(stream["finished"])
    lay(window)
    now = libc.monotonic_ns(scratch)
    limit, quiet_since = now + limit_ns, now
    looked = False
    while True:
        done = _turn(engine, now)
        # First of all: a transfer must not be taken as finished before its exact exchange is arranged.
        if exact_needed(window):
            return EXACT_NEEDED
        if stream["finished"] != finished:
            return FINISHED
        if load_acquire(engine.flag, 0) != 0 or now >= limit:
            return ATTENTION
        if stream["head"] == stream["queued"]:
            return IDLE_STREAM
        if not looked:
            looked = True
            if _comes_soon(engine):  # what is small is over with this
                note_heard(engine.slots, int(stream["rank"]), now)
                continue
        now = libc.monotonic_ns(scratch)
        if done > 0:
            note_heard(engine.slots, int(stream["rank"]), now)
            quiet_since = now
            continue
        late = overdue_transfer(window, now)
        if late >= 0:
            finish(window, late, TIMED_OUT)
            return FINISHED
        quiet = now - quiet_since
        # First without giving up the core, where there is one for each rank.
        if quiet < spin_ns or (quiet < _HELD_SPIN_NS and _next_is_held(engine)):
            continue
        # Then it is offered to whoever is waited for, who may be on this one, as long as it comes back soon.
        if quiet < _YIELD_NS and now >= engine.reserved[0]:
            libc.sched_yield()
            back = libc.monotonic_ns(scratch)
            note_offer(engine.reserved, now, back)
            now = back
            continue
        deadline = int(window.transfers[stream["head"] % RING]["deadline"])
        _sleep(engine, max(1, min(deadline - now, limit - now, _MAX_SLEEP_NS)))
