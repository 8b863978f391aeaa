"""What a rank of the virtual network does at one of its events, compiled whole: one call of Python's in place of twenty.

As in worker/engine.py, with one packet at a time and the clock and the packets' memory given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.link.records import view_of
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.header_access import read_e0, read_msg_type, read_slot, read_tsi, read_version
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ASK
from switchml.worker import congestion as congestion_control
from switchml.worker.chunks import (
    build_packet,
    expected_bytes,
    is_answer,
    is_asked_for,
    is_empty,
    packet_bytes,
    result_bytes,
    take_result,
)
from switchml.worker.congestion import Congestion
from switchml.worker.recovery import (
    Recovery,
    begin_result,
    estimate,
    expire,
    note_answer,
    note_duplicate,
    note_result,
    packet_sent,
)
from switchml.worker.window import (
    DUPLICATE,
    FRAMING,
    Window,
    advance,
    lay,
    mark_asked,
    mark_sent,
    match,
    may_leave,
    next_question,
    next_ready,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]

FINISHED, RETRANSMISSIONS, QUESTIONS, EXPIRY, PACE = range(5)
"""In `Rank.told`: transfers that are done; packets that were sent again; questions; when nothing is to be done before, because of
missing results and because of the pace.
"""

WOKEN, EXPIRED = 0, -1
"""In place of a packet's length."""

_ANOTHER_KIND, _WRONG_LENGTH, _MISMATCH = -1, -2, -3
WRONG = {_ANOTHER_KIND: "got another kind", _WRONG_LENGTH: "got another length", _MISMATCH: "saw a mismatch"}


class Rank(NamedTuple):
    """State of a rank.

    Attributes:
        inbox: the packet that has come.
        outbox: the packets that leave, one a `inbox.size` bytes.
        lengths: of those.
        told: by FINISHED and so on.
    """

    window: Window
    recovery: Recovery
    congestion: Congestion
    descriptor: Words
    inbox: Bytes
    outbox: Bytes
    lengths: Longs
    told: Longs


_rank_at = view_of(Rank)


@inlined
def _take(rank: Rank, length: int, now: int) -> int:
    """The packet in the inbox; returns whether anything is to follow from it, or what is wrong with it."""
    window, recovery, congestion, memory = rank.window, rank.recovery, rank.congestion, rank.inbox
    slot = match(window, read_tsi(memory, 0), read_slot(memory, 0), read_version(memory, 0))
    if slot < 0:
        if slot == DUPLICATE and not is_asked_for(window, memory, 0):
            note_duplicate(recovery)
        return 0
    if not is_answer(window, slot, memory, 0):
        return _ANOTHER_KIND
    if length != result_bytes(window, memory, 0):
        return _WRONG_LENGTH
    exponent = read_e0(memory, 0)
    if read_msg_type(memory, 0) == ASK:
        note_answer(recovery, window, slot, exponent != 0, now)
        return 1
    empty = is_empty(memory, 0)
    if not empty and length != expected_bytes(window, slot):
        return _WRONG_LENGTH
    if not take_result(window, slot, exponent, memory, 0, rank.descriptor):
        return _MISMATCH
    if begin_result(recovery, now):
        congestion_control.note_stall(congestion, now)
    sample = note_result(recovery, window, slot, is_asked_for(window, memory, 0), now)
    moved = HEADER_BYTES + FRAMING if empty else int(window.slots[slot]["length"])
    congestion_control.note_result(congestion, window, slot, sample, moved, now)
    advance(window, slot, exponent)
    if sample > 0:
        estimate(recovery, sample)
    congestion_control.end_results(congestion, window, int(recovery[0]["lost"]), now)
    # The exact exchange itself is the stream's; here it only must not hold up what follows.
    for index in range(window.transfers.size):
        window.transfers[index]["released"] = 1
    return 1


@inlined
def _send(rank: Rank, now: int) -> int:
    """Put what may leave into the outbox; how many packets."""
    window, congestion = rank.window, rank.congestion
    lay(window)
    count = 0
    while True:
        slot = next_question(window)
        asking = slot >= 0
        if not asking:
            slot = next_ready(window)
            if slot < 0 or not may_leave(window, slot, congestion_control.room(congestion, now)):
                return count
        length = packet_bytes(window, slot)
        build_packet(window, slot, rank.outbox, count * rank.inbox.size)
        rank.lengths[count] = length
        count += 1
        if asking:
            mark_asked(window, slot, now)
            rank.told[QUESTIONS] += 1
            continue
        flight = FRAMING + max(length, expected_bytes(window, slot))
        if mark_sent(window, slot, now, flight):
            rank.told[RETRANSMISSIONS] += 1
        packet_sent(rank.recovery, window, slot, now)
        congestion_control.note_sent(congestion, window, flight, now)


@compiled
def happens(handle: int, what: int, now: int) -> int:
    """Something happens at a rank.

    Args:
        handle: of a Rank.
        what: length of the packet that has come; WOKEN or EXPIRED.
        now: ns.

    Returns:
        Packets in the outbox, or a key of WRONG.
    """
    rank = _rank_at(handle)
    if what > 0:
        follows = _take(rank, what, now)
        if follows <= 0:
            return follows
    if what != WOKEN:
        expire(rank.recovery, rank.window, now)
    count = _send(rank, now) if what == WOKEN or rank.window.stream[0]["laid"] > 0 else 0
    rank.told[FINISHED] = rank.window.stream[0]["finished"]
    rank.told[EXPIRY] = rank.recovery[0]["next_expiry"]
    rank.told[PACE] = (
        congestion_control.next_leave(rank.congestion, now) if next_ready(rank.window) >= 0 else 0
    )
    return count
