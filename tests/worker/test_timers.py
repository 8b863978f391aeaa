"""When packets are sent again, with numbers computed by hand from RFC 6298 and RFC 8985; times in nanoseconds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from switchml.worker.recovery import (
    begin_result,
    estimate,
    expire,
    new_recovery,
    note_answer,
    note_duplicate,
    note_result,
    packet_sent,
)
from switchml.worker.window import (
    ASKING,
    READY,
    RESEND,
    SENT,
    WORDS,
    advance,
    lay,
    mark_asked,
    mark_sent,
    new_window,
    next_question,
    next_ready,
)

NEVER = np.iinfo(np.int64).max
MS = 1_000_000


LENGTH = 100


class Stream:
    """A stream of one transfer; without a sample 100 ms of silence are a loss, with one at least `quiet`."""

    def __init__(self, width: int = 8, chunks: int = 10_000, quiet: int = 1 * MS) -> None:
        self.window = new_window(rank=0, workers=2, window=width, elements=4)
        self.window.transfers[0]["kind"], self.window.transfers[0]["chunks"] = WORDS, chunks
        self.window.stream[0]["queued"] = 1
        lay(self.window)
        self.recovery = new_recovery(first=100 * MS, quiet=quiet, ceiling=1000 * MS)

    @property
    def times(self) -> np.void:
        entry: np.void = self.recovery[0]  # type: ignore[assignment]
        return entry

    def slot(self, position: int) -> int:
        slot = position % self.window.slots.size
        assert self.window.slots[slot]["position"] == position
        return slot

    def send(self, now: int, most: int = 1 << 20) -> list[int]:
        """Send what is ready; the positions."""
        positions: list[int] = []
        while len(positions) < most and (slot := next_ready(self.window)) >= 0:
            mark_sent(self.window, slot, now, LENGTH)
            packet_sent(self.recovery, self.window, slot, now)
            positions.append(int(self.window.slots[slot]["position"]))
        return positions

    def answer(self, now: int, *positions: int, asked_for: bool = False) -> list[int]:
        """Results come together; their round trips."""
        samples = []
        for position in positions:
            begin_result(self.recovery, now)
            samples.append(note_result(self.recovery, self.window, self.slot(position), asked_for, now))
            advance(self.window, self.slot(position), 0)
        if max(samples) > 0:
            estimate(self.recovery, max(samples))
        return samples

    def tell(self, now: int, *positions: int, come: bool) -> None:
        """The switch answers questions without a result."""
        for position in positions:
            note_answer(self.recovery, self.window, self.slot(position), come, now)

    def expire(self, now: int) -> int:
        return expire(self.recovery, self.window, now)

    def asks(self, now: int) -> list[int]:
        """Positions that the switch is asked about, in order; and nothing is sent again."""
        count, positions = self.expire(now), []
        while (slot := next_question(self.window)) >= 0:
            mark_asked(self.window, slot, now)
            positions.append(int(self.window.slots[slot]["position"]))
        assert count == len(positions)
        return sorted(positions)

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
    stream = Stream(2, quiet=70 * MS)
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
    assert stream.asks(100 * MS) == [0, 1]
    stream.tell(101 * MS, 0, come=False)
    assert stream.times["srtt"] == 1 * MS, "the question has a round trip of its own"
    assert stream.send(101 * MS) == [0]
    assert stream.answer(103 * MS, 0) == [0]
    # Between being found lost and being sent again the result may still come: ambiguous as well.
    stream.tell(103 * MS, 1, come=False)
    assert stream.states() == [READY, RESEND]
    assert stream.answer(104 * MS, 1) == [0]
    assert stream.send(104 * MS) == [2, 3]
    assert stream.answer(106 * MS, 2) == [2 * MS], "slot 0 has gone on to a packet sent once"


def test_a_question_asked_twice_teaches_nothing() -> None:
    stream = Stream(1)
    stream.send(0)
    assert stream.asks(100 * MS) == [0]
    stream.times["unanswered"] = -1  # others have been answered
    assert stream.asks(300 * MS) == [0]
    stream.tell(301 * MS, 0, come=True)
    assert stream.times["srtt"] == 0


def test_a_late_result_that_answers_no_question_has_its_own_round_trip() -> None:
    """On a path of more than the first patience all is asked for before it can have come."""
    stream = Stream(4)
    stream.send(0)
    assert stream.asks(100 * MS) == [0, 1, 2, 3]
    assert stream.answer(200 * MS, 0, 1, 2, 3) == [200 * MS] * 4
    assert stream.times["lost"] == 0


# Overtaken


def test_what_is_overtaken_is_asked_for_once_it_is_late_by_a_round_trip_and_a_quarter() -> None:
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
    assert stream.states() == [ASKING, SENT, READY, SENT]
    assert stream.times["next_expiry"] == 13_500_000
    assert stream.expire(13_499_999) == 0
    assert stream.expire(13_500_000) == 1
    assert stream.states() == [ASKING, ASKING, READY, SENT], "3 left after 2: nothing overtook it"
    # 3 is left to the silence: 10 + 4 * 5 ms after the result.
    assert stream.times["next_expiry"] == 42 * MS


def test_any_number_may_overtake_while_there_is_time() -> None:
    stream = Stream(64)
    stream.send(0)
    stream.answer(10 * MS, *range(1, 64))
    assert stream.expire(10 * MS) == 0, "63 overtook it: by counting three it would be missing"
    stream.answer(12_400_000, 0)
    assert stream.expire(12_500_000) == 0
    assert stream.window.stream[0]["asking"] == 0


def test_the_mean_round_trip_counts_where_it_is_longer() -> None:
    stream = Stream(2)
    estimate(stream.recovery, 40 * MS)
    stream.send(0)
    stream.answer(8 * MS, 1)
    # srtt = 7/8 * 40 + 1/8 * 8 = 36 ms, and a quarter of it.
    assert stream.expire(8 * MS) == 0
    assert stream.times["next_overtaken"] == 45 * MS
    assert stream.expire(45 * MS) == 1


def test_what_has_not_come_is_sent_again_and_counts_as_lost() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    assert stream.asks(12_500_000) == [0]
    stream.tell(15 * MS, 0, come=False)
    assert stream.states() == [RESEND, READY]
    assert stream.times["lost"] == LENGTH
    # Lowest first. It can be overtaken once more, by what left after it.
    assert stream.send(15 * MS) == [0, 3]
    stream.answer(20 * MS, 3)
    late = max(int(stream.times["srtt"]), int(stream.times["round_trip"])) * 5 // 4
    assert stream.asks(15 * MS + late - 1) == []
    assert stream.asks(15 * MS + late) == [0]
    stream.tell(45 * MS, 0, come=False)
    stream.send(45 * MS)
    assert stream.window.slots[0]["retries"] == 2
    assert stream.times["lost"] == 2 * LENGTH


def test_what_has_come_fills_no_link_and_is_asked_for_ever_more_rarely() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    asked = []
    assert stream.window.stream[0]["bytes_in_flight"] == LENGTH
    for now in range(12, 1000):
        if stream.asks(now * MS) == [0]:
            asked.append(now)
            stream.tell(now * MS, 0, come=True)
            assert stream.window.stream[0]["bytes_in_flight"] == 0
    # 12.5 ms after it left, then as long, twice and four times as long; silences are asked about as well.
    assert asked[0] == 13
    assert all(later - before >= 12 for before, later in pairwise(asked))
    assert len(asked) < 20
    assert (stream.times["lost"], stream.retries()) == (0, 0)
    assert stream.answer(1000 * MS, 0) == [0], "another rank was waited for"


def test_an_answer_that_was_overtaken_is_lost_and_asked_for_again_soon() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    assert stream.asks(12_500_000) == [0]
    stream.tell(13 * MS, 0, come=False)
    assert stream.send(13 * MS) == [0, 3]
    stream.answer(23 * MS, 3)
    assert stream.asks(25_500_000) == [0]
    assert stream.times["lost"] == LENGTH
    # Each time a packet that left after the question has its result. Again after 12.5 ms, then twice as long and no longer.
    for lost, (now, position) in enumerate([(38 * MS, 5), (63 * MS, 7), (88 * MS, 9), (113 * MS, 11)], 2):
        assert stream.send(now - 12 * MS) == [position]
        stream.answer(now - 2 * MS, position)
        assert stream.asks(now - 1) == []
        assert stream.asks(now) == [0]
        assert stream.times["lost"] == lost * LENGTH


def test_lost_answers_make_no_longer_pauses_once_the_switch_says_that_it_has_come() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    stream.tell(10 * MS, 0, come=False)  # this switch answers
    assert stream.asks(12_500_000) == [0]
    for now, position in [(25, 3), (50, 5), (75, 7), (100, 9)]:
        assert stream.send((now - 12) * MS) == [position]
        stream.answer((now - 2) * MS, position)
        assert stream.asks(now * MS) == [0]
    stream.tell(101 * MS, 0, come=True)
    known = int(stream.times["srtt"])
    stream.tell(102 * MS, 0, come=True)
    assert stream.times["srtt"] == known, "an earlier question's answer is no round trip of the last"
    # As after a first question that was answered: 12.5 ms, then twice as long.
    assert stream.send(101 * MS) == [11]
    stream.answer(111 * MS, 11)
    assert stream.asks(112_500_000 - 1) == []
    assert stream.asks(112_500_000) == [0]
    assert stream.send(113 * MS) == [13]
    stream.tell(113 * MS, 0, come=True)
    stream.answer(123 * MS, 13)
    assert stream.asks(137_500_000 - 1) == []
    assert stream.asks(137_500_000) == [0]


def test_a_result_that_answers_a_question_was_lost_unless_the_other_comes_as_well() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    assert stream.asks(12_500_000) == [0]
    assert stream.answer(13 * MS, 0, asked_for=True) == [0]
    assert stream.times["lost"] == LENGTH
    note_duplicate(stream.recovery)
    assert stream.times["lost"] == 0
    note_duplicate(stream.recovery)
    assert stream.times["lost"] == 0


def test_what_left_before_losses_had_their_effect_does_not_count() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.window.stream[0]["forgiven"] = 2
    stream.answer(10 * MS, 1)
    assert stream.asks(12_500_000) == [0]
    stream.tell(13 * MS, 0, come=False)
    assert stream.states()[0] == RESEND
    assert stream.times["lost"] == 0


def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    stream = Stream(2)
    stream.send(0)
    stream.answer(10 * MS, 1)
    assert stream.asks(12_500_000) == [0]
    stream.tell(13 * MS, 0, come=False)
    stream.tell(13 * MS, 0, come=False)
    assert stream.window.stream[0]["in_flight"] == 0
    assert stream.send(14 * MS) == [0, 3]
    stream.tell(15 * MS, 0, come=False)
    assert stream.states() == [SENT, SENT], "it was sent again meanwhile, and not asked for since then"
    assert stream.times["lost"] == LENGTH


# Silence


def test_nothing_is_asked_for_before_its_time() -> None:
    stream = Stream(4)
    assert stream.times["next_expiry"] == NEVER
    stream.send(5 * MS)
    assert stream.times["next_expiry"] == 105 * MS
    assert stream.expire(105 * MS - 1) == 0
    assert stream.states() == [SENT] * 4


def test_in_a_silence_the_switch_is_asked_for_the_four_lowest_positions() -> None:
    stream = Stream(8)
    stream.send(0)
    stream.answer(0, *range(6))
    stream.send(0)
    stream.expire(0)
    assert stream.asks(1000 * MS) == [6, 7, 8, 9], "by position and not by slot: slot 0 has gone on to 8"
    assert stream.states() == [SENT] * 8


def test_with_a_known_round_trip_silence_is_noticed_after_two_of_them() -> None:
    stream = Stream(4)
    for _ in range(40):
        estimate(stream.recovery, 20 * MS)
    stream.send(0)
    stream.answer(20 * MS, 0)
    stream.expire(20 * MS)
    assert stream.times["next_expiry"] - 20 * MS == 40 * MS
    assert stream.asks(60 * MS - 1) == []
    assert stream.asks(60 * MS) == [1, 2, 3]


def test_two_more_are_asked_for_with_each_that_is_missing() -> None:
    """So what is missing of a window is found in as many round trips as TCP's slow start takes."""
    stream = Stream(256)
    stream.send(0)
    counts, asked = [], stream.asks(100 * MS)
    now = 100
    while asked:
        counts.append(len(asked))
        now += 1
        stream.tell(now * MS, *asked, come=False)
        asked = stream.asks(now * MS)
    assert counts == [4, 8, 16, 32, 64, 128, 4]
    assert stream.send(now * MS) == list(range(256))


