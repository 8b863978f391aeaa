"""Retransmission timers with numbers computed by hand from RFC 6298; times in nanoseconds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from switchml.worker.recovery import Recovery, expire, new_recovery, packet_sent, sample_round_trip
from switchml.worker.window import (
    READY,
    RESEND,
    SENT,
    WORDS,
    Window,
    advance,
    lay,
    mark_sent,
    new_window,
    next_ready,
)

NEVER = np.iinfo(np.int64).max
MS = 1_000_000


class Stream(NamedTuple):
    recovery: Recovery
    window: Window


def _window(width: int = 8, chunks: int = 100, *, floor: int = 1 * MS) -> Stream:
    window = new_window(rank=0, workers=2, window=width, elements=4)
    window.transfers[0]["kind"], window.transfers[0]["chunks"] = WORDS, chunks
    window.stream[0]["queued"] = 1
    lay(window)
    return Stream(new_recovery(initial_timeout=100 * MS, floor=floor, ceiling=1000 * MS), window)


def _send(stream: Stream, now: int) -> list[int]:
    """Send what is ready; the slots."""
    slots = []
    while (slot := next_ready(stream.window)) >= 0:
        mark_sent(stream.window, slot, now)
        packet_sent(*stream, slot, now)
        slots.append(slot)
    return slots


def _answer(stream: Stream, slot: int, now: int) -> None:
    sample_round_trip(*stream, slot, now)
    advance(stream.window, slot, 0)


def _estimates(stream: Stream) -> tuple[int, int, int]:
    times = stream.recovery[0]
    return int(times["srtt"]), int(times["rttvar"]), int(times["timeout"])


def test_estimates_by_hand() -> None:
    stream = _window(4)
    _send(stream, 0)
    assert _estimates(stream) == (0, 0, 100 * MS)
    # First: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR.
    _answer(stream, 0, 8 * MS)
    assert _estimates(stream) == (8 * MS, 4 * MS, 24 * MS)
    # Then RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R| with the old SRTT, SRTT = 7/8 SRTT + 1/8 R.
    _answer(stream, 1, 16 * MS)
    assert _estimates(stream) == (9 * MS, 5 * MS, 29 * MS)
    _answer(stream, 2, 1 * MS)
    assert _estimates(stream) == (8 * MS, 5_750_000, 31 * MS)


def test_a_steady_round_trip_brings_the_timeout_down_to_the_floor() -> None:
    stream = _window(1, floor=3 * MS)
    for step in range(60):
        _send(stream, 10 * MS * step)
        _answer(stream, 0, 10 * MS * step + 2 * MS)
    srtt, variation, timeout = _estimates(stream)
    assert srtt == 2 * MS
    assert variation < 1000
    assert timeout == 3 * MS


def test_the_timeout_has_a_ceiling() -> None:
    stream = _window(1)
    _send(stream, 0)
    _answer(stream, 0, 900 * MS)
    assert _estimates(stream)[2] == 1000 * MS


def test_karn_packets_sent_twice_teach_nothing() -> None:
    stream = _window(2)
    _send(stream, 0)
    expire(*stream, 100 * MS)
    assert stream.window.slots["state"].tolist() == [RESEND, RESEND]
    # Between expiry and sending again the result may still come: ambiguous as well.
    _answer(stream, 0, 101 * MS)
    assert _estimates(stream) == (0, 0, 100 * MS)
    assert _send(stream, 102 * MS) == [0, 1]
    _answer(stream, 1, 103 * MS)
    assert _estimates(stream)[:2] == (0, 0)
    _answer(stream, 0, 104 * MS)
    assert _estimates(stream)[0] == 2 * MS, "slot 0 has gone on to a packet sent once"


def test_nothing_expires_before_its_time() -> None:
    stream = _window(4)
    assert stream.recovery[0]["next_expiry"] == NEVER
    _send(stream, 5 * MS)
    assert stream.recovery[0]["next_expiry"] == 105 * MS
    assert expire(*stream, 105 * MS - 1) == 0
    assert stream.window.slots["state"].tolist() == [SENT] * 4


def test_while_results_come_all_that_is_overdue_is_sent_again() -> None:
    stream = _window(8)
    _send(stream, 0)
    advance(stream.window, 3, 0)
    assert _send(stream, 99 * MS) == [3]
    assert expire(*stream, 99 * MS) == 0
    assert expire(*stream, 100 * MS) == 7, "all but the one that was answered"
    assert set(_send(stream, 100 * MS)) == set(range(8)) - {3}


def test_young_packets_are_not_overdue() -> None:
    stream = _window(8)
    _send(stream, 0)
    _answer(stream, 3, 60 * MS)
    stream.recovery[0]["timeout"] = 100 * MS
    _send(stream, 60 * MS)
    assert expire(*stream, 100 * MS) == 7
    assert stream.window.slots[3]["state"] == SENT
    assert stream.recovery[0]["next_overdue"] == 160 * MS


def test_silence_is_probed_with_the_oldest_four_only() -> None:
    stream = _window(8)
    _send(stream, 0)
    assert expire(*stream, 100 * MS) == 4
    assert _send(stream, 100 * MS) == [0, 1, 2, 3]


def test_probes_are_the_oldest_by_position_not_by_slot() -> None:
    stream = _window(8)
    _send(stream, 0)
    for slot in range(6):
        _answer(stream, slot, 0)
    _send(stream, 0)
    expire(*stream, 0)
    assert expire(*stream, 1000 * MS) == 4
    assert _send(stream, 1000 * MS) == [6, 7, 0, 1]


def test_probes_in_silence_double_their_distance_up_to_the_ceiling() -> None:
    stream = _window(8)
    _send(stream, 0)
    times: list[int] = []
    now = 0
    while len(times) < 6:
        now += 1 * MS
        if (count := expire(*stream, now)) > 0:
            assert count == 4
            assert _send(stream, now) == [0, 1, 2, 3]
            times.append(now // MS)
    assert times == [100, 300, 700, 1500, 2500, 3500]


def test_with_a_known_round_trip_silence_is_noticed_after_two_of_them() -> None:
    stream = _window(4)
    _send(stream, 0)
    _answer(stream, 0, 20 * MS)
    assert _send(stream, 20 * MS) == [0]
    assert expire(*stream, 20 * MS) == 0
    assert expire(*stream, 59 * MS) == 0
    assert expire(*stream, 60 * MS) == 4
    assert _send(stream, 60 * MS) == [1, 2, 3, 0]


def test_a_probe_s_own_timeout_doubles() -> None:
    stream = _window(1)
    _send(stream, 0)
    due = [100]
    for _ in range(5):
        now = due[-1] * MS
        stream.recovery[0]["next_expiry"] = 0
        assert expire(*stream, now - 1) == 0
        stream.recovery[0]["next_expiry"] = 0
        assert expire(*stream, now) == 1
        _send(stream, now)
        due.append(now // MS + min(100 << int(stream.window.slots[0]["retries"]), 1000))
    assert due == [100, 300, 700, 1500, 2500, 3500]


def test_something_moving_ends_the_probing() -> None:
    stream = _window(8)
    _send(stream, 0)
    expire(*stream, 100 * MS)
    _send(stream, 100 * MS)
    assert stream.recovery[0]["backoff"] == 1
    advance(stream.window, 0, 0)
    assert _send(stream, 101 * MS) == [0]
    # The rest, which had waited, follows; the probes themselves have until 300 ms.
    assert expire(*stream, 101 * MS) == 4
    assert stream.recovery[0]["backoff"] == 0
    assert sorted(_send(stream, 101 * MS)) == [4, 5, 6, 7]


def test_a_late_result_of_a_packet_queued_again_saves_sending_it() -> None:
    stream = _window(4, chunks=3)
    _send(stream, 0)
    expire(*stream, 100 * MS)
    for slot in range(4):
        advance(stream.window, slot, 0)
    assert _send(stream, 100 * MS) == []


@pytest.mark.parametrize("now", [100 * MS, 10_000 * MS])
def test_what_was_never_sent_does_not_time_out(now: int) -> None:
    stream = _window(4)
    slot = next_ready(stream.window)
    mark_sent(stream.window, slot, 0)
    packet_sent(*stream, slot, 0)
    assert expire(*stream, now) == 1
    assert stream.window.slots["state"].tolist() == [RESEND, READY, READY, READY]


def test_retries_start_anew_with_the_next_position() -> None:
    stream = _window(1)
    _send(stream, 0)
    expire(*stream, 100 * MS)
    _send(stream, 100 * MS)
    assert stream.window.slots[0]["retries"] == 1
    advance(stream.window, 0, 0)
    _send(stream, 200 * MS)
    assert stream.window.slots[0]["retries"] == 0
    assert stream.recovery[0]["next_expiry"] <= 300 * MS


def test_the_timeout_grows_while_every_result_is_of_a_packet_sent_again() -> None:
    """RFC 6298, 5.5 to 5.7: without samples the timeout doubles, once a window of results, until one comes."""
    stream = _window(4)
    _send(stream, 0)
    for slot in range(4):
        _answer(stream, slot, 8 * MS)
    before = _estimates(stream)
    for step in (1, 2):
        now = 10_000 * MS * step
        sent = _send(stream, now)
        stream.recovery[0]["moved_at"] = (
            now + 9_000 * MS
        )  # results came meanwhile: each slot has its own timer
        stream.recovery[0]["backoff"] = 0
        expire(*stream, now + 5_000 * MS)
        assert sorted(_send(stream, now + 5_000 * MS)) == sorted(sent)
        for slot in sent:
            _answer(stream, slot, now + 6_000 * MS)
        assert _estimates(stream) == (before[0], before[1], before[2] << step)
    (slot, *_) = _send(stream, 40_000 * MS)
    _answer(stream, slot, 40_008 * MS)
    assert _estimates(stream)[2] < before[2]
