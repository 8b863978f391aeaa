"""How much of a stream may be in flight: a congestion window. Pure functions, no clock.

Theory of operation
-------------------
Every result answers one packet of ours, so round trip and delivery rate come for free. A packet counts with its own bytes or with
those expected of its result, whichever are more: what limits a rank that sends headers and gets elements is its downlink. Once a
round (what was in flight when it began has been answered) the window is set as FAST TCP sets it (Wei et al., IEEE/ACM ToN 2006):

    window = window * shortest round trip / round trip of this round + backlog

At rest exactly `backlog` bytes stand in the queues of the path: enough to keep the link busy while processes sleep, not so many
that timers or other traffic suffer. Without a queue the window grows by the backlog each round.

What the backlog may be is found out, because it must fit into the smallest queue of the path:

    a round without loss   it grows by an eighth, up to `ceiling`; it doubles until something is first seen to wait
    much lost              a trial: the ceiling falls to three quarters of it, or half; what had left before does not count again.
                           Where nothing was lost with as much before, it may have been another flow that filled the queue and now
                           gives way: only if much is lost once more, and the first time that is tried again, it is at once all
    trial, much less lost  the losses were ours, and it stays there
    trial, still lost      the same again, down to a quarter, and to four packets if very much is lost. If that does not help, the
                           path loses by itself, or others fill its queues: the backlog is as before, and twice as much may be
                           lost before the next trial
    every so often         the ceiling is tried a little higher: soon while it is less than half of what the last trial began
                           with; and each time that one is found it takes twice as long until then, up to two seconds and 65536
                           packets: such a trial loses some ten. Every two seconds half as much may be lost

So random losses cost no more than sending them again, and a flow that fills queues (TCP Cubic) does not push this one aside.

A queue that is never empty hides how long the path is. So where no round trip of the last ten seconds was as short as one before,
there is a round of four packets (as in BBR).

A late rank delays results while nothing of ours waits in a queue. It shows as a silence longer than any round trip, and packets
sent before its end are left out (recovery.py). Short ones do no harm: the window never falls below the backlog.

What leaves is spread over the round trip (1.25 times the window's rate), so that a window that opens at once is no burst that a
shallow queue drops.

BBR takes the highest rate and the shortest round trip alone; here processes that share cores stretch round trips by more than
a queue, and its window of two such products starves. Copa and Swift aim at a delay: right for a switch's queue, too short for a
sleeping process at one rate and too long for a shallow queue at another. A backlog in bytes fits all.
"""

from __future__ import annotations

from typing import TypedDict

from switchml.link.records import Int64, Records, new_records
from switchml.protocol.jit import compiled, inlined
from switchml.worker.window import FRAMING, Window

_FIRST_PACKETS = 16
_LEAST_PACKETS = 4
_LARGE_PACKETS = 96
_MOST_PACKETS = 1024
_BURST_PACKETS = 32
_LARGE_NS = 10_000_000  # the backlog may be as much as this time brings, where that is more
_FIRST_RETRY_NS = 200_000_000
_RETRY_ROUNDS = 16
_RETRY_NS = 2_000_000_000
_SOON_PACKETS = 256
_FIRST_RETRY_PACKETS = 16384
_RETRY_PACKETS = 65536
_PROVEN_PACKETS = 512
_MEMORY_NS = 10_000_000_000  # a shortest round trip and a highest rate are kept for one to two of these
_RATE_NS = 20_000_000
_JUDGED_PACKETS = 128
_TELLING_PACKETS = 8  # so many lost ones tell the share well enough; fewer among many show that it is small
_QUIET_PACKETS = 1024
_LITTLE_LOSS = 20  # of 1024
_MUCH_LOSS = 128
_MOST_LOSS = 512
_NEVER = 1 << 62