def test_results_that_were_lost_are_asked_for_as_quickly() -> None:
    stream = Stream(64, chunks=63)
    stream.send(0)
    counts, asked = [], stream.asks(100 * MS)
    now = 100
    while asked:
        counts.append(len(asked))
        now += 1
        stream.answer(now * MS, *asked, asked_for=True)
        asked = stream.asks(now * MS)
    assert counts == [4, 8, 16, 32, 4]
    assert stream.window.stream[0]["finished"] == 1
    assert stream.retries() == 0


def test_no_more_is_asked_for_where_all_has_come() -> None:
    stream = Stream(16, quiet=10 * MS)
    stream.send(0)
    assert set(stream.answer(1 * MS, *range(16))) == {1 * MS}
    stream.send(1 * MS)
    questions = {}
    for now in range(1, 301):
        if asked := stream.asks(now * MS):
            questions[now] = asked
            stream.tell(now * MS, *asked, come=True)
    # A rank is late. 10 ms of silence, then twice, four and eight times as long.
    assert questions == {now: [16, 17, 18, 19] for now in (11, 31, 71, 151)}
    # Half of the results come, then the rest: they are 299 ms old, and none was overtaken.
    assert stream.answer(300 * MS, *range(16, 24)) == [0] * 8
    assert stream.expire(300 * MS) == 0
    assert stream.answer(300 * MS + 1, *range(24, 32)) == [0] * 8
    assert stream.expire(300 * MS + 1) == 0
    assert (stream.times["lost"], stream.retries()) == (0, 0)
    assert stream.times["round_trip"] <= 1 * MS, "the wait was no round trip"


