"""What goes through which switch: all of it, once, cut between packets, and alike on all ranks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.worker.collectives import (
    BroadcastBytes,
    Converted,
    Direct,
    Gathered,
    GatheredBytes,
    Part,
    Strategy,
    nothing,
)
from switchml.worker.dealing import LEAST_BLOCKS, deal
from switchml.worker.transfer import Share
from switchml.worker.window import BLOCKS, WORDS

BLOCK = 128
shares_of = st.lists(st.integers(1, 9), min_size=1, max_size=6)


class Counted(Strategy):
    """Remembers where it was cut."""

    segments = depth = 1

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.units = stop - start

    def cut(self, start: int, stop: int) -> Strategy:
        return Counted(self.start + start, self.start + stop)


@given(shares_of, st.integers(0, 100_000), st.integers(0, 99))
def test_every_unit_goes_once_through_a_switch(shares: list[int], units: int, call: int) -> None:
    dealt = deal(Counted(0, units), call, shares, BLOCK)
    parts: list[Any] = [part for _, part in dealt]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == units
    assert all(part.start % BLOCK == 0 for part in parts)
    if len(shares) > 1 and -(-units // BLOCK) >= LEAST_BLOCKS * len(shares):
        assert [index for index, _ in dealt] == list(range(len(shares)))
        for part, share in zip(parts, shares, strict=True):
            assert part.units > 0
            assert abs(part.units - units * share / sum(shares)) <= (len(shares) + 1) * BLOCK
    else:
        assert len(dealt) == 1


@given(shares_of)
def test_small_ones_take_turns_by_shares(shares: list[int]) -> None:
    turns = [deal(Counted(0, 1), call, shares, BLOCK)[0][0] for call in range(2 * sum(shares))]
    assert [turns.count(index) for index in range(len(shares))] == [2 * share for share in shares]


def test_what_cannot_be_cut_goes_whole_by_turns() -> None:
    assert [deal(nothing(), call, (1, 1, 1), BLOCK)[0][0] for call in range(4)] == [0, 1, 2, 0]


RANKS, COUNT, CUTS = 3, 4096, (0, 512, 640, 3968, 4096)


def _words(source: np.ndarray, out: np.ndarray, first: int) -> Strategy:
    return Direct(Part(WORDS, COUNT, source, out, first))


def _made(kind: str, rank: int) -> tuple[Strategy, np.ndarray]:
    """A strategy of one rank, and the memory of its result."""
    values = np.random.default_rng(rank).integers(1, 90, COUNT)
    share = Share(rank, -(-COUNT // RANKS)) if kind.endswith("share") else Share(rank)
    if kind.endswith("root"):
        share = Share(rank, COUNT, COUNT)
    mine = share.of(slice(0, COUNT))
    wanted = mine.stop - mine.start
    kind = kind.partition(",")[0]
    if kind == "direct blocks":
        out = np.zeros(wanted, np.float32)
        return Direct(Part(BLOCKS, COUNT, values.astype(np.float32), out, share=share)), out
    if kind == "direct words":
        out = np.zeros(COUNT, np.uint32)
        return _words(values.astype(np.uint32), out, 0), out
    if kind == "regions":
        out = np.zeros(COUNT, np.uint32)
        own = COUNT // 4  # cuts fall inside regions, and between them
        return _words(values[:own].astype(np.uint32), out, rank * own), out
    if kind == "broadcast words":
        out = np.zeros(COUNT, np.uint32)
        return _words(values.astype(np.uint32)[: COUNT * (rank == 1)], out, 0), out
    if kind == "converted":
        out = np.zeros(wanted, np.float16)
        return Converted(values.astype(np.float16), out, "float16", BLOCKS, share), out
    if kind == "gathered":
        out = np.zeros(wanted, np.float64)
        root = 1 if share.origin else None
        return Gathered(values / 7, out, "float64", "prod", share, RANKS, root), out
    if kind == "gathered bytes":
        out = np.zeros((RANKS, COUNT), np.uint8)
        return GatheredBytes(values.astype(np.uint8), out, rank), out
    out = values.astype(np.uint8)
    return BroadcastBytes(out, rank == 1), out


def _carry(strategies: list[Strategy]) -> None:
    """What a switch does to one strategy of every rank."""
    for segment in range(strategies[0].segments):
        parts = [strategy.load(segment, 0) for strategy in strategies]
        total: Any = np.zeros(parts[0].count, np.float64 if parts[0].kind == BLOCKS else np.uint32)
        for part in parts:
            mine = part.share.of(slice(0, part.count))
            assert part.count == total.size
            assert part.destination.size == mine.stop - mine.start
            first = part.first if part.kind == WORDS else 0
            assert 0 <= first <= first + part.source.size <= part.count
            total[first : first + part.source.size] += part.source
        for strategy, part in zip(strategies, parts, strict=True):
            part.destination[...] = total[part.share.of(slice(0, part.count))]
            strategy.store(segment, 0)


@pytest.mark.parametrize(
    "kind",
    [
        "direct blocks",
        "direct words",
        "direct blocks, share",
        "direct blocks, root",
        "converted, share",
        "converted, root",
        "gathered, share",
        "gathered, root",
        "regions",
        "broadcast words",
        "converted",
        "gathered",
        "gathered bytes",
        "broadcast bytes",
    ],
)
def test_parts_together_are_the_whole(kind: str) -> None:
    whole = [_made(kind, rank) for rank in range(RANKS)]
    _carry([strategy for strategy, _ in whole])
    cut = [_made(kind, rank) for rank in range(RANKS)]
    assert {strategy.units for strategy, _ in cut} == {COUNT}
    for start, stop in itertools.pairwise(CUTS):
        _carry([strategy.cut(start, stop) for strategy, _ in cut])
    for (_, expected), (_, out) in zip(whole, cut, strict=True):
        assert out.tobytes() == expected.tobytes()
        assert out.any() or not out.size
    assert any(out.size for _, out in cut)
