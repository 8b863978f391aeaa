"""Jobs whose switch is lost, at any moment, with all that it knew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from switchml.errors import CollectiveError
from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.messages import ABSENT, LANE_BITS, SUM, SUM8, SUM16, size_code
from switchml.worker.chunks import build_packet, is_answer, packet_bytes, take_result
from switchml.worker.engine import kept_at
from switchml.worker.failover import settling
from switchml.worker.signature import Signature
from switchml.worker.standing import begin_anew, contested, frontiers
from switchml.worker.transfer import Share, Transfer
from switchml.worker.window import (
    BLOCKS,
    DONE,
    RING,
    WORDS,
    advance,
    chunk_elements,
    lay,
    mark_sent,
    match,
    new_window,
    next_ready,
)

WIDTH, ELEMENTS = 4, 32
LENGTH = HEADER_BYTES + 4 * ELEMENTS
Packet = npt.NDArray[np.uint8]


class Switch:
    """Sums up what comes in turn. begun: so many positions are behind it."""

    def __init__(self, workers: int, begun: int) -> None:
        self._workers = workers
        self._next = [slot + WIDTH * len(range(slot, begun, WIDTH)) for slot in range(WIDTH)]
        self._given: dict[int, dict[int, Packet]] = {}

    def take(self, rank: int, packet: Packet) -> bytes | None:
        """A packet; the result, if that is complete."""
        header = parse_header(packet.tobytes())
        assert self._next[header.slot] == header.tsi, "it has its turn"
        assert header.version == header.tsi // WIDTH % 2
        given = self._given.setdefault(header.tsi, {})
        given[rank] = packet.copy()
        if len(given) < self._workers:
            return None
        self._next[header.slot] += WIDTH
        return self._result(header, list(self._given.pop(header.tsi).values()))

    def _result(self, header: Header, packets: list[Packet]) -> bytes:
        headers = [parse_header(each.tobytes()) for each in packets]
        kinds = {each.msg_type for each in headers if each.msg_type != ABSENT}
        assert len(kinds) <= 1
        kind = kinds.pop() if kinds else ABSENT
        bits, shift, payload = int(LANE_BITS[kind]), 0, b""
        if bits:
            lanes = f">i{bits // 8}"
            total = sum(
                packet[HEADER_BYTES:].view(lanes).astype(np.int32)
                for packet, each in zip(packets, headers, strict=True)
                if each.msg_type == kind
            )
            assert isinstance(total, np.ndarray)
            if bits < 32:
                while not (-(1 << bits + shift - 1) <= total.min() and total.max() < 1 << bits + shift - 1):
                    shift += 1
                total = np.minimum(np.rint(total / (1 << shift)), (1 << bits - 1) - 1)
            payload = total.astype(lanes).tobytes()
        e0 = max(each.e0 for each in headers)
        return build_header(header._replace(msg_type=kind, to_one=0, but_one=0, e0=e0, e1=shift)) + payload


class Rank:
    """One, with collectives that it calls one after the other; what has ended is overwritten at once."""

    def __init__(self, rank: int, calls: list[tuple[str, int]], workers: int, kind: int) -> None:
        self.rank, self.workers = rank, workers
        self.window = new_window(
            rank=rank, workers=workers, window=WIDTH, elements=ELEMENTS, size=size_code(4 * ELEMENTS), job=1,
            block_kind=kind,
        )  # fmt: skip
        self.kept = np.zeros(2 * WIDTH * LENGTH, np.uint8)
        self.descriptor = np.zeros(ELEMENTS, np.uint32)
        self.results: list[Any] = []
        self._calls = calls
        self._under_way: dict[int, tuple[Transfer, Any]] = {}

    @property
    def over(self) -> bool:
        return len(self.results) == len(self._calls)

    def call(self) -> None:
        """The next collective, if there is one."""
        index = int(self.window.stream[0]["queued"])
        if index == len(self._calls) or index - int(self.window.stream[0]["head"]) == RING:
            return
        what, size = self._calls[index]
        values = np.random.default_rng([index, size, self.rank])
        signature = Signature("allreduce", "float32", "sum", size, index).words()
        kind, share, first, row = WORDS, Share(self.rank), 0, 0
        source: Any
        match what:
            case "floats":
                kind = BLOCKS
                source = (values.standard_normal(size) * 2.0 ** values.integers(-9, 9)).astype(np.float32)
                destination = source
            case "words":
                source = values.integers(0, 1 << 32, size, np.uint32)
                destination = source
            case "root":
                source = values.integers(0, 1 << 32, size, np.uint32)
                share = Share(self.rank, size, size)
                destination = source if self.rank == 1 else source[:0]
            case _:
                source = values.integers(0, 1 << 32, size, np.uint32)
                first, row = self.rank * size, size
                destination = np.zeros(self.workers * size, np.uint32)
                share, size = Share(self.rank, size, others=True), self.workers * size
        transfer = Transfer(
            kind, size, source, destination, signature, lambda _: None, lambda _: None, 1 << 62, first, share, row=row
        )  # fmt: skip
        self._under_way[index] = transfer, source
        self.window.transfers[index % RING] = transfer.record(chunk_elements(self.window, kind))
        self.window.stream[0]["queued"] = index + 1

    def send(self) -> Packet | None:
        lay(self.window)
        slot = next_ready(self.window)
        if slot < 0:
            return None
        packet = np.zeros(LENGTH, np.uint8)
        length = packet_bytes(self.window, slot)
        build_packet(self.window, slot, packet, 0)
        at = kept_at(self.window, slot, int(self.window.slots[slot]["position"]))
        self.kept[at : at + length] = packet[:length]
        mark_sent(self.window, slot, 1, length)
        return packet

    def take(self, result: bytes) -> None:
        header = parse_header(result)
        slot = match(self.window, header.tsi, header.slot, header.version)
        memory = np.frombuffer(result, np.uint8).copy()
        assert slot >= 0
        assert is_answer(self.window, slot, memory, 0)
        assert take_result(self.window, slot, header.e0, memory, 0, self.descriptor)
        advance(self.window, slot, header.e0)
        self.reap()

    def reap(self) -> None:
        for index, (transfer, source) in sorted(self._under_way.items()):
            if self.window.transfers[index % RING]["status"] == DONE:
                self.results.append((index, transfer.destination.copy()))
                source[:] = transfer.destination[:] = 77
                del self._under_way[index]
        self.window.stream[0]["head"] = min(self._under_way, default=int(self.window.stream[0]["queued"]))


def _settle(ranks: list[Rank]) -> None:
    """All ranks' parts, in step."""
    parts = [settling(rank.window, rank.kept, rank.descriptor) for rank in ranks]
    asked = [next(part) for part in parts]
    while asked:
        words = [each[1].copy() for each in asked]
        every = np.sum(words, axis=0, dtype=np.uint32) if asked[0][0] else np.array(words)
        asked = []
        for part in parts:
            with contextlib.suppress(StopIteration):
                asked.append(part.send(every.copy()))
        assert len(asked) in (0, len(ranks))