def test_questions_in_silence_double_their_distance_up_to_the_ceiling() -> None:
    stream = Stream(1)
    stream.send(0)
    stream.times["unanswered"] = -1 << 40  # this switch answers, but now something is cut
    times = [now for now in range(3600) if stream.asks(now * MS)]
    assert times == [100, 300, 700, 1500, 2500, 3500]


def test_something_moving_ends_the_distance() -> None:
    stream = Stream(8)
    stream.send(0)
    stream.times["unanswered"] = -1 << 40
    for now in (100, 300):
        assert stream.asks(now * MS) == [0, 1, 2, 3]
    assert stream.times["backoff"] == 2
    stream.answer(301 * MS, 4)
    assert stream.send(301 * MS) == [12]
    stream.expire(301 * MS)
    assert stream.times["backoff"] == 0


def test_a_switch_that_answers_no_question_is_soon_asked_none() -> None:
    stream = Stream(8)
    stream.send(0)
    again, asked = [], []
    for now in range(100_000):
        count = stream.expire(now * MS)
        questions = 0
        while (slot := next_question(stream.window)) >= 0:
            mark_asked(stream.window, slot, now * MS)
            questions += 1
        sent = stream.send(now * MS)
        assert len(sent) + questions == count
        if count:
            again.append(sent)
            asked.append(questions)
    assert asked[0] == 4
    assert again[1] == [0, 1, 2, 3], "none of these was answered"
    assert sum(asked) == 16
    assert again[-1] == [0], "in the end the lowest alone, as a late rank looks the same"
    assert sum(asked[8:]) == 0


