"""The congestion window with numbers computed by hand: packets of 1000 bytes on the wire, times in nanoseconds."""

from __future__ import annotations

from typing import Any

import pytest

from switchml.worker.congestion import (
    end_results,
    new_congestion,
    next_leave,
    note_result,
    note_sent,
    note_stall,
    room,
)
from switchml.worker.window import FRAMING, WORDS, advance, lay, mark_sent, new_window, next_ready

MS = 1_000_000
PACKET = 1000
PAYLOAD = PACKET - FRAMING


class Path:
    """A stream with no end of packets, and the window of its path."""

    def __init__(self, slots: int = 4096, **options: Any) -> None:
        self.window = new_window(rank=0, workers=2, window=slots, elements=4)
        self.window.transfers[0]["kind"], self.window.transfers[0]["chunks"] = WORDS, 1 << 40
        self.window.stream[0]["queued"] = 1
        lay(self.window)
        self.congestion = new_congestion(packet=PAYLOAD, slots=slots, **options)
        self.state: Any = self.congestion[0]
        self.lost = 0
        self.position = 0

    def send(self, count: int, now: int, length: int = PACKET) -> None:
        for _ in range(count):
            slot = next_ready(self.window)
            mark_sent(self.window, slot, now, length)
            note_sent(self.congestion, self.window, length, now)

    def answer(self, count: int, sample: int, now: int, lost: int = 0, moved: int = PACKET) -> None:
        """Results of the lowest packets come together, after so many were found lost."""
        self.lost += lost * PACKET
        for _ in range(count):
            slot = self.position % self.window.slots.size
            note_result(self.congestion, self.window, slot, sample, moved, now)
            advance(self.window, slot, 0)
            self.position += 1
        end_results(self.congestion, self.window, self.lost, now)

    def round(self, count: int, sample: int, now: int, lost: int = 0) -> None:
        """`count` packets leave at `now` and are answered together; `lost` more were found lost before."""
        self.send(count, now)
        self.answer(count, sample, now + sample, lost)

    def packets(self, name: str) -> float:
        return float(self.state[name]) / PACKET

    def at_rest(self, backlog: int) -> None:
        """As long after a start, with so many packets of backlog and of ceiling."""
        self.state["starting"], self.state["retry_at"] = 0, 1 << 60
        self.state["backlog"], self.state["ceiling"] = backlog * PACKET, backlog * PACKET


def test_it_begins_with_32_packets_of_which_half_may_wait() -> None:
    path = Path()
    assert room(path.congestion, 0) == 32 * PACKET
    assert (path.packets("backlog"), path.packets("ceiling"), path.packets("most")) == (16, 96, 4096)


def test_no_more_than_the_slots_are_in_flight() -> None:
    path = Path(slots=8)
    assert room(path.congestion, 0) == 8 * PACKET
    for step in range(5):
        path.round(8, 10 * MS, 10 * MS * step)
    assert path.packets("window") == 8


def test_each_round_sets_the_window_as_fast_tcp_does() -> None:
    path = Path()
    path.at_rest(16)
    path.state["ceiling"] = 96 * PACKET
    # 32 packets without a queue: the backlog grows by an eighth, and the window by the backlog.
    path.round(32, 10 * MS, 0)
    assert (path.packets("backlog"), path.packets("window")) == (18, 50)
    # 50 packets in 20 ms where 10 would do: half of them waited. 50 * 10 / 20 + 18 * 9/8.
    path.round(50, 20 * MS, 20 * MS)
    assert (path.packets("backlog"), path.packets("window")) == (20.25, 45.25)


def test_the_backlog_doubles_until_something_waits() -> None:
    path = Path()
    path.round(32, 10 * MS, 0)
    assert (path.packets("backlog"), path.packets("window")) == (32, 64)
    # 64 in 10.1 ms: about 0.6 of a packet waited, which is not yet half the backlog.
    path.round(64, 10_100_000, 20 * MS)
    assert path.packets("backlog") == 64
    assert path.state["starting"] == 1
    # 127 in 20 ms: 63.7 waited. From now on an eighth at a time.
    window = path.packets("window")
    path.round(128, 20 * MS, 40 * MS)
    assert path.state["starting"] == 0
    assert path.packets("backlog") == 72
    assert path.packets("window") == pytest.approx(window / 2 + 72, abs=0.01)