class CongestionRecord(TypedDict):
    """What a stream knows of its path. Bytes are those on the wire, times in ns, rates in bytes a second."""

    enabled: Int64  # 0: nothing limits what is in flight but the slots
    packet: Int64  # bytes of a full packet
    share: Int64  # streams of this worker that leave by the same link
    window: Int64  # bytes that may be in flight
    most: Int64  # of all slots
    backlog: Int64
    ceiling: Int64
    retry_at: Int64  # when the ceiling is tried higher
    retry_every: Int64  # ns until then: a ceiling that was found too low by mistake rises soon, one found again and again seldom
    retry_after: Int64  # packets until then: what a trial loses is to be little of them
    grown_at: Int64  # when the backlog grew last
    proven: Int64  # bytes answered since then
    restored: Int64  # the backlog that is tried again, which had done until others came; 0: none
    doubted: Int64  # much was lost with a backlog that had done: once more, and there is a trial
    starting: Int64  # nothing of ours has been seen to wait yet
    heard: Int64  # bytes answered since losses were judged last
    lost: Int64  # bytes lost since then
    tolerated: Int64  # share that may be lost, in 1/1024
    tolerated_to: Int64  # when half as much is
    trial_share: Int64  # what was lost before the trial that goes on; 0: none does
    trial_backlog: Int64  # the backlog before
    full: Int64  # 1: the window was used up in this round; -1: it was not since little of it, or nothing, was in flight
    round_end: Int64  # number of the first packet of the next round
    round_late: Int64  # number from which on packets are those that left late in the round
    round_best: Int64  # shortest round trip of these; 0: none
    round_bytes: Int64  # answered in this round
    round_trip: Int64  # of the last round that had one
    lost_before: Int64
    shortest: Int64  # round trip
    shortest_now: Int64
    fastest: Int64  # rate
    fastest_now: Int64
    forget_at: Int64
    drained: (
        Int64  # the window before a round of few packets, that shows the path without a queue; 0: it is none
    )
    rate: Int64
    rate_bytes: Int64
    rate_since: Int64
    paced_to: Int64  # when what has left would have left at the pace


Congestion = Records[CongestionRecord]
"""One entry."""


def new_congestion(*, packet: int, slots: int, enabled: bool = True, share: int = 1) -> Congestion:
    """A path of which nothing is known.

    Args:
        packet: bytes of a full packet, header and elements.
        slots: of the stream.
        enabled: False where there is no network between.
        share: streams of this worker that leave by the same link.
    """
    congestion = new_records(CongestionRecord, 1)
    state = congestion[0]
    state["enabled"], state["share"] = enabled, share
    state["packet"] = packet + FRAMING
    state["most"] = slots * (packet + FRAMING)
    state["window"] = (
        state["most"] if not enabled else min(_packets(state, 2 * _FIRST_PACKETS), int(state["most"]))
    )
    state["backlog"] = _packets(state, _FIRST_PACKETS)
    state["ceiling"] = _packets(state, _LARGE_PACKETS)
    state["starting"] = 1
    state["tolerated"] = _LITTLE_LOSS
    state["shortest"] = state["shortest_now"] = _NEVER
    return congestion