def _run(seed: int, workers: int, kind: int, losses: int) -> tuple[list[Any], int]:
    """All ranks' results, and how many chunks some ranks alone had the result of when the switch was lost."""
    rng = np.random.default_rng([seed, losses])
    shapes = np.random.default_rng(seed)
    calls = [
        (str(shapes.choice(["floats", "words", "gather", "root"])), int(shapes.integers(1, 400)))
        for _ in range(6)
    ]
    ranks = [Rank(rank, calls, workers, kind) for rank in range(workers)]
    switch = Switch(workers, 0)
    under_way: list[tuple[Rank, bytes]] = []
    disputed = 0
    moments = iter(sorted(rng.integers(1, 400, losses)))
    lost_at = next(moments, -1)
    step = 0
    while not all(rank.over for rank in ranks):
        step += 1
        assert step < 100_000
        if step == lost_at:
            lost_at = next(moments, -1)
            under_way.clear()
            apart = contested(np.array([frontiers(rank.window) for rank in ranks]))
            disputed += apart.size
            first = int(rng.integers(1, 12))
            _settle(ranks)
            for rank in ranks:
                rank.reap()
                begin_anew(rank.window, 2, first)
            switch = Switch(workers, first)
        rank = ranks[rng.integers(workers)]
        what = rng.integers(4)
        if what == 0:
            rank.call()
        elif what == 1 and under_way:
            whom, result = under_way.pop(rng.integers(len(under_way)))
            whom.take(result)
        elif (packet := rank.send()) is not None:
            result_ = switch.take(rank.rank, packet)
            if result_ is not None:
                under_way += [(each, result_) for each in ranks]
    return [sorted(rank.results, key=lambda each: each[0]) for rank in ranks], disputed


def _same(some: list[Any], others: list[Any]) -> bool:
    return all(
        one[0] == other[0] and one[1].tobytes() == other[1].tobytes()
        for mine, theirs in zip(some, others, strict=True)
        for one, other in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize("kind", [SUM, SUM16, SUM8])
@pytest.mark.parametrize("workers", [2, 3])
def test_what_is_under_way_ends_with_the_same_bits_at_a_switch_that_knows_nothing(
    kind: int, workers: int
) -> None:
    disputed = 0
    for seed in range(12):
        undisturbed, _ = _run(seed, workers, kind, 0)
        for losses in (1, 4):
            results, apart = _run(seed, workers, kind, losses)
            disputed += apart
            assert _same(results, undisturbed), (seed, losses)
    assert disputed > 20, "some ranks alone had results, or nothing was tried"


def _standings() -> Iterator[tuple[list[list[int]], list[int]]]:
    yield [[4, 1, 2, 3], [4, 1, 2, 3]], []
    yield [[4, 1, 2, 3], [0, 1, 2, 3]], [0]
    yield [[4, 5, 2, 3], [0, 1, 2, 7], [4, 1, 2, 3]], [0, 1, 3]


def test_a_slot_is_contested_where_some_ranks_are_a_window_ahead() -> None:
    for standings, slots in _standings():
        assert contested(np.array(standings, np.int64)).tolist() == slots


@pytest.mark.parametrize(
    "standings", [[[8, 1, 2, 3], [0, 1, 2, 3]], [[1, 1, 2, 3], [1, 1, 2, 3]], [[4, 1, 2, 5], [4, 1, 2, 3]]]
)
def test_ranks_that_cannot_stand_so_do_not_go_on(standings: list[list[int]]) -> None:
    with pytest.raises(CollectiveError, match="same collectives"):
        contested(np.array(standings, np.int64))
