"""When the worker's packets are sent again: the round-trip estimator, the timers and the probes. Pure functions, no clock.

Two timers. While results come, a slot whose own result is overdue is sent again; overdue as RFC 6298 has it,
estimated over packets sent once (Karn's rule), with a floor, doubled per retransmission of the slot. So the
timer follows the queues that a window builds up. When nothing at all comes for a few of the shortest round
trips, either packets are lost or other ranks are late, which cannot be told apart: then the oldest few slots
are sent again, soon but few of them, ever more rarely as long as nothing answers, ever more of them when
something does.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from switchml.link.records import Int64, Records, new_records
from switchml.protocol.jit import compiled
from switchml.worker.window import SENT, Window, resend

_PROBE = 4
_MOST_PROBES = 64
_MAX_BACKOFF = 6
_NEVER = np.iinfo(np.int64).max


class RecoveryRecord(TypedDict):
    """What a stream knows of times. All in nanoseconds but for counts."""

    accepted_before: Int64  # as of the last look at the timers
    moved_at: Int64  # last result, first sending or probe
    probes: Int64  # packets of the next probe
    srtt: Int64  # 0: no sample yet
    rttvar: Int64
    timeout: Int64
    unsampled: Int64  # results of packets sent more than once since the last sample
    floor: Int64
    quiet_floor: Int64
    ceiling: Int64
    backoff: Int64  # probes since anything moved
    next_overdue: Int64  # no slot's own timeout is over before
    next_expiry: Int64  # nothing is to be sent again before


Recovery = Records[RecoveryRecord]
"""One entry."""


def new_recovery(
    *,
    initial_timeout: int = 100_000_000,
    floor: int = 10_000_000,
    quiet_floor: int = 2_000_000,
    ceiling: int = 2_000_000_000,
) -> Recovery:
    """Nothing sent yet. Times in nanoseconds.

    Args:
        initial_timeout: until there is a sample.
        floor: shortest timeout.
        quiet_floor: shortest silence that is taken for a loss.
        ceiling: longest of both.
    """
    recovery = new_records(RecoveryRecord, 1)
    entry = recovery[0]
    entry["timeout"], entry["floor"], entry["quiet_floor"] = initial_timeout, floor, quiet_floor
    entry["ceiling"], entry["probes"] = ceiling, _PROBE
    entry["next_overdue"] = entry["next_expiry"] = _NEVER
    return recovery


@compiled
def packet_sent(recovery: Recovery, window: Window, slot: int, now: int) -> None:
    """The slot's packet has left, and is marked so."""
    times = recovery[0]
    if window.slots[slot]["retries"] == 0:
        times["moved_at"] = now
        times["backoff"] = 0
    times["next_overdue"] = min(int(times["next_overdue"]), now + _slot_timeout(times, window, slot))
    times["next_expiry"] = min(int(times["next_expiry"]), int(times["next_overdue"]), now + _patience(times))


@compiled
def _slot_timeout(times: RecoveryRecord, window: Window, slot: int) -> int:
    doublings = min(int(window.slots[slot]["retries"]), _MAX_BACKOFF)
    return min(int(times["timeout"]) << doublings, int(times["ceiling"]))


@compiled
def sample_round_trip(recovery: Recovery, window: Window, slot: int, now: int) -> None:
    """Feed the estimator (RFC 6298) with the slot's result that has just come; only for packets sent once."""
    times = recovery[0]
    entry = window.slots[slot]
    if entry["retries"] != 0 or entry["state"] != SENT:
        # Nothing sent once comes back in time: the round trip has grown past the timeout (RFC 6298, 5.5 to 5.7).
        times["unsampled"] += 1
        if times["unsampled"] >= window.stream[0]["window"]:
            times["unsampled"] = 0
            times["timeout"] = min(2 * int(times["timeout"]), int(times["ceiling"]))
        return
    times["unsampled"] = 0
    sample = max(1, now - int(entry["sent_at"]))
    if times["srtt"] == 0:
        times["srtt"] = max(1, sample)
        times["rttvar"] = sample // 2
    else:
        times["rttvar"] += (abs(int(times["srtt"]) - sample) - int(times["rttvar"])) // 4
        times["srtt"] += (sample - int(times["srtt"])) // 8
        times["srtt"] = max(1, int(times["srtt"]))
    timeout = int(times["srtt"]) + 4 * int(times["rttvar"])
    times["timeout"] = min(max(timeout, int(times["floor"])), int(times["ceiling"]))


@compiled
def _resend_oldest(window: Window) -> bool:
    oldest = np.iinfo(np.int64).max
    chosen = -1
    for slot in range(window.slots.size):
        entry = window.slots[slot]
        if entry["state"] == SENT and entry["position"] < oldest:
            oldest = int(entry["position"])
            chosen = slot
    if chosen >= 0:
        resend(window, chosen)
    return chosen >= 0


@compiled
def _resend_overdue(times: RecoveryRecord, window: Window, now: int) -> int:
    soonest = np.iinfo(np.int64).max
    count = 0
    for slot in range(window.slots.size):
        entry = window.slots[slot]
        if entry["state"] == SENT:
            due = int(entry["sent_at"]) + _slot_timeout(times, window, slot)
            if due <= now:
                resend(window, slot)
                count += 1
            else:
                soonest = min(soonest, due)
    times["next_overdue"] = soonest
    return count


@compiled
def _patience(times: RecoveryRecord) -> int:
    """How long nothing may move before it is taken for a loss."""
    patience = int(times["timeout"])
    if times["srtt"] > 0:
        patience = max(int(times["quiet_floor"]), 2 * int(times["srtt"]))
    return min(patience << int(times["backoff"]), int(times["ceiling"]))


@compiled
def _probe(times: RecoveryRecord, window: Window, now: int) -> int:
    count = 0
    while count < times["probes"] and _resend_oldest(window):
        count += 1
    times["backoff"] = min(int(times["backoff"]) + 1, _MAX_BACKOFF)
    times["moved_at"] = now
    return count


@compiled
def expire(recovery: Recovery, window: Window, now: int) -> int:
    """Queue what has to be sent again; returns how many packets. To be called often; nothing happens before `next_expiry`."""
    times, accepted = recovery[0], int(window.stream[0]["accepted"])
    if accepted != times["accepted_before"]:
        # After a probe that was answered more may be missing: look further each time.
        times["probes"] = min(2 * int(times["probes"]), _MOST_PROBES) if times["backoff"] > 0 else _PROBE
        times["accepted_before"] = accepted
        times["moved_at"] = now
        times["backoff"] = 0
    elif times["backoff"] > 1:
        times["probes"] = _PROBE
    count = 0
    if now >= times["moved_at"] + _patience(times):
        count = _probe(times, window, now)
    elif now >= times["next_overdue"] and times["backoff"] == 0:
        count = _resend_overdue(times, window, now)
    times["next_expiry"] = times["moved_at"] + _patience(times)
    if times["backoff"] == 0:
        times["next_expiry"] = min(int(times["next_expiry"]), int(times["next_overdue"]))
    return count
