"""Arrays over addresses, and ordered access."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from switchml.link import libc, ring
from switchml.link.memory import (
    array_at,
    bytes_at,
    copy_bytes,
    fetch_add,
    load_acquire,
    store_release,
)
from switchml.protocol.jit import compiled

Longs = npt.NDArray[np.int64]


@compiled
def _overwrite(address: int, count: int) -> int:
    floats = array_at(address, count, np.float32)
    total = 0
    for index in range(count):
        total += int(floats[index])
        floats[index] = index
    bytes_at(address + 4, 1)[0] = 7
    return total


def test_an_array_at_an_address_is_that_memory() -> None:
    memory = np.array([3, 4, 5], np.float32)
    assert _overwrite(memory.ctypes.data, 2) == 7
    assert memory[0] == 0
    assert memory[2] == 5
    assert memory.view(np.uint8)[4] == 7


@compiled
def _exchange(longs: Longs) -> int:
    store_release(longs, 1, 40)
    before = fetch_add(longs, 1, 2)
    return int(before * 1000 + load_acquire(longs, 1))


def test_ordered_access_reads_and_writes_one_element() -> None:
    longs = np.zeros(3, np.int64)
    assert _exchange(longs) == 40042
    assert longs.tolist() == [0, 42, 0]


@compiled
def _count(longs: Longs, times: int) -> None:
    for _ in range(times):
        fetch_add(longs, 0, 1)


def test_fetch_add_loses_nothing_between_threads() -> None:
    longs = np.zeros(1, np.int64)
    _count(longs, 1)
    threads = [threading.Thread(target=_count, args=(longs, 200_000)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert longs[0] == 400_001


def test_bytes_are_copied() -> None:
    memory = np.arange(20, dtype=np.uint8)
    out = np.zeros(4, np.uint8)
    copy_bytes(memory[10:], out)
    assert out.tolist() == [10, 11, 12, 13]


def test_a_futex_sleeps_until_its_word_changes_or_time_is_over() -> None:
    longs, scratch = np.zeros(16, np.int64), np.zeros(4, np.int64)
    before = libc.monotonic_ns(np.zeros(2, np.int64))
    ring.sleep_for_downlink(longs, 0, 20_000_000, scratch)
    assert libc.monotonic_ns(np.zeros(2, np.int64)) - before >= 20_000_000
    sleeper = threading.Thread(target=ring.sleep_for_downlink, args=(longs, 0, 30_000_000_000, scratch))
    sleeper.start()
    while longs[ring.SLEEPERS] == 0:
        pass
    ring.publish_down(longs, 1)
    sleeper.join(10)
    assert not sleeper.is_alive()
    assert longs[ring.SLEEPERS] == 0
    # Missed publications do not put it to sleep.
    ring.sleep_for_downlink(longs, 0, 30_000_000_000, scratch)
