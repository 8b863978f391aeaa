"""When packets are sent again, with numbers computed by hand from RFC 6298 and RFC 8985; times in nanoseconds."""

from __future__ import annotations

import numpy as np
import pytest

from switchml.worker.recovery import (
    begin_results,
    estimate,
    expire,
    new_recovery,
    note_result,
    packet_sent,
)
from switchml.worker.window import (
    READY,
    RESEND,
    SENT,
    WORDS,
    advance,
    lay,
    mark_sent,
    new_window,
    next_ready,
)

NEVER = np.iinfo(np.int64).max
MS = 1_000_000


class Stream:
    """A stream of one transfer; without a sample 100 ms of silence are a loss, with one at least `floor`."""

    def __init__(self, width: int = 8, chunks: int = 10_000, floor: int = 1 * MS) -> None:
        self.window = new_window(rank=0, workers=2, window=width, elements=4)
        self.window.transfers[0]["kind"], self.window.transfers[0]["chunks"] = WORDS, chunks
        self.window.stream[0]["queued"] = 1
        lay(self.window)
        self.recovery = new_recovery(first=100 * MS, quiet_floor=floor, ceiling=1000 * MS)

    @property
    def times(self) -> np.void:
        entry: np.void = self.recovery[0]  # type: ignore[assignment]
        return entry

    def send(self, now: int, most: int = 1 << 20) -> list[int]:
        """Send what is ready; the positions."""
        positions: list[int] = []
        while len(positions) < most and (slot := next_ready(self.window)) >= 0:
            mark_sent(self.window, slot, now, 100)
            packet_sent(self.recovery, self.window, slot, now)
            positions.append(int(self.window.slots[slot]["position"]))
        return positions

    def answer(self, now: int, *positions: int) -> list[int]:
        """Results come together; their round trips."""
        begin_results(self.recovery, now)
        samples = []
        for position in positions:
            slot = position % self.window.slots.size
            assert self.window.slots[slot]["position"] == position
            samples.append(note_result(self.recovery, self.window, slot, now))
            advance(self.window, slot, 0)
        if max(samples) > 0:
            estimate(self.recovery, max(samples))
        return samples

    def expire(self, now: int) -> int:
        return expire(self.recovery, self.window, now)

    def again(self, now: int) -> list[int]:
        """Positions that are sent again."""
        count = self.expire(now)
        sent = self.send(now, count)
        assert all(self.window.slots[position % self.window.slots.size]["retries"] for position in sent)
        return sent

    def states(self) -> list[int]:
        return [int(state) for state in self.window.slots["state"]]

    def retries(self) -> int:
        return int(self.window.slots["retries"].sum())


# Round trips


def test_estimates_by_hand() -> None:
    recovery = new_recovery()
    times = recovery[0]
    # First: SRTT = R, RTTVAR = R/2. Then RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R| with the old SRTT, SRTT = 7/8 SRTT + 1/8 R.
    for sample, srtt, variation in [
        (8 * MS, 8 * MS, 4 * MS),
        (16 * MS, 9 * MS, 5 * MS),
        (1 * MS, 8 * MS, 5_750_000),
    ]:
        estimate(recovery, sample)
        assert (times["srtt"], times["rttvar"]) == (srtt, variation)


def test_a_steady_round_trip_brings_the_patience_down_to_two_of_them() -> None:
    stream = Stream(1)
    for step in range(60):
        stream.send(10 * MS * step)
        assert stream.answer(10 * MS * step + 2 * MS, step) == [2 * MS]
    stream.send(1000 * MS)
    stream.expire(1000 * MS)
    assert stream.times["next_expiry"] == 1004 * MS


def test_the_patience_is_four_deviations_where_round_trips_vary() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(8 * MS, 0)
    stream.expire(8 * MS)
    assert stream.times["next_expiry"] == 8 * MS + (8 + 4 * 4) * MS


def test_the_patience_has_a_floor_and_a_ceiling() -> None:
    stream = Stream(2, floor=70 * MS)
    stream.send(0)
    stream.answer(8 * MS, 0)
    stream.expire(8 * MS)
    assert stream.times["next_expiry"] == (8 + 70) * MS
    estimate(stream.recovery, 5000 * MS)
    stream.expire(8 * MS)
    assert stream.times["next_expiry"] == (8 + 1000) * MS