def test_a_round_ends_with_what_left_after_it_began() -> None:
    path = Path()
    path.at_rest(16)
    path.state["starting"] = 1  # a pause begins no round then
    path.round(1, 10 * MS, 0)
    path.send(64, 20 * MS)
    path.answer(16, 11 * MS, 31 * MS)
    # The first of them ends the round; the next begins with 65 sent and 48 in flight, whose last 12 left late.
    assert (path.state["round_end"], path.state["round_late"]) == (65, 65 - 12)
    path.answer(40, 30 * MS, 50 * MS)
    assert path.state["round_best"] == 30 * MS, "8 of these 40 left late in the round"
    path.send(10, 50 * MS)
    path.answer(8, 40 * MS, 60 * MS)
    assert path.state["round_trip"] == 11 * MS
    path.answer(1, 12 * MS, 62 * MS)
    assert path.state["round_trip"] == 12 * MS, "the shortest of those that left late"
    assert path.state["round_end"] == 75


def test_the_window_stays_while_it_is_not_used_up() -> None:
    path = Path()
    path.at_rest(16)
    path.round(32, 10 * MS, 0)
    before = path.state["window"]
    for step in range(1, 6):
        path.round(20, 10 * MS, 20 * MS * step)
    assert path.state["window"] == before


def test_short_packets_and_ambiguous_ones_are_no_measure_of_the_queue() -> None:
    path = Path()
    path.send(40, 0, length=100)
    path.answer(40, 5 * MS, 5 * MS)
    path.send(40, 10 * MS)
    path.answer(40, 0, 20 * MS)
    assert (path.state["round_trip"], path.packets("window")) == (0, 32)
    path.round(32, 10 * MS, 30 * MS)
    assert path.state["round_trip"] == 10 * MS


def test_where_packets_are_dropped_the_window_is_what_came_through_and_the_backlog() -> None:
    path = Path()
    path.at_rest(16)
    path.round(32, 10 * MS, 0)
    path.state["window"] = 200 * PACKET
    # The window was used up, and 39 came back, at a round trip that shows no queue.
    path.send(1, 20 * MS)
    path.state["full"] = 1
    path.round(39, 10 * MS, 20 * MS)
    assert path.packets("window") == 39 + 16


