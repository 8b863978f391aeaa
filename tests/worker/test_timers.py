"""Retransmission timers with numbers computed by hand from RFC 6298; times in nanoseconds."""

from __future__ import annotations

import numpy as np
import pytest

from switchml.worker.window import (
    READY,
    RESEND,
    SENT,
    WORDS,
    Window,
    advance,
    expire,
    lay,
    mark_sent,
    new_window,
    next_ready,
    sample_round_trip,
)

NEVER = np.iinfo(np.int64).max
MS = 1_000_000


def _window(width: int = 8, chunks: int = 100, *, floor: int = 1 * MS) -> Window:
    window = new_window(
        rank=0, workers=2, window=width, elements=4, initial_timeout=100 * MS, floor=floor, ceiling=1000 * MS
    )
    window.transfers[0]["kind"], window.transfers[0]["chunks"] = WORDS, chunks
    window.stream[0]["queued"] = 1
    lay(window)
    return window


def _send(window: Window, now: int) -> list[int]:
    """Send what is ready; the slots."""
    slots = []
    while (slot := next_ready(window)) >= 0:
        mark_sent(window, slot, now)
        slots.append(slot)
    return slots


def _answer(window: Window, slot: int, now: int) -> None:
    sample_round_trip(window, slot, now)
    advance(window, slot, 0)


def _estimates(window: Window) -> tuple[int, int, int]:
    stream = window.stream[0]
    return int(stream["srtt"]), int(stream["rttvar"]), int(stream["timeout"])


def test_estimates_by_hand() -> None:
    window = _window(4)
    _send(window, 0)
    assert _estimates(window) == (0, 0, 100 * MS)
    # First: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR.
    _answer(window, 0, 8 * MS)
    assert _estimates(window) == (8 * MS, 4 * MS, 24 * MS)
    # Then RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R| with the old SRTT, SRTT = 7/8 SRTT + 1/8 R.
    _answer(window, 1, 16 * MS)
    assert _estimates(window) == (9 * MS, 5 * MS, 29 * MS)
    _answer(window, 2, 1 * MS)
    assert _estimates(window) == (8 * MS, 5_750_000, 31 * MS)


def test_a_steady_round_trip_brings_the_timeout_down_to_the_floor() -> None:
    window = _window(1, floor=3 * MS)
    for step in range(60):
        _send(window, 10 * MS * step)
        _answer(window, 0, 10 * MS * step + 2 * MS)
    srtt, variation, timeout = _estimates(window)
    assert srtt == 2 * MS
    assert variation < 1000
    assert timeout == 3 * MS


def test_the_timeout_has_a_ceiling() -> None:
    window = _window(1)
    _send(window, 0)
    _answer(window, 0, 900 * MS)
    assert _estimates(window)[2] == 1000 * MS


def test_karn_packets_sent_twice_teach_nothing() -> None:
    window = _window(2)
    _send(window, 0)
    expire(window, 100 * MS)
    assert window.slots["state"].tolist() == [RESEND, RESEND]
    # Between expiry and sending again the result may still come: ambiguous as well.
    _answer(window, 0, 101 * MS)
    assert _estimates(window) == (0, 0, 100 * MS)
    assert _send(window, 102 * MS) == [0, 1]
    _answer(window, 1, 103 * MS)
    assert _estimates(window)[:2] == (0, 0)
    _answer(window, 0, 104 * MS)
    assert _estimates(window)[0] == 2 * MS, "slot 0 has gone on to a packet sent once"


def test_nothing_expires_before_its_time() -> None:
    window = _window(4)
    assert window.stream[0]["next_expiry"] == NEVER
    _send(window, 5 * MS)
    assert window.stream[0]["next_expiry"] == 105 * MS
    assert expire(window, 105 * MS - 1) == 0
    assert window.slots["state"].tolist() == [SENT] * 4


def test_while_results_come_all_that_is_overdue_is_sent_again() -> None:
    window = _window(8)
    _send(window, 0)
    advance(window, 3, 0)
    assert _send(window, 99 * MS) == [3]
    assert expire(window, 99 * MS) == 0
    assert expire(window, 100 * MS) == 7, "all but the one that was answered"
    assert set(_send(window, 100 * MS)) == set(range(8)) - {3}


def test_young_packets_are_not_overdue() -> None:
    window = _window(8)
    _send(window, 0)
    _answer(window, 3, 60 * MS)
    window.stream[0]["timeout"] = 100 * MS
    _send(window, 60 * MS)
    assert expire(window, 100 * MS) == 7
    assert window.slots[3]["state"] == SENT
    assert window.stream[0]["next_overdue"] == 160 * MS


