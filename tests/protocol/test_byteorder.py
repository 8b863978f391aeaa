"""Network order."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol.byteorder import copy_swapped, swap_bytes

words = st.lists(st.integers(0, 2**32 - 1), max_size=70)


def test_a_word_by_hand() -> None:
    assert int(swap_bytes(np.uint32(0x01020384))) == 0x84030201


@given(words)
def test_copied_words_are_in_the_opposite_order(values: list[int]) -> None:
    source = np.array(values, np.uint32)
    out = np.zeros_like(source)
    copy_swapped(source, out)
    assert out.tobytes() == struct.pack(f">{len(values)}I", *source.astype("<u4").view("=u4").tolist())
    again = np.zeros_like(source)
    copy_swapped(out, again)
    assert np.array_equal(again, source)


def test_only_as_many_as_out_has() -> None:
    source = np.arange(5, dtype=np.uint32)
    memory = np.full(5, 9, np.uint32)
    copy_swapped(source, memory[:2])
    assert memory.tolist() == [0, 0x01000000, 9, 9, 9]
