"""The worker's side of the slot protocol: what may be sent, what a result means, when to send again. Pure functions on numpy
state: no I/O, no clock, no elements.

Theory of operation
-------------------
A stream lays transfers end to end at positions 0, 1, 2, ...; the packet of position p uses slot p mod W. Each slot walks its own
chain p, p + W, p + 2W, ...: the result of p is the permission to send p + W, so a lost packet stalls one slot and no other.

A transfer of N chunks takes these positions, counted from its start:

    0             descriptor: what every rank believes this transfer is, and as many exponents as there is room for
    1 .. K        exponents of those of the first L = min(W, N) chunks that are left (BLOCKS only; else K = 0)
    K+1 .. K+N    the chunks; in BLOCKS that of chunk c also carries the exponent of chunk c + L, if there is one

so that in BLOCKS the exponent of chunk c >= W comes back in the slot that the chunk is sent from. Chunks before that may have to
wait for another slot's result: the slot is BLOCKED till then.

The first exponents lie side by side, in bytes of which each is one rank's and 0 from all others. So the switch's sum of integers
has them all, and each rank takes the largest. Positions 1 .. K are headers with an exponent each where that costs little more, or
less, as among very many ranks. Where the switch is in memory all are such headers: there is no link to be filled.

Where the switch is in memory, words of which each comes from one rank go as ROWS (shared_rows.py): rounds, the first with the
descriptor, and no chunks. A round's place is used again two rounds later, so a rank has one under way and lays nothing behind it.

A transfer is laid only when all exponents of the one before are known (they are, one window before its end):
if some of its blocks must be exchanged exactly, all ranks put that exchange at the same place in the stream,
right behind it.

    IDLE     its next position is not laid yet
    BLOCKED  the exponent for its chunk has not come; of ROWS: what lies before it has no result yet
    READY    to be sent for the first time
    SENT     waits for the result
    ASKING   likewise, and the switch is to be asked whether the packet has come
    RESEND   lost, to be sent again

When a packet is asked for, or lost, is recovery.py's business.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from switchml.link.records import Int16, Int32, Int64, Records, UInt8, new_records
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ELEMENT_BYTES, LANE_BITS, SUM
from switchml.protocol.numerics import EXACT_EXPONENT, MIN_EXPONENT, UNKNOWN_EXPONENT
from switchml.protocol.slots import TSI_MASK, check_window, slot_of, tsi_distance, version_of

IDLE, BLOCKED, READY, SENT, RESEND, ASKING = 0, 1, 2, 3, 4, 5

BLOCKS, WORDS, ROWS = 1, 2, 3
"""Kinds of transfer: float32 blocks with an exponent each; raw 32-bit words; words of which each comes from one rank."""

QUEUED, LAID, DONE, MISMATCHED, TIMED_OUT = 0, 1, 2, 3, 4

RING = 64
"""Transfers that can be under way at once."""

SIGNATURE_WORDS = 4
"""Of a rank, in a descriptor."""

FRAMING = 66
"""Bytes of a packet around its datagram: UDP, IPv4 and Ethernet headers, checksum, preamble and gap."""

DUPLICATE, STALE, FOREIGN = -1, -2, -3
"""Verdicts of `match` other than a slot."""


class StreamRecord(TypedDict):
    """Where a stream stands."""

    rank: Int64
    workers: Int64
    window: Int64
    elements: Int64  # int32 of a packet's payload
    block_kind: Int64  # message type of float32 blocks: how narrow they travel
    size: Int64  # the header's size code
    job: Int64
    described: Int64  # exponents of each rank that a descriptor has room for
    packed: Int64  # and a packet of nothing else; 0: exponents go in headers, one each
    end: Int64  # first position not laid
    head: Int64  # oldest transfer not finished
    laid: Int64  # first transfer not laid
    queued: Int64  # one past the last transfer
    fifo_head: Int64
    fifo_tail: Int64
    finished: Int64  # transfers that left LAID
    accepted: Int64  # results taken
    lowest: Int64  # first position without a result
    sends: Int64  # packets that have left, those sent again included
    in_flight: Int64  # slots SENT or ASKING
    bytes_in_flight: Int64  # sum of their `length`
    asking: Int64  # slots ASKING
    asked: Int64  # the slot whose question left last
    forgiven: Int64  # number among `sends` from which on losses count: those before have had their effect


class SlotRecord(TypedDict):
    """What a slot is doing."""

    state: UInt8
    asked: UInt8  # how often the switch was asked for the packet that left last; from 1 on again once it has come
    come: UInt8  # and has said that it has come
    exponent: Int16  # of the chunk it sends
    retries: Int32  # how often its packet was sent again
    length: Int32  # bytes of the packet that left last, or those expected of its result where these are more; 0: it has come
    position: Int64
    transfer: Int64
    sent_at: Int64  # ns
    asked_at: Int64  # ns, when the switch was asked for that packet; 0: it was not
    order: Int64  # which of `sends` its packet was
    base: Int64  # by how much positions are ahead of those on the wire, a multiple of W: not 0 after a switch was lost


class TransferRecord(TypedDict):
    """One transfer, as Python hands it in and as it stands."""

    kind: Int64
    status: Int64
    start: Int64  # position
    prologue: Int64  # K
    chunks: Int64  # N; ROWS: rounds after the first
    count: Int64  # elements in all
    source: Int64  # address
    destination: Int64  # address
    flags: Int64  # address of a byte per chunk: 1 = to be exchanged exactly
    first: Int64  # WORDS, ROWS: this rank gives words first .. last-1; `source` is that of the first. BLOCKS: place in the whole
    last: Int64
    part: (
        Int64  # 0: every rank wants every sum; else rank r those of `part` elements from r * part - origin on
    )
    origin: Int64
    others: Int64  # 1: each rank has that part already, and wants all but it
    divisor: Int64  # ROWS: not 0: the rows are added as float32, and of the sums `part` from `origin` on divided by this
    unknown: Int64  # exponents outstanding
    left: Int64  # positions outstanding
    flagged: Int64  # blocks to be exchanged exactly
    released: Int64  # the exact exchange is arranged: what follows may be laid
    highest: Int64  # largest exponent below EXACT_EXPONENT
    deadline: Int64  # ns
    seed: Int64  # BLOCKS in narrow lanes: of the stochastic rounding, or kernels.NEAREST
    feedback: Int64  # likewise: 1 = `source` is left with what was rounded off it
    signature: Annotated[npt.NDArray[np.uint32], (4,)]


class Window(NamedTuple):
    """State of one stream.

    Attributes:
        stream: one entry.
        slots: W.
        transfers: a ring.
        exponents: by transfer, and chunk modulo W.
        fifo: positions to be sent, ascending, so that all ranks send in one order whatever they have lost. Some may have been
            answered meanwhile: at most two a slot.
    """

    stream: Records[StreamRecord]
    slots: Records[SlotRecord]
    transfers: Records[TransferRecord]
    exponents: Annotated[npt.NDArray[np.int8], (RING, -1)]
    fifo: npt.NDArray[np.int64]


def new_window(
    *,
    rank: int,
    workers: int,
    window: int,
    elements: int,
    size: int = 0,
    job: int = 0,
    block_kind: int = SUM,
    in_memory: bool = False,
) -> Window:
    """A stream at position 0.

    Args:
        rank: this worker's.
        workers: of the job.
        window: slots, W.
        elements: int32 of a packet's payload.
        size: the header's size code.
        job: the header's job number.
        block_kind: message type of float32 blocks.
        in_memory: there are no packets, because ranks and switch share memory.

    Raises:
        ValueError: the window is no power of two, or larger than the slot field.
    """
    check_window(window)
    stream = new_records(StreamRecord, 1)
    entry = stream[0]
    entry["rank"], entry["workers"], entry["window"] = rank, workers, window
    entry["elements"], entry["size"], entry["job"] = elements, size, job
    entry["block_kind"] = block_kind
    if not in_memory:
        entry["described"] = ELEMENT_BYTES * (elements - signature_words(workers, elements)) // workers
        entry["packed"] = ELEMENT_BYTES * elements // workers
    return Window(
        stream,
        new_records(SlotRecord, window),
        new_records(TransferRecord, RING),
        np.full((RING, window), UNKNOWN_EXPONENT, np.int8),
        np.zeros(2 * window, np.int64),
    )


@compiled
def names_ranks(workers: int, elements: int) -> bool:
    """Whether a descriptor has room for the signature of every rank; otherwise it carries their sum."""
    return workers * SIGNATURE_WORDS <= elements


@compiled
def signature_words(workers: int, elements: int) -> int:
    """Words of a descriptor that signatures take."""
    return SIGNATURE_WORDS * (workers if names_ranks(workers, elements) else 1)


@compiled
def chunk_elements(window: Window, kind: int) -> int:
    """Elements of a full chunk of a transfer of that kind."""
    stream = window.stream[0]
    elements = int(stream["elements"])
    return 32 // LANE_BITS[stream["block_kind"]] * elements if kind == BLOCKS else elements


@compiled
def transfer_end(window: Window, index: int) -> int:
    """One past the last position of a laid transfer."""
    transfer = window.transfers[index % RING]
    return int(transfer["start"] + 1 + transfer["prologue"] + transfer["chunks"])


@compiled
def _exponent_packets(window: Window, exponents: int) -> int:
    """In how many packets so many exponents of each rank go: side by side where that is half the bytes of headers at most.

    If it saves little, the more packets the better: what was lost shows by what left later.
    """
    stream = window.stream[0]
    packed = int(stream["packed"])
    if packed == 0:
        return exponents
    packets, around = -(-exponents // packed), HEADER_BYTES + FRAMING
    payload = ELEMENT_BYTES * int(stream["elements"])
    return packets if 2 * packets * (around + payload) < exponents * around else exponents


@compiled
def _led(window: Window, transfer: TransferRecord) -> tuple[int, int]:
    """Of how many chunks the exponents come before the first chunk: with the descriptor, and in all.

    One at least has a packet of its own: that the descriptor is lost shows sooner where something that left later has its result.
    """
    stream = window.stream[0]
    lead = min(int(stream["window"]), int(transfer["chunks"])) if transfer["kind"] == BLOCKS else 0
    return min(max(0, lead - 1), int(stream["described"])), lead


@compiled
def exponents_at(window: Window, transfer: TransferRecord, place: int) -> tuple[int, int]:
    """First and one past the last of the chunks whose exponents come with the packet at `place` of a transfer."""
    described, lead = _led(window, transfer)
    prologue, chunks = int(transfer["prologue"]), int(transfer["chunks"])
    if place == 0:
        return 0, described
    if place <= prologue:
        each = int(window.stream[0]["packed"]) if prologue < lead - described else 1
        first = described + (place - 1) * each
        return first, min(first + each, lead)
    first = place - 1 - prologue + lead
    return (first, first + 1) if lead > 0 and first < chunks else (0, 0)


@compiled
def is_side_by_side(window: Window, transfer: TransferRecord, place: int) -> bool:
    """Whether these exponents are among the packet's elements; else there is one at most, in its header."""
    described, lead = _led(window, transfer)
    prologue = int(transfer["prologue"])
    return place == 0 or place <= prologue < lead - described


