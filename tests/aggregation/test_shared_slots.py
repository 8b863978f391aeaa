"""Slots in memory that several processes share: where things lie, who may write, who is woken."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from switchml.aggregation.shared_slots import (
    SharedLayout,
    SharedSlots,
    complete,
    copy_index,
    count,
    counted,
    get_up,
    is_complete,
    is_held,
    last_heard,
    lie_down,
    note_heard,
    ring_for_sleepers,
    shared_slots,
    sleep,
    sums_at,
    try_lock,
    unlock,
)
from switchml.link.libc import monotonic_ns
from switchml.protocol.counters import SWITCH_COUNTERS, indices, named
from switchml.protocol.jit import compiled

Longs = npt.NDArray[np.int64]

LAYOUT = SharedLayout(workers=3, window=4, room=32)


@pytest.fixture
def slots() -> SharedSlots:
    return shared_slots(np.zeros(LAYOUT.total_bytes, np.uint8), LAYOUT)


def test_nothing_overlaps(slots: SharedSlots) -> None:
    """Whatever is written to one place is found in no other."""
    counters = indices(SWITCH_COUNTERS)
    for worker in range(3):
        note_heard(slots, worker, 100 + worker)
        for index in counters.values():
            count(slots, worker, index, 1000 * worker + index)
    for slot in range(4):
        assert try_lock(slots, slot, slot % 3)
        for version in range(2):
            complete(slots, slot, version, 10 * slot + version)
            slots.copies[copy_index(slot, version)]["stamp"] = 7 * slot + version
            first = sums_at(slots, slot, version)
            slots.sums[first : first + 32] = 100 * slot + version
    assert [last_heard(slots, worker) for worker in range(3)] == [100, 101, 102]
    assert named(SWITCH_COUNTERS, counted(slots)) == {
        name: 3000 + 3 * index for name, index in counters.items()
    }
    for slot in range(4):
        assert is_held(slots, slot)
        for version in range(2):
            assert is_complete(slots, slot, version, 10 * slot + version)
            assert not is_complete(slots, slot, version, 10 * slot + version + 8)
            assert slots.copies[copy_index(slot, version)]["stamp"] == 7 * slot + version
            first = sums_at(slots, slot, version)
            assert np.all(slots.sums[first : first + 32] == 100 * slot + version)


def test_nonsense_in_a_workers_counters_stays_a_number_that_a_status_can_tell(slots: SharedSlots) -> None:
    count(slots, 0, 0, -5)
    count(slots, 1, 1, np.iinfo(np.int64).max)
    assert counted(slots)[:2].tolist() == [0, 1 << 48]


def test_what_two_slots_lock_and_count_lies_on_lines_of_its_own(slots: SharedSlots) -> None:
    for array in (slots.longs, slots.copies, slots.sums):
        assert array.ctypes.data % 64 == slots.longs.ctypes.data % 64
    stride = slots.copies[copy_index(1, 0) :].ctypes.data - slots.copies.ctypes.data  # type: ignore[index]
    assert stride % 64 == 0


def test_a_slot_has_one_owner_at_a_time(slots: SharedSlots) -> None:
    assert not is_held(slots, 1)
    assert try_lock(slots, 1, 0)
    assert not try_lock(slots, 1, 0)
    assert not try_lock(slots, 1, 2)
    assert try_lock(slots, 2, 2)
    unlock(slots, 1)
    assert try_lock(slots, 1, 2)


@compiled
def _add_up(slots: SharedSlots, worker: int, times: int) -> None:
    """Add 1 to two words of the sums, under the lock, that often."""
    done = 0
    while done < times:
        if try_lock(slots, 3, worker):
            slots.sums[0] += np.uint32(1)
            slots.sums[31] = slots.sums[0]
            unlock(slots, 3)
            done += 1


def test_the_lock_keeps_threads_apart(slots: SharedSlots) -> None:
    _add_up(slots, 0, 1)
    threads = [threading.Thread(target=_add_up, args=(slots, worker, 20_000)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (slots.sums[0], slots.sums[31]) == (40_001, 40_001)


def test_who_sleeps_is_woken_and_who_is_about_to_does_not_sleep(slots: SharedSlots) -> None:
    """Worker 1 wants the chunk at position 6: slot 2, version 1."""
    scratch = np.zeros(4, np.int64)
    ring_for_sleepers(slots)
    bell = lie_down(slots, 1, 6)
    complete(slots, 2, 0, 2)
    ring_for_sleepers(slots)
    before = monotonic_ns(scratch)
    sleep(slots, 1, bell, 20_000_000, scratch)  # nobody has rung yet
    assert monotonic_ns(scratch) - before >= 20_000_000
    sleeper = threading.Thread(target=sleep, args=(slots, 1, bell, 60_000_000_000, np.zeros(4, np.int64)))
    sleeper.start()
    complete(slots, 2, 1, 6)
    ring_for_sleepers(slots)  # before it sleeps or after
    sleeper.join(30)
    assert not sleeper.is_alive()
    ring_for_sleepers(slots)  # it has been woken
    get_up(slots, 1)
    ring_for_sleepers(slots)  # it does not sleep
    assert lie_down(slots, 1, 10) == bell + 1
    assert lie_down(slots, 0, 6) == 0  # a bell of its own