def test_a_late_result_of_a_packet_queued_again_saves_sending_it() -> None:
    stream = Stream(4, chunks=3)
    stream.send(0)
    assert stream.asks(100 * MS) == [0, 1, 2, 3]
    stream.tell(100 * MS, 0, come=False)
    stream.answer(100 * MS, 0, 1, 2, 3)
    assert stream.send(100 * MS) == []


@pytest.mark.parametrize("now", [100 * MS, 10_000 * MS])
def test_what_was_never_sent_is_not_asked_for(now: int) -> None:
    stream = Stream(4)
    stream.send(0, 1)
    assert stream.expire(now) == 1
    assert stream.states() == [ASKING, READY, READY, READY]


def test_retries_start_anew_with_the_next_position() -> None:
    stream = Stream(1)
    stream.send(0)
    assert stream.asks(100 * MS) == [0]
    stream.tell(101 * MS, 0, come=False)
    assert stream.send(101 * MS) == [0]
    assert stream.retries() == 1
    stream.answer(102 * MS, 0)
    assert stream.send(200 * MS) == [1]
    assert stream.retries() == 0


# A late rank


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


def test_results_that_were_overtaken_tell_nothing_of_the_path() -> None:
    """Another rank had lost its packet: the time until it has sent it again is no round trip of ours."""
    stream = Stream(4)
    stream.send(0)
    assert stream.answer(10 * MS, 1, 2, 3) == [10 * MS] * 3
    assert stream.answer(12 * MS, 0) == [0]
    assert stream.times["round_trip"] == 10 * MS


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


def test_silences_in_which_the_switch_says_that_others_are_missing_are_not_learned() -> None:
    stream = Stream(4)
    now = 0
    for round_trip in (1, 1, 40, 40, 40):
        stream.send(now * MS)
        stream.expire(now * MS)
        if round_trip > 1:
            asked = stream.asks((now + 20) * MS)
            assert len(asked) == 4
            stream.tell((now + 21) * MS, *asked, come=True)
        now += round_trip
        waiting = stream.window.slots[stream.window.slots["state"] == SENT]
        stream.answer(now * MS, *sorted(int(position) for position in waiting["position"]))
    assert stream.times["round_trip"] == 1 * MS


def test_a_pause_of_the_program_is_no_silence() -> None:
    stream = Stream(2)
    for step in range(4):
        stream.send(1000 * step * MS)
        assert stream.answer((1000 * step + 2) * MS, 2 * step, 2 * step + 1) == [2 * MS, 2 * MS]