@compiled
def _enqueue(window: Window, position: int) -> None:
    stream, fifo = window.stream[0], window.fifo
    at = int(stream["fifo_tail"])
    while at > stream["fifo_head"] and fifo[(at - 1) % fifo.size] > position:
        fifo[at % fifo.size] = fifo[(at - 1) % fifo.size]
        at -= 1
    fifo[at % fifo.size] = position
    stream["fifo_tail"] += 1


@compiled
def ready_from(window: Window, at: int) -> int:
    """The first place in `fifo`, from place `at` on, whose position is to be sent; `fifo_tail` when there is none."""
    stream = window.stream[0]
    while at < stream["fifo_tail"]:
        position = int(window.fifo[at % window.fifo.size])
        entry = window.slots[slot_of(position, int(stream["window"]))]
        if entry["position"] == position and entry["state"] in (READY, RESEND):
            break
        at += 1
    return at


@compiled
def slot_at(window: Window, at: int) -> int:
    """The slot of the position at that place in `fifo`."""
    return slot_of(int(window.fifo[at % window.fifo.size]), int(window.stream[0]["window"]))


@compiled
def bring_forward(window: Window, at: int) -> None:
    """Have the position at that place in `fifo` sent next; those before it move one place back."""
    fifo, position = window.fifo, window.fifo[at % window.fifo.size]
    while at > window.stream[0]["fifo_head"]:
        fifo[at % fifo.size] = fifo[(at - 1) % fifo.size]
        at -= 1
    fifo[at % fifo.size] = position


