"""In which order the parts of a reduce-scatter go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.worker.chunks import RUN, block_of
from switchml.worker.window import BLOCKS, RING, Window, new_window

ELEMENTS = 4


def _scatter(workers: int, chunks: int, part: int | None = None) -> tuple[Window, Any]:
    window = new_window(rank=0, workers=workers, window=16, elements=ELEMENTS)
    entry = window.transfers[0 % RING]
    entry["kind"], entry["chunks"], entry["count"] = BLOCKS, chunks, chunks * ELEMENTS
    entry["part"] = -(-chunks * ELEMENTS // workers) if part is None else part
    return window, entry


def _order(workers: int, chunks: int, part: int | None = None) -> list[int]:
    window, entry = _scatter(workers, chunks, part)
    return [block_of(window, entry, chunk) for chunk in range(chunks)]


@given(st.integers(1, 9), st.integers(1, 500))
def test_every_block_has_its_turn_once(workers: int, chunks: int) -> None:
    assert sorted(_order(workers, chunks)) == list(range(chunks))


def test_parts_take_turns() -> None:
    order = _order(4, 4 * 3 * RUN)
    parts = [block // (3 * RUN) for block in order]
    assert parts == [part for _ in range(3) for part in range(4) for _ in range(RUN)]
    mine = [block for block in order if block < 3 * RUN]
    assert mine == sorted(mine)


@pytest.mark.parametrize(("chunks", "part"), [(1000, 0), (1000, 4000), (4 * RUN - 4, None)])
def test_others_go_as_they_lie(chunks: int, part: int | None) -> None:
    """Without parts, with one rank's alone, and with short ones."""
    assert _order(4, chunks, part) == list(range(chunks))
