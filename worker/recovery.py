"""When the worker asks after its packets, and sends them again: round trips, and what is missing. Pure functions, no clock.

Theory of operation
-------------------
A result is missing because our packet was lost, or another rank's, or the result on its way here, or because a rank is late. From
here these look alike, and all ranks see the same at the same time; whoever sends again on suspicion fills links that are full
already. So a worker asks the switch (ASK, a bare header) and sends again only what has not come. Two things make it ask:

    overtaken  A packet that left later has its result. All ranks send in one order (window.py), so as RFC 8985 (RACK) has it, the
               earlier one is missing once its own result is late by a round trip and a quarter: time decides, not a count of
               packets. A late rank holds up all results alike and nothing is overtaken.
    silence    No result at all for two round trips: the last packets are missing, or a rank is late. The switch is asked for the
               lowest few, ever more rarely while nothing comes (RFC 8985's tail loss probe).

    answer     has not come: it is sent again, and two more are asked for; so what is missing of a window is found within a few
               round trips, as TCP's slow start would send it
               the result: it was lost on its way here, and two more are asked for
               has come: another rank's is missing, and that rank does the same. It is asked for again ever more rarely, as the
               result may get lost as well, and others may leave in its place: or windows of ranks that wait for each other's
               packets would be full of those that wait
               none: it was lost where a packet that left later has its result, and it is asked for again soon; where none has
               ever been answered (a switch that knows no ASK) the packet is sent again, and soon without asking

Whatever one rank loses, all wait for. So a round trip is only taken from packets that no later one has overtaken, and none from
a silence in which something was missing: the others' losses must not pass for a longer way, or all would wait ever longer for
each other.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from switchml.link.records import Int64, Records, new_records
from switchml.protocol.jit import compiled
from switchml.worker.window import RESEND, SENT, Window, ask, mark_come, resend

_FIRST_QUESTIONS = 4
_MORE_QUESTIONS = 2
_MAX_BACKOFF = 6
_UNTOLD_BACKOFF = 1
_STALL_NS = 1_000_000
_DEAF = 16
_NEVER = np.iinfo(np.int64).max


class RecoveryRecord(TypedDict):
    """What a stream knows of times. All in nanoseconds but for counts."""

    accepted_before: Int64  # as of the last look at the timers
    moved_at: Int64  # last result, first sending or question after a silence
    asked_at: Int64  # the last question after a silence
    told_at: Int64  # the switch answered a question last
    asked_before: Int64  # number among `sends` of the first packet that it is not about
    questions: Int64  # so many more may be asked about these
    unanswered: Int64  # questions, while none has ever been answered
    srtt: Int64  # 0: no sample yet
    rttvar: Int64
    shortest: Int64  # round trip so far
    round_trip: Int64  # of the packet that left last of those that have a result
    newest: Int64  # its number among `sends`
    newest_at: Int64  # when it left
    lost: Int64  # bytes of packets of ours, and of results on the way here, that count
    last_at: Int64  # results came last, or something left while nothing was in flight
    stalled_at: Int64  # end of the last silence longer than any round trip: packets that left before tell nothing of the path
    answered: Int64  # of `lost`, what the last result counts for that answered a question
    sampled: Int64  # a round trip has been known since then
    first: Int64  # silence that is taken for a loss until there is a sample
    quiet: Int64  # shortest silence that is taken for a loss
    ceiling: Int64
    backoff: Int64  # questions since anything moved
    next_overtaken: Int64  # of what is overtaken now, nothing is missing before
    scanned: Int64  # `newest` when that was found
    next_expiry: Int64  # nothing is to be done before


Recovery = Records[RecoveryRecord]
"""One entry."""


def new_recovery(
    *,
    first: int = 100_000_000,
    quiet: int = 10_000_000,
    ceiling: int = 1_000_000_000,
) -> Recovery:
    """Nothing sent yet. Times in nanoseconds.

    Args:
        first: silence that is taken for a loss until there is a sample.
        quiet: the shortest after that.
        ceiling: the longest of both.
    """
    recovery = new_records(RecoveryRecord, 1)
    entry = recovery[0]
    entry["first"], entry["quiet"], entry["ceiling"] = first, quiet, ceiling
    entry["newest"] = entry["scanned"] = -1
    entry["next_overtaken"] = entry["next_expiry"] = _NEVER
    return recovery


@compiled
def packet_sent(recovery: Recovery, window: Window, slot: int, now: int) -> None:
    """The slot's packet has left, and is marked so."""
    times = recovery[0]
    if window.slots[slot]["retries"] == 0:
        times["moved_at"] = now
        times["backoff"] = 0
        if window.stream[0]["in_flight"] == 1:
            times["last_at"] = now  # nothing was waited for: a pause of the program is no silence
    times["next_expiry"] = min(int(times["next_expiry"]), now + _patience(times))