@compiled
def next_ready(window: Window) -> int:
    """The slot to be sent next, that of the lowest position, or -1."""
    stream = window.stream[0]
    stream["fifo_head"] = ready_from(window, int(stream["fifo_head"]))
    return slot_at(window, int(stream["fifo_head"])) if stream["fifo_head"] < stream["fifo_tail"] else -1


@compiled
def may_leave(window: Window, slot: int, room: int) -> bool:
    """Whether the slot's packet may leave while at most `room` bytes shall be in flight.

    The lowest position without a result always may: windows of ranks that differ could otherwise wait for each other for ever.
    """
    stream = window.stream[0]
    entry = window.slots[slot]
    again = entry["state"] == RESEND and room > 0
    return bool(stream["bytes_in_flight"] < room or again or entry["position"] == stream["lowest"])


@compiled
def next_question(window: Window) -> int:
    """A slot that is ASKING, or -1. Questions are short: they go first, and nothing limits them."""
    stream = window.stream[0]
    if stream["asking"] == 0:
        return -1
    slot = int(stream["asked"])
    while window.slots[slot]["state"] != ASKING:
        slot = (slot + 1) % window.slots.size
    stream["asked"] = slot
    return slot


@compiled
def _activate(window: Window, slot: int, position: int, index: int) -> None:
    """Put the slot at a laid position of transfer `index`."""
    entry = window.slots[slot]
    transfer = window.transfers[index % RING]
    entry["position"] = position
    entry["transfer"] = index
    entry["retries"] = 0
    entry["exponent"] = 0
    chunk = position - transfer["start"] - 1 - transfer["prologue"]
    if transfer["kind"] == BLOCKS and chunk >= 0:
        exponent = window.exponents[index % RING, chunk % window.stream[0]["window"]]
        if exponent == UNKNOWN_EXPONENT:
            entry["state"] = BLOCKED
            return
        entry["exponent"] = exponent
        window.exponents[index % RING, chunk % window.stream[0]["window"]] = UNKNOWN_EXPONENT
    if transfer["kind"] == ROWS and position != window.stream[0]["lowest"]:
        entry["state"] = BLOCKED
        return
    entry["state"] = READY
    _enqueue(window, position)