def _link(path: Path, rate: int, shortest: int, rounds: int) -> list[int]:
    """The window's packets round by round on a link of so many bytes a second, where only its queue delays."""
    path.round(1, shortest, 0)
    windows, now = [], shortest
    for _ in range(rounds):
        count = -(-int(path.state["window"]) // PACKET)
        sample = max(shortest, count * PACKET * 1_000_000_000 // rate)
        path.round(count, sample, now)
        now += sample
        windows.append(int(path.state["window"]) // PACKET)
    return windows


@pytest.mark.parametrize(
    ("rate", "shortest", "expected"),
    [
        (12_500_000, 200_000, 2 + 125),  # 100 Mbit/s: 2.5 packets on the way, and as much as 10 ms bring
        (12_500_000, 20 * MS, 250 + 125),
        (1_250_000, 200_000, 96),  # 10 Mbit/s: 10 ms bring 12 packets; 96 may wait anyway
        (125_000_000, 1 * MS, 125 + 1024),  # 1 Gbit/s: 10 ms bring 1250; 1024 are the most
    ],
)
def test_at_rest_the_backlog_stands_in_the_queue(rate: int, shortest: int, expected: int) -> None:
    windows = _link(Path(), rate, shortest, 60)
    assert windows[-1] == windows[-2]
    assert windows[-1] == pytest.approx(expected, abs=3)


def test_a_path_that_seems_longer_is_looked_at_without_a_queue() -> None:
    path = Path()
    path.at_rest(16)
    path.round(32, 10 * MS, 0)
    for second in range(1, 20):
        path.round(32, 30 * MS, 1000 * second * MS)
        assert path.state["drained"] == 0, "the first was seen in the ten seconds that ended last"
    before = path.state["window"]
    path.round(32, 30 * MS, 20_200 * MS)
    # No round trip of ten seconds was as short as the first: there may be a queue that never empties.
    assert (path.packets("window"), path.state["drained"]) == (4, before)
    path.send(4, 20_300 * MS)
    path.answer(1, 12 * MS, 20_312 * MS)
    assert (path.state["window"], path.state["drained"]) == (before, 0)
    assert path.state["shortest"] == 12 * MS
    # Nothing of the kind while short ones are seen.
    for second in range(21, 42):
        path.round(32, 12 * MS, 1000 * second * MS)
        assert path.state["drained"] == 0


def test_the_rate_is_what_came_in_twenty_milliseconds_and_a_silence_does_not_count() -> None:
    path = Path()
    path.send(200, 0)
    path.answer(50, 10 * MS, 10 * MS)
    assert path.state["rate"] == 0
    path.answer(50, 25 * MS, 25 * MS)
    assert (path.state["rate"], path.state["fastest"]) == (4_000_000, 4_000_000)  # 100 kB in 25 ms
    note_stall(path.congestion, 1000 * MS)
    path.answer(50, 0, 1000 * MS)
    assert path.state["rate"] == 4_000_000
    path.answer(10, 0, 1025 * MS)
    assert (path.state["rate"], path.state["fastest"]) == (2_400_000, 4_000_000)  # 60 kB in 25 ms


def test_chunks_of_which_nobody_gave_elements_are_no_rate_but_room() -> None:
    path = Path()
    path.send(32, 0)
    path.answer(32, 25 * MS, 25 * MS, moved=100)
    assert path.state["rate"] == 128_000  # 3.2 kB in 25 ms
    assert path.packets("window") == 64, "elements could have come"


# Losses


def _trial(lost: int = 16, backlog: int = 96) -> Path:
    """A path of 96 packets of backlog after 16 of 144 were lost: a trial goes on."""
    path = Path()
    path.at_rest(backlog)
    path.state["window"] = 128 * PACKET
    path.round(1, 10 * MS, 0)
    path.round(127, 10 * MS, 10 * MS, lost=lost)
    return path


def test_a_little_loss_is_nothing_to_look_into() -> None:
    # 19 of 1045 are 18 of 1024, and 20 are tolerated.
    path = Path()
    path.at_rest(96)
    path.round(1, 10 * MS, 0)
    path.round(1025, 10 * MS, 10 * MS, lost=19)
    assert (path.state["trial_share"], path.state["heard"], path.packets("backlog")) == (0, 0, 96)


def test_seven_lost_ones_of_a_few_hundred_tell_nothing_yet() -> None:
    path = _trial(lost=7)
    assert (path.state["trial_share"], path.packets("heard"), path.packets("lost")) == (0, 128, 7)
    path.round(8, 10 * MS, 20 * MS, lost=1)
    assert path.state["trial_share"] == 1024 * 8 // 144


def test_much_loss_begins_a_trial_with_three_quarters() -> None:
    path = _trial()
    assert path.state["trial_share"] == 1024 * 16 // 144 == 113
    assert (path.packets("backlog"), path.packets("ceiling")) == (72, 72)
    assert path.window.stream[0]["forgiven"] == 128, "what had left before does not count again"


def test_very_much_loss_begins_it_with_half() -> None:
    path = _trial(lost=19)
    assert path.state["trial_share"] == 1024 * 19 // 147 == 132
    assert path.packets("backlog") == 48


def test_losses_that_go_with_the_backlog_were_ours() -> None:
    path = _trial()
    path.round(1024, 10 * MS, 20 * MS, lost=7)
    # 7 of 1031 are 6 of 1024: less than a quarter of 113.
    assert (path.packets("backlog"), path.packets("ceiling")) == (72, 72)
    assert path.state["trial_share"] == 0
    path.round(128, 10 * MS, 50 * MS)
    assert path.packets("backlog") == 72, "it does not grow above the ceiling"


def _lossy_rounds(path: Path, now: int, lost: int) -> list[float]:
    """Backlogs of a trial whose losses stay."""
    backlogs = []
    while path.state["trial_share"] > 0:
        path.round(128, 10 * MS, now, lost=lost)
        backlogs.append(path.packets("backlog"))
        now += 10 * MS
    return backlogs


def test_losses_that_stay_at_a_quarter_are_the_path_s_own() -> None:
    path = _trial()
    assert _lossy_rounds(path, 20 * MS, lost=16) == [54, 40.5, 30.375, 22.781, 96], "in the end as before"
    assert path.packets("ceiling") == 96
    assert path.state["tolerated"] == 2 * 113
    path.round(128, 10 * MS, 140 * MS, lost=16)
    assert path.state["trial_share"] == 0, "as much is no reason for another trial"
    path.round(128, 10 * MS, 150 * MS, lost=64)
    assert path.state["trial_share"] > 0, "64 of 192 are"


def test_very_many_are_tried_down_to_four_packets() -> None:
    path = _trial(lost=64)
    assert path.packets("backlog") == 48
    assert _lossy_rounds(path, 20 * MS, lost=64) == [24, 12, 6, 4, 96]
    assert path.state["tolerated"] == 512, "more than half is never tolerated"


def test_a_short_queue_is_found_further_down() -> None:
    path = _trial(lost=64)
    for now, lost, backlog in [(20, 60, 24), (30, 40, 12), (40, 20, 6)]:
        path.round(128, 10 * MS, now * MS, lost=lost)
        assert path.packets("backlog") == backlog
    path.round(1024, 10 * MS, 50 * MS)
    assert (path.packets("backlog"), path.packets("ceiling"), path.state["trial_share"]) == (6, 6, 0)


def test_fewer_lost_at_a_quarter_are_reason_to_go_on() -> None:
    path = _trial()
    for step in range(5):
        path.round(128, 10 * MS, (20 + 10 * step) * MS, lost=8)
    # 8 of 136 are 60 of 1024, more than half of 113, and no less than a quarter.
    assert (path.packets("backlog"), path.state["trial_share"]) == (96, 0)
    path = _trial()
    for step in range(5):
        path.round(256, 10 * MS, (20 + 10 * step) * MS, lost=9)
    # 9 of 265 are 34 of 1024: less than half, and more than a quarter.
    assert path.state["trial_share"] == 113
    assert path.packets("backlog") < 96 / 4


def test_what_was_found_once_is_tried_again_soon() -> None:
    """After sixteen round trips, and not before 200 ms: what was found may have been a mistake."""
    path = _trial()
    path.round(1024, 10 * MS, 20 * MS)
    assert path.state["retry_every"] == 200 * MS
    path.state["proven"] = 16384 * PACKET
    path.round(128, 10 * MS, 219 * MS)
    assert path.packets("ceiling") == 72
    path.round(128, 10 * MS, 221 * MS)
    assert path.packets("ceiling") == 81


def test_what_was_found_several_times_is_tried_again_every_two_seconds() -> None:
    path = _trial()
    path.state["retry_every"] = 1500 * MS
    path.round(1024, 10 * MS, 20 * MS)
    assert path.state["retry_every"] == 2000 * MS
    path.state["proven"] = 16384 * PACKET
    path.round(128, 10 * MS, 2019 * MS)
    assert (path.packets("ceiling"), path.packets("backlog")) == (72, 72)
    path.round(128, 10 * MS, 2021 * MS)
    # An eighth higher; the backlog follows at once.
    assert (path.packets("ceiling"), path.packets("backlog")) == (81, 81)
    path.round(128, 10 * MS, 4015 * MS)
    assert path.packets("ceiling") == 81
    path.round(128, 10 * MS, 4040 * MS)
    assert path.packets("ceiling") == 81, "and not before 16384 packets are answered"
    path.state["proven"] = 16384 * PACKET
    path.round(128, 10 * MS, 4060 * MS)
    assert path.packets("ceiling") == 91.125


def test_less_than_half_of_what_was_is_tried_again_soon_however_often_it_was_found() -> None:
    path = _trial()
    path.state["retry_every"] = 1500 * MS
    path.state["backlog"] = path.state["ceiling"] = 40 * PACKET
    path.round(1024, 10 * MS, 20 * MS)
    ceilings = []
    for step in range(1, 6):
        path.round(256, 10 * MS, (20 + 210 * step) * MS)
        ceilings.append(path.packets("ceiling"))
    assert ceilings == [45, 50.625, 50.625, 50.625, 50.625]


def _after_long() -> Path:
    """A path on which nothing was lost with 96 packets of backlog; then another flow fills its queue for a moment."""
    path = Path()
    path.at_rest(96)
    path.state["window"] = 128 * PACKET
    path.round(1024, 10 * MS, 0)
    path.round(128, 10 * MS, 500 * MS, lost=40)
    return path


def test_losses_with_a_backlog_that_had_done_begin_a_trial_only_the_second_time() -> None:
    path = _after_long()
    assert (path.state["trial_share"], path.packets("backlog")) == (0, 96)
    assert path.window.stream[0]["forgiven"] == 1152, "what had left before does not count again"
    path.round(1024, 10 * MS, 520 * MS)
    path.round(128, 10 * MS, 900 * MS, lost=40)
    assert path.state["trial_share"] == 0, "nothing was lost in between: the first time once more"
    path.round(128, 10 * MS, 920 * MS, lost=40)
    assert path.state["trial_share"] > 0
    assert path.packets("backlog") == 48


def test_a_backlog_that_had_done_is_tried_again_at_once_and_whole() -> None:
    path = _after_long()
    path.round(128, 10 * MS, 520 * MS, lost=40)
    path.round(1024, 10 * MS, 540 * MS)
    assert (path.state["trial_share"], path.packets("ceiling")) == (0, 48)
    path.round(256, 10 * MS, 600 * MS)
    assert path.packets("ceiling") == 48
    path.round(256, 10 * MS, 760 * MS)
    assert (path.packets("ceiling"), path.packets("backlog")) == (96, 54)


def test_every_two_seconds_half_as_much_is_tolerated() -> None:
    path = _trial()
    _lossy_rounds(path, 20 * MS, lost=16)
    tolerated = []
    for second in range(9):
        path.round(128, 10 * MS, (100 + 1000 * second) * MS)
        tolerated.append(int(path.state["tolerated"]))
    assert tolerated == [226, 226, 113, 113, 56, 56, 28, 28, 20]


def test_the_backlog_is_four_packets_at_least() -> None:
    path = _trial(lost=100, backlog=6)
    assert path.packets("backlog") == 4


# Pace


def test_what_leaves_is_spread_over_the_round_trip() -> None:
    path = Path()
    path.at_rest(32)
    path.send(200, 0)
    assert room(path.congestion, 0) > 0, "before the first round trip there is no pace"
    path.answer(32, 10 * MS, 10 * MS)
    path.state["window"] = 100 * PACKET
    # 10 ms at 1.25 times the window's rate: 80 us a packet. A burst of 32 may leave at once.
    now = 20 * MS
    path.send(32, now)
    assert path.state["paced_to"] == now + 32 * 80_000
    assert room(path.congestion, now) == 100 * PACKET
    path.send(1, now)
    assert room(path.congestion, now) == 0
    # Half a burst may leave again when no more than half of one is still to be paced.
    assert next_leave(path.congestion, now) == now + (33 - 16) * 80_000
    assert room(path.congestion, now + 80_000) == 100 * PACKET
    # Time that nobody used is not made up for.
    path.send(1, now + 100 * MS)
    assert path.state["paced_to"] == now + 100 * MS + 80_000


def test_a_burst_is_no_longer_than_what_is_to_wait_in_a_queue() -> None:
    path = Path()
    path.at_rest(8)
    path.send(10, 0)
    path.answer(1, 10 * MS, 10 * MS)
    path.state["window"] = 100 * PACKET
    path.send(8, 20 * MS)
    assert room(path.congestion, 20 * MS) == 100 * PACKET
    path.send(1, 20 * MS)
    assert room(path.congestion, 20 * MS) == 0


def test_after_a_pause_the_round_ends_with_what_used_up_the_window() -> None:
    """The first packets after it find no queue of ours, and their round trips say nothing of how much may be in flight."""
    path = Path()
    path.at_rest(16)
    path.send(32, 0)
    path.answer(24, 10 * MS, 10 * MS)
    assert path.packets("window") == 32
    assert (path.state["round_end"], path.state["round_late"]) == (31, 32 - 8)
    path.answer(7, 20 * MS, 20 * MS)
    assert path.state["round_trip"] == 0
    path.answer(1, 20 * MS, 21 * MS)
    # Half of the 32 have waited, and the backlog may be 16.
    assert path.state["round_trip"] == 20 * MS


def test_a_short_packet_takes_its_share_of_the_pace() -> None:
    path = Path()
    path.at_rest(16)
    path.send(10, 0)
    path.answer(1, 10 * MS, 10 * MS)
    path.state["window"] = 100 * PACKET
    path.send(1, 50 * MS, length=100)
    assert path.state["paced_to"] == 50 * MS + 8_000


# What it does not concern, and several streams


def test_memory_that_is_shared_has_no_window_but_the_slots() -> None:
    path = Path(slots=64, enabled=False)
    before = path.congestion.tobytes()
    assert room(path.congestion, 0) == 64 * PACKET
    for step in range(10):
        path.round(64, 10 * MS, 20 * MS * step, lost=10)
        assert room(path.congestion, 20 * MS * step) == 64 * PACKET
        assert next_leave(path.congestion, 20 * MS * step) <= 20 * MS * step
    assert path.congestion.tobytes() == before


def test_streams_on_one_link_divide_what_may_wait() -> None:
    path = Path(share=4)
    assert (path.packets("window"), path.packets("backlog"), path.packets("ceiling")) == (8, 4, 24)
    # Four packets each in any case.
    path = Path(share=100)
    assert (path.packets("window"), path.packets("backlog"), path.packets("ceiling")) == (4, 4, 4)


def test_a_share_of_the_link_is_at_rest_with_its_share_of_the_backlog() -> None:
    # What 10 ms bring of this stream's quarter of the link, so that four together have what one alone would have.
    windows = _link(Path(share=4), 12_500_000 // 4, 20 * MS, 60)
    assert windows[-1] == pytest.approx((250 + 125) // 4, abs=3)