@compiled
def begin_result(recovery: Recovery, now: int) -> bool:
    """A result has come; returns whether after a silence that no queue explains: a rank was late, or much was lost."""
    times = recovery[0]
    # Where round trips have grown every one of them is such a silence: after one without a sample the next counts, unless the
    # switch has answered a question in it.
    usual = times["sampled"] == 0 and times["told_at"] <= times["last_at"]
    long = times["round_trip"] > 0 and now - times["last_at"] > 2 * times["round_trip"] + _STALL_NS
    stalled = long and not usual
    if stalled:
        times["stalled_at"] = now
        times["sampled"] = 0
    times["last_at"] = now
    return bool(stalled)


@compiled
def _count_lost(times: RecoveryRecord, window: Window, slot: int) -> int:
    entry = window.slots[slot]
    length = int(entry["length"]) if entry["order"] >= window.stream[0]["forgiven"] else 0
    times["lost"] += length
    return length


@compiled
def note_duplicate(recovery: Recovery) -> None:
    """A result for all has come after the one that answered a question: it was only late."""
    times = recovery[0]
    times["lost"] -= times["answered"]
    times["answered"] = 0


@compiled
def note_result(recovery: Recovery, window: Window, slot: int, asked_for: bool, now: int) -> int:
    """The slot's result has come; called before the slot moves on.

    Args:
        recovery: of the stream.
        window: of the stream.
        slot: of the result.
        asked_for: it answers a question: the result for all was lost on its way here.
        now: ns.

    Returns:
        The round trip in ns, or 0 when it tells nothing of the path: nobody knows which sending was answered (Karn's rule), it
        left before a silence, or another rank held it up.
    """
    times = recovery[0]
    entry = window.slots[slot]
    overtaken = entry["order"] < times["newest"]
    if not overtaken:
        times["newest"], times["newest_at"] = entry["order"], entry["sent_at"]
    if asked_for:
        times["answered"] = _count_lost(times, window, slot)
        times["questions"] += _MORE_QUESTIONS
    again = entry["retries"] != 0 or entry["state"] == RESEND
    if again or asked_for or entry["come"] != 0 or overtaken or entry["sent_at"] < times["stalled_at"]:
        return 0
    sample = max(1, now - int(entry["sent_at"]))
    times["sampled"] = 1
    times["round_trip"] = sample
    times["shortest"] = sample if times["shortest"] == 0 else min(sample, int(times["shortest"]))
    return sample


@compiled
def estimate(recovery: Recovery, sample: int) -> None:
    """Feed the estimator (RFC 6298) with a round trip in ns: the longest of what has come together."""
    times = recovery[0]
    if times["srtt"] == 0:
        times["srtt"] = max(1, sample)
        times["rttvar"] = sample // 2
    else:
        times["rttvar"] += (abs(int(times["srtt"]) - sample) - int(times["rttvar"])) // 4
        times["srtt"] += (sample - int(times["srtt"])) // 8
        times["srtt"] = max(1, int(times["srtt"]))


@compiled
def note_answer(recovery: Recovery, window: Window, slot: int, come: bool, now: int) -> None:
    """The switch has said whether the slot's packet, which was asked for, has come."""
    times = recovery[0]
    entry = window.slots[slot]
    times["unanswered"] = -_NEVER
    times["told_at"] = now
    if entry["state"] == RESEND or entry["asked_at"] == 0:
        return  # sent again meanwhile
    if entry["asked"] == 1 and entry["come"] == 0:
        times["round_trip"] = max(1, now - int(entry["asked_at"]))
        estimate(recovery, int(times["round_trip"]))
    if come:
        mark_come(window, slot)
        return
    _send_again(times, window, slot)
    times["questions"] += _MORE_QUESTIONS


@compiled
def _send_again(times: RecoveryRecord, window: Window, slot: int) -> None:
    _count_lost(times, window, slot)
    resend(window, slot)