@compiled
def _may_lay(window: Window) -> bool:
    stream = window.stream[0]
    if stream["laid"] >= stream["queued"]:
        return False
    if stream["laid"] == stream["head"]:
        return True
    before = window.transfers[(stream["laid"] - 1) % RING]
    if before["kind"] == ROWS:
        return bool(stream["lowest"] == stream["end"])
    return bool(before["unknown"] == 0 and (before["flagged"] == 0 or before["released"] != 0))


@compiled
def lay(window: Window) -> None:
    """Give positions to the queued transfers that may have them."""
    stream = window.stream[0]
    width = int(stream["window"])
    while _may_lay(window):
        index = int(stream["laid"])
        transfer = window.transfers[index % RING]
        chunks = int(transfer["chunks"])
        start = int(stream["end"])
        described, lead = _led(window, transfer)
        transfer["start"] = start
        transfer["prologue"] = _exponent_packets(window, lead - described)
        transfer["unknown"] = chunks if lead > 0 else 0
        transfer["left"] = 1 + transfer["prologue"] + chunks
        transfer["highest"] = MIN_EXPONENT
        transfer["flagged"] = 0
        transfer["released"] = 0
        transfer["status"] = LAID
        window.exponents[index % RING, :] = UNKNOWN_EXPONENT
        stream["end"] = start + transfer["left"]
        stream["laid"] = index + 1
        for position in range(start, min(start + width, int(stream["end"]))):
            slot = slot_of(position, width)
            if window.slots[slot]["state"] == IDLE:
                _activate(window, slot, position, index)