@compiled
def _packets(state: CongestionRecord, count: int) -> int:
    """Bytes of so many packets, divided among the worker's streams."""
    return max(_LEAST_PACKETS, count // int(state["share"])) * int(state["packet"])


@compiled
def _interval(state: CongestionRecord, length: int) -> int:
    """Ns that a packet of that many bytes takes at the pace."""
    if state["round_trip"] == 0:
        return 0
    return int(state["round_trip"]) * 4 // 5 * length // int(state["window"])


@compiled
def _burst(state: CongestionRecord) -> int:
    """Bytes that may leave at once, as after a pause: no more than are to wait in a queue, which may have room for no more."""
    return min(_packets(state, _BURST_PACKETS), int(state["backlog"]))


@compiled
def room(congestion: Congestion, now: int) -> int:
    """Bytes that may be in flight now: the window, or 0 while the pace forbids."""
    state = congestion[0]
    if state["enabled"] != 0 and state["paced_to"] > now + _interval(state, _burst(state)):
        return 0
    return int(state["window"])


def packets_allowed(congestion: Congestion) -> int:
    """Full packets that the window lets be unanswered."""
    state = congestion[0]
    return int(state["window"]) // int(state["packet"])


@compiled
def next_leave(congestion: Congestion, now: int) -> int:
    """When the pace lets half a burst leave again; `now` or earlier if it does not forbid."""
    state = congestion[0]
    if state["enabled"] == 0:
        return now
    return int(state["paced_to"]) - _interval(state, _burst(state) // 2)


@compiled
def note_sent(congestion: Congestion, window: Window, length: int, now: int) -> None:
    """A packet has left that counts for so many bytes."""
    state = congestion[0]
    if state["enabled"] == 0:
        return
    state["paced_to"] = max(int(state["paced_to"]), now) + _interval(state, length)
    in_flight = int(window.stream[0]["bytes_in_flight"])
    if window.stream[0]["in_flight"] == 1 or (state["full"] == 0 and 4 * in_flight < state["window"]):
        state["full"] = -1
    if in_flight >= state["window"]:
        if state["full"] < 0 and state["starting"] == 0 and state["drained"] == 0:
            # What left right after a pause has found no queue of ours: the round ends with the packet that used up the window.
            _begin_round(state, window)
            state["round_end"] -= 1
        state["full"] = 1


@compiled
def note_stall(congestion: Congestion, now: int) -> None:
    """A silence has ended: it is not to count into the rate."""
    state = congestion[0]
    state["rate_since"] = now
    state["rate_bytes"] = 0


@compiled
def note_result(congestion: Congestion, window: Window, slot: int, sample: int, moved: int, now: int) -> None:
    """The slot's result has come; called before the slot moves on.

    Args:
        congestion: of the stream.
        window: of the stream.
        slot: the result's.
        sample: the round trip in ns, 0 if unknown.
        moved: bytes of the packet or its result, whichever are more: fewer than expected where no rank gave elements.
        now: ns.
    """
    state = congestion[0]
    if state["enabled"] == 0:
        return
    entry = window.slots[slot]
    state["heard"] += entry["length"]
    state["proven"] += entry["length"]
    state["round_bytes"] += entry["length"]
    state["rate_bytes"] += moved
    # Short packets find queues shorter than full ones make them.
    if sample > 0 and entry["length"] == state["packet"]:
        if entry["order"] >= state["round_late"] and (
            state["round_best"] == 0 or sample < state["round_best"]
        ):
            state["round_best"] = sample
        if entry["order"] >= state["round_end"]:
            state["round_end"] = _NEVER  # the round is over


@inlined
def end_results(congestion: Congestion, window: Window, lost: int, now: int) -> None:
    """All results that have come together are taken.

    Args:
        congestion: of the stream.
        window: of the stream.
        lost: bytes found lost since the stream began.
        now: ns.
    """
    state = congestion[0]
    if state["enabled"] == 0:
        return
    elapsed = now - int(state["rate_since"])
    if elapsed >= max(_RATE_NS, int(state["round_trip"])):
        state["rate"] = int(state["rate_bytes"]) * 1_000_000_000 // elapsed
        state["rate_since"] = now
        state["rate_bytes"] = 0
        state["fastest_now"] = max(int(state["fastest_now"]), int(state["rate"]))
        state["fastest"] = max(int(state["fastest"]), int(state["rate"]))
    if state["round_end"] == _NEVER:
        state["lost"] += lost - int(state["lost_before"])
        state["lost_before"] = lost
        _end_round(state, window, now)
        _begin_round(state, window)
        state["full"] = min(int(state["full"]), 0)


@compiled
def _begin_round(state: CongestionRecord, window: Window) -> None:
    stream = window.stream[0]
    state["round_end"] = stream["sends"]
    waited = 0 if state["drained"] != 0 else int(stream["in_flight"]) // 4
    state["round_late"] = stream["sends"] - waited
    state["round_best"] = state["round_bytes"] = 0


@compiled
def _end_round(state: CongestionRecord, window: Window, now: int) -> None:
    best = int(state["round_best"])
    state["round_trip"] = best
    state["shortest_now"] = min(int(state["shortest_now"]), best)
    state["shortest"] = min(int(state["shortest"]), best)
    if state["drained"] != 0:
        state["shortest"] = state["shortest_now"] = best
        state["window"], state["drained"] = state["drained"], 0
        state["paced_to"] = now
        return
    if now >= state["forget_at"]:
        state["fastest"], state["fastest_now"] = state["fastest_now"], state["rate"]
        state["forget_at"] = now + _MEMORY_NS
        if 4 * state["shortest_now"] > 5 * state["shortest"]:
            state["drained"], state["window"] = state["window"], _LEAST_PACKETS * state["packet"]
            return
        state["shortest"], state["shortest_now"] = state["shortest_now"], best
    width, shortest = int(state["window"]), int(state["shortest"])
    queued = width * (best - shortest) // best
    if queued > state["backlog"] // 2:
        state["starting"] = 0
    _set_backlog(state, window, now)
    if state["full"] <= 0:
        return
    # Where packets are dropped, round trips tell too little: no more than came through, and the backlog.
    wanted = min(width - queued, int(state["round_bytes"])) + int(state["backlog"])
    state["window"] = min(max(wanted, _LEAST_PACKETS * int(state["packet"])), int(state["most"]))


@compiled
def _highest(state: CongestionRecord) -> int:
    # The rate is this stream's own: its part of the link's already.
    large = max(_packets(state, _LARGE_PACKETS), int(state["fastest"]) * (_LARGE_NS // 1_000_000) // 1000)
    return min(large, _packets(state, _MOST_PACKETS))


@compiled
def _lost_share(state: CongestionRecord) -> int:
    """What was lost of late, in 1/1024, or -1 while too little has been sent to tell."""
    lost = int(state["lost"])
    together = lost + int(state["heard"])
    few = lost < _TELLING_PACKETS * state["packet"] and together < _QUIET_PACKETS * state["packet"]
    if few or together < _JUDGED_PACKETS * state["packet"]:
        return -1
    share = max(0, 1024 * int(state["lost"]) // together)
    state["heard"] = state["lost"] = 0
    return share


@compiled
def _soonest_retry(state: CongestionRecord) -> int:
    return min(max(_FIRST_RETRY_NS, _RETRY_ROUNDS * int(state["round_trip"])), _RETRY_NS)


@compiled
def _is_low(state: CongestionRecord) -> bool:
    """Whether the ceiling is so low that it may be a mistake."""
    return bool(state["restored"] != 0 or 2 * state["ceiling"] < state["trial_backlog"])


@compiled
def _retry_after(state: CongestionRecord) -> int:
    return _soonest_retry(state) if _is_low(state) else int(state["retry_every"])


@compiled
def _is_of_no_use(state: CongestionRecord, share: int) -> bool:
    """Whether a trial has come down to a quarter, and as much is lost as before: but not so much as only a full queue drops."""
    quarter = 4 * state["backlog"] <= state["trial_backlog"]
    return bool(quarter and 2 * share > state["trial_share"] and share <= _MUCH_LOSS)


@compiled
def _judge_losses(state: CongestionRecord, window: Window, now: int) -> None:
    share = _lost_share(state)
    if share < 0:
        return
    least = _LEAST_PACKETS * int(state["packet"])
    tried = state["trial_share"] > 0
    if tried and 4 * share <= state["trial_share"]:
        if state["restored"] == 0:
            state["retry_every"] = min(max(2 * int(state["retry_every"]), _soonest_retry(state)), _RETRY_NS)
            state["retry_after"] = min(
                max(2 * int(state["retry_after"]), _FIRST_RETRY_PACKETS), _RETRY_PACKETS
            )
        state["retry_at"] = now + _retry_after(state)
        state["proven"], state["grown_at"] = 0, now
        state["trial_share"] = 0
    elif tried and (state["backlog"] <= least or _is_of_no_use(state, share)):
        state["backlog"] = state["ceiling"] = state["trial_backlog"]
        state["tolerated"] = min(2 * share, _MOST_LOSS)
        state["tolerated_to"] = now + _RETRY_NS
        state["trial_share"] = 0
    elif not tried and share > state["tolerated"] and _has_done(state, now) and state["doubted"] == 0:
        state["doubted"] = 1
        window.stream[0]["forgiven"] = window.stream[0]["sends"]
    elif tried or share > state["tolerated"]:
        if not tried:
            state["trial_share"], state["trial_backlog"] = share, state["backlog"]
            state["restored"] = state["backlog"] if _has_done(state, now) else 0
            state["doubted"] = 0
        kept = 2 if share > _MUCH_LOSS else 3
        state["backlog"] = state["ceiling"] = max(int(state["backlog"]) * kept // 4, least)
        state["starting"] = 0
        window.stream[0]["forgiven"] = window.stream[0]["sends"]
    else:
        state["doubted"] = 0


@compiled
def _has_done(state: CongestionRecord, now: int) -> bool:
    """Whether little was lost for long with the backlog that there is."""
    long = now - int(state["grown_at"]) >= _soonest_retry(state)
    return bool(long and state["proven"] >= _PROVEN_PACKETS * state["packet"])


@compiled
def _may_retry(state: CongestionRecord, now: int) -> bool:
    packets = _SOON_PACKETS if _is_low(state) else int(state["retry_after"])
    return bool(now >= state["retry_at"] and state["proven"] >= packets * state["packet"])


@compiled
def _set_backlog(state: CongestionRecord, window: Window, now: int) -> None:
    packet = int(state["packet"])
    _judge_losses(state, window, now)
    if state["trial_share"] == 0:
        if state["retry_at"] == 0:
            state["ceiling"] = _highest(state)
        elif _may_retry(state, now):
            higher = int(state["ceiling"]) + max(packet, int(state["ceiling"]) // 8)
            state["ceiling"] = max(higher, int(state["restored"]))
            state["restored"] = 0
            state["retry_at"] = now + _retry_after(state)
        if now >= state["tolerated_to"]:
            state["tolerated"] = max(_LITTLE_LOSS, int(state["tolerated"]) // 2)
            state["tolerated_to"] = now + _RETRY_NS
        state["ceiling"] = min(int(state["ceiling"]), _highest(state))
        step = int(state["backlog"]) if state["starting"] != 0 else max(packet, int(state["backlog"]) // 8)
        wanted = min(int(state["backlog"]) + step, int(state["ceiling"]))
        if wanted > state["backlog"]:
            state["proven"], state["grown_at"] = 0, now
        state["backlog"] = wanted
    state["backlog"] = max(int(state["backlog"]), _LEAST_PACKETS * packet)
