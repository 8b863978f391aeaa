"""Slot and version arithmetic, also where the sequence number wraps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol.header import MAX_WINDOW
from switchml.protocol.slots import TSI_MASK, check_window, slot_of, tsi_distance, version_of

windows = st.integers(0, MAX_WINDOW.bit_length() - 1).map(lambda bits: 1 << bits)
positions = st.one_of(st.integers(0, 2**20), st.integers(2**32 - 2**16, 2**32 + 2**16), st.integers(0, 2**48))


@given(positions, windows)
def test_slot_and_version_are_remainder_and_parity(position: int, window: int) -> None:
    assert slot_of(position, window) == position % window
    assert version_of(position, window) == position // window % 2


@given(positions, windows)
def test_they_follow_from_the_sequence_number_alone(position: int, window: int) -> None:
    tsi = position & TSI_MASK
    assert (slot_of(tsi, window), version_of(tsi, window)) == (
        slot_of(position, window),
        version_of(position, window),
    )


@given(positions, windows)
def test_the_next_use_of_a_slot_has_the_other_version(position: int, window: int) -> None:
    assert slot_of(position + window, window) == slot_of(position, window)
    assert version_of(position + window, window) != version_of(position, window)


@given(positions, st.integers(-(2**31), 2**31 - 1))
def test_distance_across_the_wrap(position: int, step: int) -> None:
    assert tsi_distance((position + step) & TSI_MASK, position & TSI_MASK) == step


@pytest.mark.parametrize(
    ("tsi", "stamp", "distance"),
    [
        (0, 0, 0),
        (0, 0xFFFFFFFF, 1),
        (0xFFFFFFFF, 0, -1),
        (3, 0xFFFFFFFC, 7),
        (0x80000000, 0, -(2**31)),
        (0x7FFFFFFF, 0, 2**31 - 1),
    ],
)
def test_distances_by_hand(tsi: int, stamp: int, distance: int) -> None:
    assert tsi_distance(tsi, stamp) == distance


@given(windows)
def test_powers_of_two_are_windows(window: int) -> None:
    check_window(window)


@pytest.mark.parametrize("window", [-2, -1, 0, 3, 6, 100, MAX_WINDOW + 1, 2 * MAX_WINDOW])
def test_other_windows_are_refused(window: int) -> None:
    with pytest.raises(
        ValueError, match=f"window of {window} slots is no power of two from 1 to {MAX_WINDOW}"
    ):
        check_window(window)