@compiled
def position_on_wire(window: Window, slot: int) -> int:
    """What the switch knows the slot's position as."""
    entry = window.slots[slot]
    return int(entry["position"] - entry["base"])


@compiled
def match(window: Window, tsi: int, slot: int, version: int) -> int:
    """The slot that a result belongs to, or why it belongs to none: DUPLICATE, STALE or FOREIGN."""
    stream = window.stream[0]
    if slot >= stream["window"]:
        return FOREIGN
    entry = window.slots[slot]
    position = position_on_wire(window, slot)
    state = entry["state"]
    waiting = state in (SENT, RESEND, ASKING)
    distance = tsi_distance(tsi, position & TSI_MASK)
    if distance == 0 and version == version_of(position, int(stream["window"])):
        return slot if waiting else DUPLICATE
    if slot_of(tsi, int(stream["window"])) != slot or distance >= 0:
        return FOREIGN
    return DUPLICATE if distance == -stream["window"] else STALE


@compiled
def relative(window: Window, slot: int) -> int:
    """Position of the slot's packet inside its transfer."""
    entry = window.slots[slot]
    return int(entry["position"] - window.transfers[entry["transfer"] % RING]["start"])


@compiled
def learn_exponent(window: Window, index: int, chunk: int, exponent: int) -> None:
    """The largest exponent that a rank has for a chunk of transfer `index` has come."""
    exponent = max(exponent, MIN_EXPONENT)
    stream = window.stream[0]
    width = int(stream["window"])
    transfer = window.transfers[index % RING]
    transfer["unknown"] -= 1
    if exponent < EXACT_EXPONENT:
        transfer["highest"] = max(int(transfer["highest"]), exponent)
    else:
        transfer["flagged"] += 1
    window.exponents[index % RING, chunk % width] = exponent
    position = int(transfer["start"] + 1 + transfer["prologue"]) + chunk
    slot = slot_of(position, width)
    if window.slots[slot]["state"] == BLOCKED and window.slots[slot]["position"] == position:
        _activate(window, slot, position, index)


@inlined
def advance(window: Window, slot: int, exponent: int) -> None:
    """The result for the slot's packet was taken: learn the exponent in its header and go on to the slot's next position."""
    stream = window.stream[0]
    entry = window.slots[slot]
    index = int(entry["transfer"])
    position = int(entry["position"]) + int(stream["window"])
    transfer = window.transfers[index % RING]
    place = relative(window, slot)
    _leave_flight(window, slot)
    entry["state"] = IDLE
    stream["accepted"] += 1
    first, last = exponents_at(window, transfer, place)
    if first < last and not is_side_by_side(window, transfer, place):
        learn_exponent(window, index, first, exponent)
    transfer["left"] -= 1
    if transfer["left"] == 0 and transfer["status"] == LAID:
        finish(window, index, DONE)
    while index < stream["laid"] and position >= transfer_end(window, index):
        index += 1
    if index < stream["laid"]:
        _activate(window, slot, position, index)
    _raise_lowest(window)


