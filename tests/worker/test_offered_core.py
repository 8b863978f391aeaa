"""When a rank that waits offers its core to the others: `note_offer`."""

import numpy as np

from switchml.worker.in_memory import note_offer

MS = 1_000_000


def test_a_core_that_comes_back_soon_is_offered_again() -> None:
    reserved = np.zeros(2, np.int64)
    note_offer(reserved, 5 * MS, 5 * MS + 3000)
    assert reserved.tolist() == [0, 0]


def test_one_busy_rank_costs_a_millisecond_and_is_forgotten() -> None:
    """Else a barrier that ranks come to at different times would have them sleep in all that follows."""
    reserved = np.zeros(2, np.int64)
    note_offer(reserved, 5 * MS, 6 * MS)
    assert reserved.tolist() == [7 * MS, 1 * MS]
    for offer in range(100):
        note_offer(reserved, 7 * MS + offer * 3000, 7 * MS + offer * 3000 + 2000)
    assert reserved[0] == 7 * MS
    assert reserved[1] < 10
    note_offer(reserved, 20 * MS, 23 * MS)
    assert reserved.tolist() == [24 * MS, 1 * MS]


def test_another_program_keeps_the_core_for_up_to_a_second() -> None:
    """Every second offer goes to another rank, and comes back soon."""
    reserved, lengths = np.zeros(2, np.int64), []
    now = 0
    for _ in range(20):
        now = max(now, int(reserved[0]))
        note_offer(reserved, now, now + 2000)
        note_offer(reserved, now, now + 3 * MS)
        lengths.append(int(reserved[1]) / MS)
        now += 3 * MS
    assert lengths[:3] == [1, 1.75, 3.0625]
    assert lengths[-1] == 1000
    assert lengths == sorted(lengths)