def test_karn_packets_sent_twice_teach_nothing() -> None:
    stream = Stream(2)
    stream.send(0)
    assert stream.again(100 * MS) == [0]
    assert stream.answer(103 * MS, 0) == [0]
    assert (stream.times["srtt"], stream.times["newest"]) == (0, -1)
    # Between being found lost and being sent again the result may still come: ambiguous as well.
    stream.times["eager"] = 0
    assert stream.expire(103 * MS) == 0
    assert stream.expire(203 * MS) == 1
    assert stream.states() == [READY, RESEND]
    assert stream.answer(204 * MS, 1) == [0]
    assert stream.times["srtt"] == 0
    assert stream.send(204 * MS) == [2, 3]
    assert stream.answer(206 * MS, 2) == [2 * MS], "slot 0 has gone on to a packet sent once"


# Overtaken


def test_what_is_overtaken_is_lost_once_it_is_late_by_a_round_trip_and_a_quarter() -> None:
    stream = Stream(4)
    for now in range(4):
        assert stream.send(now * MS, 1) == [now]
    assert stream.times["next_expiry"] == 100 * MS
    # Position 2 left at 2 ms and has a round trip of 10 ms: 0 and 1 have until 12.5 ms after they left.
    assert stream.answer(12 * MS, 2) == [10 * MS]
    assert stream.expire(12 * MS) == 0
    assert stream.times["next_expiry"] == 12_500_000
    assert stream.expire(12_499_999) == 0
    assert stream.expire(12_500_000) == 1
    assert stream.states() == [RESEND, SENT, READY, SENT]
    assert stream.times["next_expiry"] == 13_500_000
    assert stream.expire(13_499_999) == 0
    assert stream.expire(13_500_000) == 1
    assert stream.states() == [RESEND, RESEND, READY, SENT], "3 left after 2: nothing overtook it"
    assert stream.times["lost"] == 2
    # 3 is left to the silence: 10 + 4 * 5 ms after the result.
    assert stream.times["next_expiry"] == 42 * MS
    assert stream.expire(42 * MS - 1) == 0


def test_any_number_may_overtake_while_there_is_time() -> None:
    stream = Stream(64)
    stream.send(0)
    stream.answer(10 * MS, *range(1, 64))
    assert stream.expire(10 * MS) == 0, "63 overtook it: by counting three it would be lost"
    stream.answer(12_400_000, 0)
    assert stream.expire(12_500_000) == 0
    assert (stream.times["lost"], stream.retries()) == (0, 0)


def test_the_mean_round_trip_counts_where_it_is_longer() -> None:
    stream = Stream(2)
    estimate(stream.recovery, 40 * MS)
    stream.send(0)
    stream.answer(8 * MS, 1)
    # srtt = 7/8 * 40 + 1/8 * 8 = 36 ms, and a quarter of it.
    assert stream.expire(8 * MS) == 0
    assert stream.times["next_overtaken"] == 45 * MS
    assert stream.expire(45 * MS) == 1


def test_packets_sent_again_can_be_overtaken_as_well() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    assert stream.again(12_500_000) == [0]
    assert stream.send(13 * MS) == [3]
    assert stream.answer(23 * MS, 3) == [10 * MS]
    # 0 left last at 12.5 ms, before 3 did.
    assert stream.expire(25 * MS - 1) == 0
    assert stream.again(25 * MS) == [0]
    assert stream.window.slots[0]["retries"] == 2
    assert stream.times["lost"] == 2


def test_what_left_before_is_not_overtaken_by_the_answer_to_an_old_packet() -> None:
    stream = Stream(4)
    stream.send(0, 2)
    stream.send(1 * MS)
    stream.answer(10 * MS, 0)
    for now in range(10, 29):
        assert stream.expire(now * MS) == 0


# Silence


def test_nothing_is_sent_again_before_its_time() -> None:
    stream = Stream(4)
    assert stream.times["next_expiry"] == NEVER
    stream.send(5 * MS)
    assert stream.times["next_expiry"] == 105 * MS
    assert stream.expire(105 * MS - 1) == 0
    assert stream.states() == [SENT] * 4