@compiled
def _leave_flight(window: Window, slot: int) -> None:
    stream, entry = window.stream[0], window.slots[slot]
    stream["asking"] -= entry["state"] == ASKING
    if entry["state"] in (SENT, ASKING):
        stream["in_flight"] -= 1
        stream["bytes_in_flight"] -= entry["length"]


@inlined
def _raise_lowest(window: Window) -> None:
    stream = window.stream[0]
    lowest, width = int(stream["lowest"]), int(stream["window"])
    while lowest < stream["end"]:
        entry = window.slots[slot_of(lowest, width)]
        answered = entry["position"] > lowest or (entry["position"] == lowest and entry["state"] == IDLE)
        if not answered:
            break
        lowest += 1
    stream["lowest"] = lowest
    if lowest < stream["end"]:
        first = window.slots[slot_of(lowest, width)]
        if first["state"] == BLOCKED and window.transfers[first["transfer"] % RING]["kind"] == ROWS:
            first["state"] = READY
            _enqueue(window, lowest)


@compiled
def finish(window: Window, index: int, status: int) -> None:
    """Give a transfer its final status."""
    window.transfers[index % RING]["status"] = status
    window.stream[0]["finished"] += 1


@compiled
def mark_sent(window: Window, slot: int, now: int, length: int) -> bool:
    """The packet of the slot that `next_ready` named has left; returns whether it was a retransmission. length: the slot's."""
    stream, entry = window.stream[0], window.slots[slot]
    again = bool(entry["state"] == RESEND)
    entry["state"] = SENT
    entry["sent_at"] = now
    entry["asked_at"] = entry["asked"] = entry["come"] = 0
    entry["length"] = length
    entry["order"] = stream["sends"]
    if again:
        entry["retries"] += 1
    stream["sends"] += 1
    stream["in_flight"] += 1
    stream["bytes_in_flight"] += length
    stream["fifo_head"] += 1
    return again


@compiled
def resend(window: Window, slot: int) -> None:
    """Queue the packet of a slot in flight once more; until it leaves it counts as lost, not as in flight."""
    _leave_flight(window, slot)
    window.slots[slot]["state"] = RESEND
    _enqueue(window, int(window.slots[slot]["position"]))


@compiled
def ask(window: Window, slot: int) -> None:
    """The switch is to be asked whether the packet of a SENT slot has come."""
    window.slots[slot]["state"] = ASKING
    window.stream[0]["asking"] += 1


@compiled
def mark_asked(window: Window, slot: int, now: int) -> None:
    """The question of an ASKING slot has left."""
    entry = window.slots[slot]
    entry["state"] = SENT
    entry["asked_at"] = now
    entry["asked"] += entry["asked"] < 0xFF
    window.stream[0]["asking"] -= 1


@compiled
def mark_come(window: Window, slot: int) -> None:
    """The switch has the slot's packet and waits for another rank's, so nothing of it fills a link."""
    entry = window.slots[slot]
    if entry["come"] == 0:
        entry["asked"] = 1  # questions whose answers were lost say nothing of how long another rank will take
    entry["come"] = 1
    window.stream[0]["bytes_in_flight"] -= entry["length"]
    entry["length"] = 0


@compiled
def overdue_transfer(window: Window, now: int) -> int:
    """The oldest unfinished transfer if its deadline has passed, else -1."""
    stream = window.stream[0]
    index = int(stream["head"])
    if index < stream["queued"]:
        transfer = window.transfers[index % RING]
        if transfer["status"] <= LAID and transfer["deadline"] <= now:
            return index
    return -1
