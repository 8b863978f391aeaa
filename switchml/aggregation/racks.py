"""The slot machine of a switch that has another above it: its workers are a rack, and it is itself a worker of the one above.

Theory of operation
-------------------
The switch above counts as one more worker, numbered behind those of the rack, and what it gives is the result. So a copy is
complete, has had its turn and answers, by the slot machine's own rules, once the result has come from above:

    filling     some of the rack are missing
    pending     all of the rack are in the sums, which go up as one worker's packet        + RISES
    complete    the result has come from above, has taken the place of the sums and goes to all of the rack

Window, tsi, slot and version are the same on all levels. A switch has no timer, so the rack's first worker drives what is
between the two switches: what it sends again of a pending chunk goes up again, with the rack's sums; what it asks goes up, and
what is said of it above goes down to it. The others are told that theirs has come. One of them suffices, for none of a rack has a
result that its switch has not, and each asks as long as it has none.

Whoever is named by `to_one` or `but_one` may be in another rack. What goes up says so as well (narrow lanes do not, because `e1`
is their shift), and the copy keeps what was said, for whoever is to be told again.
"""

from __future__ import annotations

from switchml.aggregation.slot_machine import (
    ADDED,
    AHEAD,
    COMPLETE,
    DUPLICATE,
    FIRST,
    FRESH,
    MISFIT,
    RETRANSMIT,
    STALE,
    WAITING,
    SlotCopy,
    fits,
    is_seen,
    mark_seen,
)
from switchml.link.records import Records
from switchml.protocol.jit import compiled
from switchml.protocol.messages import ABSENT
from switchml.protocol.slots import tsi_distance

RISES = 32
"""Added to a verdict: a packet goes to the switch above. With RETRANSMIT the rack's sums once more, with WAITING the question."""

FIRST_WORKER = 0
"""Of a rack: the one whose packets and questions of pending chunks go up again."""

TO_ONE, BUT_ONE = 1, 2
"""Bits of a copy's `ways`."""


@compiled
def rising(slots: Records[SlotCopy], index: int, worker: int, rack: int, verdict: int) -> int:
    """What becomes of a verdict of `admit` or `inquire`, which were told of `rack` + 1 workers.

    Args:
        slots: of the pool.
        index: as in `admit`.
        worker: whose packet it was, 0 to rack - 1.
        rack: workers of the rack.
        verdict: the slot machine's.
    """
    if int(slots[index]["seen_count"]) != rack:
        return verdict
    if verdict in (FRESH, ADDED, FIRST):
        return verdict + RISES
    if worker == FIRST_WORKER and verdict == DUPLICATE:
        return RETRANSMIT + RISES
    if worker == FIRST_WORKER and verdict == WAITING:
        return WAITING + RISES
    return verdict


@compiled
def judge(slots: Records[SlotCopy], index: int, rack: int, tsi: int) -> int:
    """What comes from above: COMPLETE where it is about a chunk that is pending, else why it is dropped."""
    distance = tsi_distance(tsi, int(slots[index]["stamp"]))
    if slots[index]["used"] == 0 or distance > 0:
        return AHEAD
    if distance < 0:
        return STALE
    if is_seen(slots, index, rack):
        return DUPLICATE
    return COMPLETE if int(slots[index]["seen_count"]) == rack else AHEAD


@compiled
def take_result(
    slots: Records[SlotCopy], index: int, rack: int, tsi: int, kind: int, ways: int, e0: int, e1: int
) -> int:
    """The verdict on a result from above: FRESH + COMPLETE, as of the only packet of a chunk, or why it is dropped.

    Args:
        slots: of the pool.
        index: as in `admit`.
        rack: workers of the rack.
        tsi: of the packet.
        kind: message type.
        ways: TO_ONE or BUT_ONE, as its bits say; 0: none.
        e0: of the packet.
        e1: of the packet.
    """
    verdict = judge(slots, index, rack, tsi)
    if verdict != COMPLETE:
        return verdict
    copy = slots[index]
    empty = kind == ABSENT and ways == 0
    if not fits(slots, index, kind) or (empty and copy["kind"] != ABSENT):
        return MISFIT
    copy["kind"] = kind
    copy["e0"] = e0
    copy["e1"] = e1
    if empty:
        copy["ways"] = 0
    mark_seen(slots, index, rack)
    return FRESH + COMPLETE
