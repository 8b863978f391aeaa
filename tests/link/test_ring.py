"""The layout of the shared-memory rings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from switchml.link import ring
from switchml.link.ring import LINE, PACKET_AT, PAGE, RingLayout, ring_layout
from switchml.protocol.header import HEADER_BYTES

layouts = st.builds(
    ring_layout,
    workers=st.integers(1, 9),
    window=st.integers(0, 4).map(lambda bits: 1 << bits),
    payload=st.sampled_from([128, 256, 1024, 16384]),
)


def _pieces(layout: RingLayout) -> list[tuple[int, int]]:
    """Begin and end of everything that has a place in the region."""
    longs = [ring.DOWN_HEAD, ring.SLEEPERS]
    for worker in range(layout.workers):
        longs += [ring.up_head(worker), ring.up_tail(worker), ring.down_tail(worker)]
    entries = [ring.down_entry(layout, count) for count in range(layout.down_entries)]
    for worker in range(layout.workers):
        entries += [ring.up_entry(layout, worker, count) for count in range(layout.up_entries)]
    return [(8 * index, 8 * index + LINE) for index in longs] + [
        (entry, entry + layout.stride) for entry in entries
    ]


@given(layouts)
def test_nothing_overlaps_and_all_is_inside(layout: RingLayout) -> None:
    pieces = sorted(_pieces(layout))
    assert pieces[0][0] == 0
    assert all(end <= begin for (_, end), (begin, _) in pairwise(pieces))
    assert pieces[-1][1] <= layout.total_bytes < pieces[-1][1] + PAGE
    assert layout.total_bytes % PAGE == 0


@given(layouts)
def test_elements_lie_on_a_cache_line(layout: RingLayout) -> None:
    assert PACKET_AT + HEADER_BYTES == LINE
    for begin, _ in _pieces(layout):
        assert begin % LINE == 0


@given(layouts, st.integers(0, 2**40))
def test_counts_go_round_the_ring(layout: RingLayout, count: int) -> None:
    assert ring.up_entry(layout, 0, count) == ring.up_entry(layout, 0, count % layout.up_entries)
    assert ring.down_entry(layout, count) == ring.down_entry(layout, count % layout.down_entries)
    assert ring.down_entry(layout, count) != ring.down_entry(layout, count + layout.down_entries // 2)


def test_a_layout_by_hand() -> None:
    layout = ring_layout(2, 4, 128)
    assert layout == RingLayout(workers=2, stride=192, up_entries=4, down_entries=8)
    # Two lines and three a worker, then 4 + 4 + 8 entries.
    assert ring.up_entry(layout, 0, 0) == 8 * 64
    assert ring.up_entry(layout, 1, 1) == 8 * 64 + 5 * 192
    assert ring.down_entry(layout, 7) == 8 * 64 + 15 * 192
    assert layout.total_bytes == 4096


def test_the_preamble_is_read_as_written() -> None:
    region = np.zeros(256, np.uint8)
    ring.set_entry(region, 64, 1034, ring.EVERYONE)
    assert (ring.entry_length(region, 64), ring.entry_destination(region, 64)) == (1034, -1)
    assert not region[:64].any()
    assert not region[72:].any()


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8))
def test_the_slowest_reader_is_found(tails: list[int]) -> None:
    longs = np.zeros(8 * (2 + 3 * len(tails)), np.int64)
    for worker, tail in enumerate(tails):
        longs[ring.down_tail(worker)] = tail
    assert ring.slowest_tail(longs, len(tails)) == min(tails)