def test_silence_is_probed_with_the_lowest_position_only() -> None:
    stream = Stream(8)
    stream.send(0)
    stream.answer(0, *range(6))
    stream.send(0)
    stream.expire(0)
    assert stream.again(1000 * MS) == [6], "by position and not by slot: slot 0 has gone on to 8"
    assert stream.states() == [SENT] * 8


def test_probes_in_silence_double_their_distance_up_to_the_ceiling() -> None:
    stream = Stream(8)
    stream.send(0)
    times: list[int] = []
    for now in range(3600):
        if sent := stream.again(now * MS):
            assert sent == [0]
            times.append(now)
    assert times == [100, 300, 700, 1500, 2500, 3500]


def test_with_a_known_round_trip_silence_is_noticed_after_two_of_them() -> None:
    stream = Stream(4)
    for _ in range(40):
        estimate(stream.recovery, 20 * MS)
    stream.send(0)
    stream.answer(20 * MS, 0)
    stream.expire(20 * MS)
    patience = int(stream.times["next_expiry"]) - 20 * MS
    assert patience == 40 * MS
    assert stream.expire(60 * MS - 1) == 0
    assert stream.again(60 * MS) == [1]


def test_an_answered_probe_is_followed_soon_by_twice_as_many_while_nothing_else_comes() -> None:
    stream = Stream(256)
    stream.send(0)
    assert stream.answer(10 * MS, 0) == [10 * MS]
    stream.expire(10 * MS)
    now, counts = 40, []  # silence: srtt + 4 rttvar = 30 ms
    assert stream.expire(now * MS - 1) == 0
    while sent := stream.again(now * MS):
        counts.append(len(sent))
        stream.answer((now + 10) * MS, *sent)
        assert stream.expire((now + 10) * MS) == 0
        # From now on two of the shortest round trips are enough.
        assert stream.expire((now + 30) * MS - 1) == 0
        now += 30
        assert now < 1000
    assert counts == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert stream.window.stream[0]["lowest"] == 256


def test_a_result_of_a_packet_sent_once_ends_the_haste() -> None:
    stream = Stream(16)
    stream.send(0)
    stream.answer(10 * MS, 0)
    stream.expire(10 * MS)
    assert stream.again(40 * MS) == [1]
    stream.answer(50 * MS, 1)
    stream.expire(50 * MS)
    assert stream.again(70 * MS) == [2, 3]
    assert stream.send(70 * MS) == [16, 17]
    stream.answer(80 * MS, 2, 16)
    assert (stream.times["probes"], stream.times["eager"]) == (1, 0)
    # srtt = 10 ms; rttvar = 5 * 3/4 = 3.75 ms; 4 .. 15 are overtaken, 3 is not yet late by 12.5 ms.
    assert stream.again(80 * MS) == list(range(4, 16))
    assert stream.again(82_500_000) == [3]


def test_a_hasty_probe_without_answer_gives_up_its_haste() -> None:
    stream = Stream(16)
    stream.send(0)
    stream.answer(10 * MS, 0)
    stream.expire(10 * MS)
    stream.again(40 * MS)
    stream.answer(50 * MS, 1)
    stream.expire(50 * MS)
    times: list[tuple[int, int]] = []
    for now in range(51, 500):
        if sent := stream.again(now * MS):
            assert sent[0] == 2
            times.append((now, len(sent)))
    # 20 ms after the answer and 40 ms after that; then one, after 30 ms times 4 and times 8.
    assert times == [(70, 2), (110, 2), (230, 1), (470, 1)]


def test_something_moving_ends_the_probing() -> None:
    stream = Stream(8)
    stream.send(0)
    for now in (100, 300):
        assert stream.again(now * MS) == [0]
    assert stream.times["backoff"] == 2
    stream.answer(301 * MS, 1)
    assert stream.send(301 * MS) == [9]
    stream.expire(301 * MS)
    assert stream.times["backoff"] == 0


def test_a_late_result_of_a_packet_queued_again_saves_sending_it() -> None:
    stream = Stream(4, chunks=3)
    stream.send(0)
    assert stream.expire(100 * MS) == 1
    stream.answer(100 * MS, 0, 1, 2, 3)
    assert stream.send(100 * MS) == []