def test_silence_is_probed_with_the_oldest_four_only() -> None:
    window = _window(8)
    _send(window, 0)
    assert expire(window, 100 * MS) == 4
    assert _send(window, 100 * MS) == [0, 1, 2, 3]


def test_probes_are_the_oldest_by_position_not_by_slot() -> None:
    window = _window(8)
    _send(window, 0)
    for slot in range(6):
        _answer(window, slot, 0)
    _send(window, 0)
    expire(window, 0)
    assert expire(window, 1000 * MS) == 4
    assert _send(window, 1000 * MS) == [6, 7, 0, 1]


def test_probes_in_silence_double_their_distance_up_to_the_ceiling() -> None:
    window = _window(8)
    _send(window, 0)
    times: list[int] = []
    now = 0
    while len(times) < 6:
        now += 1 * MS
        if (count := expire(window, now)) > 0:
            assert count == 4
            assert _send(window, now) == [0, 1, 2, 3]
            times.append(now // MS)
    assert times == [100, 300, 700, 1500, 2500, 3500]


def test_with_a_known_round_trip_silence_is_noticed_after_two_of_them() -> None:
    window = _window(4)
    _send(window, 0)
    _answer(window, 0, 20 * MS)
    assert _send(window, 20 * MS) == [0]
    assert expire(window, 20 * MS) == 0
    assert expire(window, 59 * MS) == 0
    assert expire(window, 60 * MS) == 4
    assert _send(window, 60 * MS) == [1, 2, 3, 0]


def test_a_probe_s_own_timeout_doubles() -> None:
    window = _window(1)
    _send(window, 0)
    due = [100]
    for _ in range(5):
        now = due[-1] * MS
        window.stream[0]["next_expiry"] = 0
        assert expire(window, now - 1) == 0
        window.stream[0]["next_expiry"] = 0
        assert expire(window, now) == 1
        _send(window, now)
        due.append(now // MS + min(100 << int(window.slots[0]["retries"]), 1000))
    assert due == [100, 300, 700, 1500, 2500, 3500]


def test_something_moving_ends_the_probing() -> None:
    window = _window(8)
    _send(window, 0)
    expire(window, 100 * MS)
    _send(window, 100 * MS)
    assert window.stream[0]["backoff"] == 1
    advance(window, 0, 0)
    assert _send(window, 101 * MS) == [0]
    # The rest, which had waited, follows; the probes themselves have until 300 ms.
    assert expire(window, 101 * MS) == 4
    assert window.stream[0]["backoff"] == 0
    assert sorted(_send(window, 101 * MS)) == [4, 5, 6, 7]


def test_a_late_result_of_a_packet_queued_again_saves_sending_it() -> None:
    window = _window(4, chunks=3)
    _send(window, 0)
    expire(window, 100 * MS)
    for slot in range(4):
        advance(window, slot, 0)
    assert _send(window, 100 * MS) == []


@pytest.mark.parametrize("now", [100 * MS, 10_000 * MS])
def test_what_was_never_sent_does_not_time_out(now: int) -> None:
    window = _window(4)
    slot = next_ready(window)
    mark_sent(window, slot, 0)
    assert expire(window, now) == 1
    assert window.slots["state"].tolist() == [RESEND, READY, READY, READY]


def test_retries_start_anew_with_the_next_position() -> None:
    window = _window(1)
    _send(window, 0)
    expire(window, 100 * MS)
    _send(window, 100 * MS)
    assert window.slots[0]["retries"] == 1
    advance(window, 0, 0)
    _send(window, 200 * MS)
    assert window.slots[0]["retries"] == 0
    assert window.stream[0]["next_expiry"] <= 300 * MS


def test_the_timeout_grows_while_every_result_is_of_a_packet_sent_again() -> None:
    """RFC 6298, 5.5 to 5.7: without samples the timeout doubles, once a window of results, until one comes."""
    window = _window(4)
    _send(window, 0)
    for slot in range(4):
        _answer(window, slot, 8 * MS)
    before = _estimates(window)
    for step in (1, 2):
        now = 10_000 * MS * step
        sent = _send(window, now)
        window.stream[0]["moved_at"] = now + 9_000 * MS  # results came meanwhile: each slot has its own timer
        window.stream[0]["backoff"] = 0
        expire(window, now + 5_000 * MS)
        assert sorted(_send(window, now + 5_000 * MS)) == sorted(sent)
        for slot in sent:
            _answer(window, slot, now + 6_000 * MS)
        assert _estimates(window) == (before[0], before[1], before[2] << step)
    (slot, *_) = _send(window, 40_000 * MS)
    _answer(window, slot, 40_008 * MS)
    assert _estimates(window)[2] < before[2]