@compiled
def _look_after(times: RecoveryRecord, window: Window, slot: int) -> None:
    """The slot's result is missing."""
    unanswered = times["unanswered"] >= 0 and window.slots[slot]["asked"] > 0
    if unanswered:
        times["unanswered"] += 1
    if unanswered or times["unanswered"] >= _DEAF:
        _send_again(times, window, slot)
    else:
        ask(window, slot)


@compiled
def _lowest(window: Window, before: int, asked_before: int) -> int:
    """The slot of the lowest position in flight that left before that number and was not asked for since then, or -1."""
    lowest = _NEVER
    chosen = -1
    for slot in range(window.slots.size):
        entry = window.slots[slot]
        fits = entry["state"] == SENT and entry["order"] < before and entry["asked_at"] < asked_before
        if fits and entry["position"] < lowest:
            lowest = int(entry["position"])
            chosen = slot
    return chosen


@compiled
def _ask_more(times: RecoveryRecord, window: Window) -> int:
    count = 0
    while count < times["questions"]:
        slot = _lowest(window, int(times["asked_before"]), int(times["asked_at"]))
        if slot < 0:
            break
        _look_after(times, window, slot)
        count += 1
    times["questions"] = 0
    return count


@compiled
def _end_silence(times: RecoveryRecord, window: Window, now: int) -> int:
    times["backoff"] = min(int(times["backoff"]) + 1, _MAX_BACKOFF)
    times["moved_at"] = now
    times["asked_at"] = now
    times["asked_before"] = window.stream[0]["sends"]
    times["questions"] = _FIRST_QUESTIONS if times["unanswered"] < _DEAF else 1
    return _ask_more(times, window)


@compiled
def _some_overtaken(times: RecoveryRecord, window: Window) -> bool:
    """Whether more wait for a result than have left since the newest that has one."""
    stream = window.stream[0]
    return bool(stream["in_flight"] > stream["sends"] - 1 - times["newest"])


@compiled
def _look_after_overtaken(times: RecoveryRecord, window: Window, now: int) -> int:
    # The newest may have been quick by chance: processes that share cores stretch one round trip to ten of another.
    late = max(int(times["round_trip"]), int(times["srtt"])) * 5 // 4
    soonest = _NEVER
    count = 0
    for slot in range(window.slots.size):
        entry = window.slots[slot]
        if entry["state"] == SENT and entry["order"] < times["newest"]:
            due = int(entry["sent_at"]) + late
            if entry["asked"] > 0:
                # Where a queue stays full, answer after answer is lost, and the slot's whole chain waits for one.
                most = _MAX_BACKOFF if entry["come"] != 0 else _UNTOLD_BACKOFF
                again = max(late, _STALL_NS) << min(int(entry["asked"]) - 1, most)
                due = int(entry["asked_at"]) + again
            if due <= now:
                overtaken = 0 < entry["asked_at"] < times["newest_at"]
                if overtaken and entry["come"] == 0 and times["unanswered"] < 0:
                    _count_lost(times, window, slot)  # the question, or its answer
                _look_after(times, window, slot)
                count += 1
            else:
                soonest = min(soonest, due)
    times["next_overtaken"] = soonest
    times["scanned"] = times["newest"]
    return count


@compiled
def _patience(times: RecoveryRecord) -> int:
    """How long nothing may move before it is taken for a loss."""
    patience = int(times["first"])
    if times["srtt"] > 0:
        spread = max(int(times["srtt"]), 4 * int(times["rttvar"]))
        patience = max(int(times["quiet"]), int(times["srtt"]) + spread)
    return min(patience << int(times["backoff"]), int(times["ceiling"]))


@compiled
def expire(recovery: Recovery, window: Window, now: int) -> int:
    """Queue what has to be asked or sent again; returns how many. To be called often; little happens before `next_expiry`."""
    times, accepted = recovery[0], int(window.stream[0]["accepted"])
    if accepted != times["accepted_before"]:
        times["accepted_before"] = accepted
        times["moved_at"] = now
        times["backoff"] = 0
    count = 0
    overtaken = _some_overtaken(times, window)
    if overtaken and (now >= times["next_overtaken"] or times["newest"] != times["scanned"]):
        count = _look_after_overtaken(times, window, now)
    if times["questions"] > 0:
        count += _ask_more(times, window)
    if count == 0 and now >= times["moved_at"] + _patience(times):
        count = _end_silence(times, window, now)
    times["next_expiry"] = times["moved_at"] + _patience(times)
    if overtaken:
        times["next_expiry"] = min(int(times["next_expiry"]), int(times["next_overtaken"]))
    return count
