"""When the worker's packets are sent again: round trips, the detection of losses, and probes. Pure functions, no clock.

Theory of operation
-------------------
All ranks send in one order (window.py), so results come in that order, and two things show that something is missing:

    overtaken  A packet that left later has its result. As RFC 8985 (RACK) has it, the earlier one is lost once its own
               result is late by a round trip and a quarter: time decides, not a count of packets. A late rank holds up
               all results alike and nothing is overtaken, so it makes nobody send again. Packets sent again can be
               overtaken as well.
    silence    No result at all for two round trips: the last packets are lost, or a rank is late. Nothing here tells
               these apart, so one packet, the lowest, is sent again, ever more rarely while nothing answers (RFC 8985's
               tail loss probe). If it is answered and nothing else follows, twice as many are sent, soon, and so on. If
               the answer took so long that not the probe but the late rank brought it, the next silence is given twice
               the time, up to 200 ms: TCP's shortest timeout.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from switchml.link.records import Int64, Records, new_records
from switchml.protocol.jit import compiled
from switchml.worker.window import SENT, Window, resend

_MOST_PROBES = 64
_MAX_BACKOFF = 6
_EAGER_NS = 1_000_000
_STALL_NS = 1_000_000
_LONGEST_QUIET = 200_000_000
_NEVER = np.iinfo(np.int64).max


class RecoveryRecord(TypedDict):
    """What a stream knows of times. All in nanoseconds but for counts."""

    accepted_before: Int64  # as of the last look at the timers
    moved_at: Int64  # last result, first sending or probe
    probes: Int64  # packets of the next probe
    eager: Int64  # the last probe was answered, and nothing else has come
    probed: Int64  # the lowest position of the last probe
    probed_at: Int64
    srtt: Int64  # 0: no sample yet
    rttvar: Int64
    shortest: Int64  # round trip so far
    round_trip: Int64  # of the packet that left last of those that have a result
    newest: Int64  # its number among `sends`
    lost: Int64  # packets found overtaken, in all
    last_at: Int64  # results came last, or something left while nothing was in flight
    stalled_at: Int64  # end of the last silence longer than any round trip: packets that left before tell nothing of the path
    sampled: Int64  # a round trip has been known since then
    first: Int64  # silence that is taken for a loss until there is a sample
    quiet_floor: Int64
    quiet: Int64  # shortest silence that is taken for a loss, as learned
    ceiling: Int64
    backoff: Int64  # probes since anything moved
    next_overtaken: Int64  # of what is overtaken now, nothing counts as lost before
    scanned: Int64  # `newest` when that was found
    next_expiry: Int64  # nothing is to be sent again before


Recovery = Records[RecoveryRecord]
"""One entry."""


def new_recovery(
    *,
    first: int = 100_000_000,
    quiet_floor: int = 10_000_000,
    ceiling: int = 2_000_000_000,
) -> Recovery:
    """Nothing sent yet. Times in nanoseconds.

    Args:
        first: silence that is taken for a loss until there is a sample.
        quiet_floor: the shortest after that.
        ceiling: the longest of both.
    """
    recovery = new_records(RecoveryRecord, 1)
    entry = recovery[0]
    entry["first"], entry["ceiling"] = first, ceiling
    entry["quiet"] = entry["quiet_floor"] = quiet_floor
    entry["probes"], entry["probed"], entry["newest"] = 1, -1, -1
    entry["scanned"] = -1
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
def begin_results(recovery: Recovery, now: int) -> bool:
    """Results have come; returns whether after a silence that no queue explains: a rank was late, or much was lost."""
    times = recovery[0]
    # Where round trips have grown every one of them is such a silence: after one without a sample the next counts.
    stalled = times["sampled"] != 0 and now - times["last_at"] > 2 * times["round_trip"] + _STALL_NS
    if stalled:
        times["stalled_at"] = now
        times["sampled"] = 0
    times["last_at"] = now
    return bool(stalled)


@compiled
def note_result(recovery: Recovery, window: Window, slot: int, now: int) -> int:
    """The slot's result has come; called before the slot moves on.

    Returns:
        The round trip in ns, or 0 when it tells nothing of the path: nobody knows which sending was answered (Karn's rule), or
        it left before a silence.
    """
    times = recovery[0]
    entry = window.slots[slot]
    if entry["retries"] != 0 or entry["state"] != SENT:
        if entry["position"] == times["probed"]:
            _learn_patience(times, now)
        return 0
    times["probes"], times["eager"] = 1, 0
    times["newest"] = max(int(times["newest"]), int(entry["order"]))
    if entry["sent_at"] < times["stalled_at"]:
        return 0
    sample = max(1, now - int(entry["sent_at"]))
    times["sampled"] = 1
    if entry["order"] == times["newest"]:
        times["round_trip"] = sample
    times["shortest"] = sample if times["shortest"] == 0 else min(sample, int(times["shortest"]))
    return sample


@compiled
def _soon(times: RecoveryRecord) -> int:
    """Within what time a packet sent after a silence is answered if nobody is late."""
    return max(_EAGER_NS, 2 * int(times["shortest"]))


@compiled
def _learn_patience(times: RecoveryRecord, now: int) -> None:
    """The result of the probed packet has come."""
    times["probed"] = -1
    times["probes"], times["eager"] = min(2 * int(times["probes"]), _MOST_PROBES), 1
    if now - times["probed_at"] > _soon(times):
        times["quiet"] = min(2 * int(times["quiet"]), max(_LONGEST_QUIET, int(times["quiet_floor"])))
    else:
        times["quiet"] = max(int(times["quiet"]) // 2, int(times["quiet_floor"]))


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
def _resend_lowest(window: Window) -> int:
    """Send the lowest position that waits for a result again; returns it, or -1."""
    lowest = _NEVER
    chosen = -1
    for slot in range(window.slots.size):
        entry = window.slots[slot]
        if entry["state"] == SENT and entry["position"] < lowest:
            lowest = int(entry["position"])
            chosen = slot
    if chosen < 0:
        return -1
    resend(window, chosen)
    return lowest


@compiled
def _some_overtaken(times: RecoveryRecord, window: Window) -> bool:
    """Whether more wait for a result than have left since the newest that has one."""
    stream = window.stream[0]
    return bool(stream["in_flight"] > stream["sends"] - 1 - times["newest"])


@compiled
def _resend_overtaken(times: RecoveryRecord, window: Window, now: int) -> int:
    # The newest may have been quick by chance: processes that share cores stretch one round trip to ten of another.
    late = max(int(times["round_trip"]), int(times["srtt"])) * 5 // 4
    soonest = _NEVER
    count = 0
    for slot in range(window.slots.size):
        entry = window.slots[slot]
        if entry["state"] == SENT and entry["order"] < times["newest"]:
            due = int(entry["sent_at"]) + late
            if due <= now:
                resend(window, slot)
                count += 1
            else:
                soonest = min(soonest, due)
    times["next_overtaken"] = soonest
    times["scanned"] = times["newest"]
    times["lost"] += count
    return count


@compiled
def _patience(times: RecoveryRecord) -> int:
    """How long nothing may move before it is taken for a loss."""
    patience = int(times["first"])
    if times["srtt"] > 0:
        spread = max(int(times["srtt"]), 4 * int(times["rttvar"]))
        patience = max(int(times["quiet"]), int(times["srtt"]) + spread)
        if times["eager"] != 0:
            patience = _soon(times)
    return min(patience << int(times["backoff"]), int(times["ceiling"]))


@compiled
def _probe(times: RecoveryRecord, window: Window, now: int) -> int:
    count = 0
    while count < times["probes"]:
        position = _resend_lowest(window)
        if position < 0:
            break
        if count == 0:
            times["probed"] = position
            times["probed_at"] = now
        count += 1
    times["backoff"] = min(int(times["backoff"]) + 1, _MAX_BACKOFF)
    times["moved_at"] = now
    return count


@compiled
def expire(recovery: Recovery, window: Window, now: int) -> int:
    """Queue what has to be sent again; returns how many packets. To be called often; little happens before `next_expiry`."""
    times, accepted = recovery[0], int(window.stream[0]["accepted"])
    if accepted != times["accepted_before"]:
        times["accepted_before"] = accepted
        times["moved_at"] = now
        times["backoff"] = 0
    elif times["backoff"] > 1:
        times["probes"], times["eager"] = 1, 0
    count = 0
    overtaken = _some_overtaken(times, window)
    if overtaken and (now >= times["next_overtaken"] or times["newest"] != times["scanned"]):
        count = _resend_overtaken(times, window, now)
    if count == 0 and now >= times["moved_at"] + _patience(times):
        count = _probe(times, window, now)
    times["next_expiry"] = times["moved_at"] + _patience(times)
    if overtaken:
        times["next_expiry"] = min(int(times["next_expiry"]), int(times["next_overtaken"]))
    return count
