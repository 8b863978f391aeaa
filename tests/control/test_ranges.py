from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.control.ranges import RangeAllocator

SIZE = 64


@given(st.lists(st.tuples(st.booleans(), st.integers(1, SIZE))))
def test_follows_a_bitmap_of_the_pool(steps: list[tuple[bool, int]]) -> None:
    pool = RangeAllocator(SIZE)
    taken = [False] * SIZE
    held: list[tuple[int, int]] = []
    for take, number in steps:
        if take:
            fits = [base for base in range(SIZE - number + 1) if not any(taken[base : base + number])]
            base = pool.allocate(number)
            assert base == (fits[0] if fits else None)
            if base is not None:
                taken[base : base + number] = [True] * number
                held.append((base, number))
        elif held:
            base, length = held.pop(number % len(held))
            pool.release(base)
            taken[base : base + length] = [False] * length
        runs = "".join("x" if used else "." for used in taken).split("x")
        assert pool.largest() == max(map(len, runs))
        assert pool.free() == taken.count(False)


def test_an_empty_pool_has_no_range() -> None:
    pool = RangeAllocator(0)
    assert pool.allocate(1) is None
    assert pool.largest() == 0


def test_what_was_not_allocated_cannot_be_released() -> None:
    pool = RangeAllocator(8)
    base = pool.allocate(4)
    assert base == 0
    with pytest.raises(KeyError):
        pool.release(1)
    pool.release(0)
    with pytest.raises(KeyError):
        pool.release(0)


@pytest.mark.parametrize("length", [0, -1])
def test_a_range_has_a_slot(length: int) -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        RangeAllocator(8).allocate(length)
