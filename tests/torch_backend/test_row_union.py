"""What ranks say of their rows, and what they make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.torch_backend.row_union import Rows, gathers, hear, say, union

ROWS = 700


def _rows(numbers: set[int]) -> Rows:
    return np.array(sorted(numbers), np.int64)


@given(st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=1, max_size=5))
def test_every_rank_hears_what_the_others_have(sets: list[set[int]]) -> None:
    counts = [len(one) for one in sets]
    said = np.stack([say(_rows(one), max(counts), ROWS) for one in sets])
    heard = hear(said, counts, ROWS)
    assert [set(rows.tolist()) for rows in heard] == sets
    assert union(heard, ROWS).tolist() == sorted(set().union(*sets))


@pytest.mark.parametrize(
    ("most", "rows", "size"),
    [(200, 200_000, 800), (6250, 200_000, 25_000), (6251, 200_000, 25_000), (0, 9, 0)],
)
def test_rows_are_said_in_the_shorter_way(most: int, rows: int, size: int) -> None:
    assert say(np.arange(most), most, rows).nbytes == size


def test_row_numbers_beyond_32_bits() -> None:
    far = np.array([5, 1 << 33])
    said = say(far, 3, 1 << 34)
    assert hear(said[None], [2], 1 << 34)[0].tolist() == far.tolist()


def test_a_rank_with_all_rows_is_the_union() -> None:
    assert union([np.arange(4), np.array([2])], 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("counts", "in_union", "gathered"),
    [
        ([2000] * 4, 8000, True),  # three quarters of the bytes
        ([2000] * 2, 4000, True),  # half
        ([2000] * 4, 2000, False),  # the same rows everywhere
        ([2000] * 8, 16000, True),  # seven eighths
        ([2000] * 4, 6000, False),  # as many, and nothing to be added here
        ([2000, 0, 0, 0], 2000, False),  # empty places would travel
    ],
)
def test_what_moves_fewer_bytes_is_chosen(counts: list[int], in_union: int, gathered: bool) -> None:
    assert gathers(counts, in_union) is gathered