@pytest.mark.parametrize("now", [100 * MS, 10_000 * MS])
def test_what_was_never_sent_is_not_sent_again(now: int) -> None:
    stream = Stream(4)
    stream.send(0, 1)
    assert stream.expire(now) == 1
    assert stream.states() == [RESEND, READY, READY, READY]


def test_retries_start_anew_with_the_next_position() -> None:
    stream = Stream(1)
    stream.send(0)
    assert stream.again(100 * MS) == [0]
    stream.answer(101 * MS, 0)
    assert stream.send(200 * MS) == [1]
    assert stream.retries() == 0


# A late rank


def test_answers_that_only_the_late_rank_brought_teach_patience() -> None:
    stream = Stream(1, floor=10 * MS)
    # To a probe's own answer belong two round trips of 1 ms.
    late = [2 * MS + 1] * 6 + [2 * MS] * 5
    patience = []
    for step, answered in enumerate(late):
        now = 1000 * step * MS
        stream.send(now)
        stream.answer(now + 1 * MS, 2 * step)
        stream.send(now + 500 * MS)
        stream.expire(now + 500 * MS)
        silence = int(stream.times["next_expiry"]) - now - 500 * MS
        patience.append(silence / MS)
        assert stream.again(now + 500 * MS + silence) == [2 * step + 1]
        stream.answer(now + 500 * MS + silence + answered, 2 * step + 1)
    assert patience == [10, 20, 40, 80, 160, 200, 200, 100, 50, 25, 12.5]


def test_packets_that_left_before_a_silence_ended_tell_nothing_of_the_path() -> None:
    stream = Stream(4)
    stream.send(0)
    assert stream.answer(10 * MS, 0) == [10 * MS]
    stream.send(11 * MS)
    # Up to two round trips and a millisecond a queue may explain; what comes later a late rank held up.
    assert stream.answer(31 * MS, 1) == [31 * MS]
    stream.send(32 * MS)
    assert stream.answer((31 + 63) * MS + 1, 2, 3, 4) == [0, 0, 0]
    stream.send(95 * MS)
    assert stream.times["round_trip"] == 31 * MS
    assert stream.answer(100 * MS, 5, 6) == [0, 5 * MS], "5 left before, 6 after"
    assert stream.times["round_trip"] == 5 * MS


def test_round_trips_that_have_grown_for_good_are_learned() -> None:
    """Each burst then comes back after a silence; were none of them to count, nothing would ever be known again."""
    stream = Stream(4)
    now, known = 0, []
    for round_trip in (1, 1, 40, 40, 40):
        stream.send(now * MS)
        now += round_trip
        waiting = stream.window.slots[stream.window.slots["state"] == SENT]
        stream.answer(now * MS, *sorted(int(position) for position in waiting["position"]))
        known.append(int(stream.times["round_trip"]) // MS)
    assert known == [1, 1, 1, 40, 40]


def test_a_pause_of_the_program_is_no_silence() -> None:
    stream = Stream(2)
    for step in range(4):
        stream.send(1000 * step * MS)
        assert stream.answer((1000 * step + 2) * MS, 2 * step, 2 * step + 1) == [2 * MS, 2 * MS]


def test_a_late_rank_makes_nobody_send_more_than_single_probes() -> None:
    stream = Stream(16, floor=10 * MS)
    stream.send(0)
    assert set(stream.answer(1 * MS, *range(16))) == {1 * MS}
    stream.send(1 * MS)
    probes = {now: sent for now in range(1, 301) if (sent := stream.again(now * MS))}
    # 10 ms of silence, then twice, four and eight times as long.
    assert probes == {11: [16], 31: [16], 71: [16], 151: [16]}
    # Half of the results come, then the rest: they are 299 ms old, and none was overtaken.
    assert stream.answer(300 * MS, *range(16, 24)) == [0] * 8
    assert stream.expire(300 * MS) == 0
    assert stream.answer(300 * MS + 1, *range(24, 32)) == [0] * 8
    assert stream.expire(300 * MS + 1) == 0
    assert stream.times["lost"] == 0
    assert (stream.times["round_trip"], stream.times["srtt"]) == (1 * MS, 1 * MS), (
        "the wait was no round trip"
    )
    assert stream.times["quiet"] == 20 * MS
