"""The slot machine as scripts of packets and verdicts, and against a model written independently of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.aggregation.slot_machine import (
    ADDED,
    AHEAD,
    COMPLETE,
    DUPLICATE,
    FIRST,
    FRESH,
    MISFIT,
    RETRANSMIT,
    STALE,
    UNSEEN,
    WAITING,
    admit,
    admit_paper,
    apply,
    clear_slots,
    inquire,
    is_seen,
    new_pool,
)
from switchml.protocol.messages import ABSENT, EXPONENTS, SUM

_NAMES = {
    FRESH: "fresh", ADDED: "added", RETRANSMIT: "retransmit", DUPLICATE: "duplicate", STALE: "stale", MISFIT: "misfit",
    AHEAD: "ahead", FIRST: "first", UNSEEN: "unseen", WAITING: "waiting", FIRST + COMPLETE: "first, complete",
    FRESH + COMPLETE: "fresh, complete", ADDED + COMPLETE: "added, complete",
}  # fmt: skip


class Packet(NamedTuple):
    worker: int
    tsi: int
    values: Sequence[int] = ()
    e0: int = -128
    e1: int = -128
    absent: bool = False

    @property
    def kind(self) -> int:
        return ABSENT if self.absent else SUM if self.values else EXPONENTS


class Switch:
    """One job with one window; takes packets and tells what became of them. start: the chunks before it are done."""

    def __init__(
        self, workers: int, window: int = 1, elements: int = 2, *, paper: bool = False, start: int = 0
    ) -> None:
        self.workers, self.window, self.elements = workers, window, elements
        self.pool = new_pool(window, 2 * window * elements)
        self._admit = admit_paper if paper else admit
        for tsi in range(max(0, start - 2 * window), start):
            copy = self.pool.slots[self.index(tsi)]
            copy["used"], copy["stamp"], copy["seen_count"] = 1, tsi, workers

    def index(self, tsi: int) -> int:
        return 2 * (tsi % self.window) + tsi // self.window % 2

    def take(self, packet: Packet) -> tuple[str, list[int] | None, tuple[int, int]]:
        """Verdict, result if one leaves, exponents of the slot's copy."""
        slots, index = self.pool.slots, self.index(packet.tsi)
        verdict = self._admit(
            slots,
            index,
            packet.worker,
            self.workers,
            self.window,
            packet.tsi,
            packet.kind,
            packet.e0,
            packet.e1,
        )
        has_elements = slots[index]["kind"] == SUM
        out = np.full(self.elements if has_elements else 0, 0xDDDDDDDD, np.uint32)
        words = np.array(packet.values, ">i4").view(np.uint32)
        first = index * self.elements
        apply(verdict, words, self.pool.sums[first : first + max(words.size, out.size)], out)
        leaves = verdict >= COMPLETE or verdict == RETRANSMIT
        assert leaves or (out == 0xDDDDDDDD).all()
        result = out.view(">i4").tolist() if leaves else None
        return _NAMES[verdict], result, (int(slots[index]["e0"]), int(slots[index]["e1"]))

    def ask(self, worker: int, tsi: int) -> str:
        """The verdict on a question, which leaves all as it is."""
        before = self.pool.slots.tobytes()
        verdict = inquire(self.pool.slots, self.index(tsi), worker, self.workers, tsi)
        assert self.pool.slots.tobytes() == before
        return _NAMES[verdict]


Script = list[tuple[Packet, str, list[int] | None]]

TABLE: dict[str, tuple[int, int, Script]] = {
    # workers, window, (packet, verdict, result)
    "an empty slot starts afresh, the last worker completes it": (3, 1, [
        (Packet(1, 0, [1, -2]), "fresh", None),
        (Packet(0, 0, [10, 20]), "added", None),
        (Packet(2, 0, [100, 200]), "added, complete", [111, 218]),
    ]),
    "a single worker completes at once": (1, 1, [
        (Packet(0, 0, [5, 6]), "fresh, complete", [5, 6]),
        (Packet(0, 1, [7, 8]), "fresh, complete", [7, 8]),
        (Packet(0, 2, [9, 1]), "fresh, complete", [9, 1]),
    ]),
    "an unused slot takes its first chunk only": (2, 2, [
        (Packet(0, 0x80000000, [1, 1]), "ahead", None),
        (Packet(0, 1 << 30, [1, 1]), "ahead", None),
        (Packet(0, 4, [1, 1]), "ahead", None),
        (Packet(0, 2, [1, 1]), "ahead", None),
        (Packet(0, 0xFFFFFFFC, [1, 1]), "ahead", None),
        (Packet(1, 0, [1, 1]), "fresh", None),
        (Packet(0, 0, [1, 2]), "added, complete", [2, 3]),
        (Packet(0, 2, [1, 1]), "fresh", None),
    ]),
    "a duplicate of an unfinished chunk is dropped": (2, 1, [
        (Packet(0, 0, [1, 2]), "fresh", None),
        (Packet(0, 0, [1, 2]), "duplicate", None),
        (Packet(1, 0, [3, 4]), "added, complete", [4, 6]),
    ]),
    "a repeated packet of a finished chunk gets the result again": (2, 1, [
        (Packet(0, 0, [1, 2]), "fresh", None),
        (Packet(1, 0, [3, 4]), "added, complete", [4, 6]),
        (Packet(0, 0, [1, 2]), "retransmit", [4, 6]),
        (Packet(0, 0, [1, 2]), "retransmit", [4, 6]),
        (Packet(1, 0, [3, 4]), "retransmit", [4, 6]),
    ]),
    "the other copy keeps the result while the next chunk is summed": (2, 1, [
        (Packet(0, 0, [1, 2]), "fresh", None),
        (Packet(1, 0, [3, 4]), "added, complete", [4, 6]),
        (Packet(1, 1, [5, 5]), "fresh", None),
        (Packet(0, 0, [1, 2]), "retransmit", [4, 6]),
        (Packet(0, 1, [6, 6]), "added, complete", [11, 11]),
    ]),
    "a chunk has its turn when the one a window before is complete": (2, 1, [
        (Packet(0, 0, [1, 2]), "fresh", None),
        (Packet(0, 1, [3, 3]), "ahead", None),
        (Packet(1, 2, [5, 5]), "ahead", None),
        (Packet(1, 0, [3, 4]), "added, complete", [4, 6]),
        (Packet(1, 2, [5, 5]), "ahead", None),
        (Packet(1, 1 << 30, [5, 5]), "ahead", None),
        (Packet(1, (1 << 30) + 1, [5, 5]), "ahead", None),
        (Packet(1, 1, [5, 5]), "fresh", None),
        (Packet(1, 2, [5, 5]), "ahead", None),
        (Packet(0, 0, [1, 2]), "retransmit", [4, 6]),
        (Packet(0, 1, [3, 3]), "added, complete", [8, 8]),
        (Packet(0, 4, [5, 5]), "ahead", None),
        (Packet(0, 2, [5, 5]), "fresh", None),
    ]),
    "an older packet is dropped": (2, 1, [
        (Packet(0, 0, [1, 2]), "fresh", None),
        (Packet(1, 0, [1, 2]), "added, complete", [2, 4]),
        (Packet(0, 1, [1, 2]), "fresh", None),
        (Packet(1, 1, [1, 2]), "added, complete", [2, 4]),
        (Packet(0, 2, [1, 2]), "fresh", None),
        (Packet(1, 0, [9, 9]), "stale", None),
        (Packet(0, 0, [9, 9]), "stale", None),
        (Packet(1, 2, [1, 2]), "added, complete", [2, 4]),
        (Packet(1, 0, [9, 9]), "stale", None),
    ]),
    "slots and copies are apart": (2, 2, [
        (Packet(0, 0, [1, 0]), "fresh", None),
        (Packet(0, 1, [2, 0]), "fresh", None),
        (Packet(1, 1, [10, 1]), "added, complete", [12, 1]),
        (Packet(1, 0, [10, 1]), "added, complete", [11, 1]),
        (Packet(0, 3, [4, 0]), "fresh", None),
        (Packet(0, 2, [3, 0]), "fresh", None),
        (Packet(1, 3, [10, 1]), "added, complete", [14, 1]),
        (Packet(1, 2, [10, 1]), "added, complete", [13, 1]),
        (Packet(0, 1, [2, 0]), "retransmit", [12, 1]),
        (Packet(0, 0, [1, 0]), "retransmit", [11, 1]),
    ]),
    "who is absent adds nothing": (3, 1, [
        (Packet(0, 0, [1, 2]), "fresh", None),
        (Packet(1, 0, absent=True), "added", None),
        (Packet(2, 0, [3, 4]), "added, complete", [4, 6]),
        (Packet(1, 0, absent=True), "retransmit", [4, 6]),
    ]),
    "the first elements to come are taken, whatever the copy held before": (3, 1, [
        *((Packet(worker, tsi, [7, 7]), ("added, complete" if worker == 2 else "added") if worker else "fresh",
           [21, 21] if worker == 2 else None) for tsi in (0, 1) for worker in range(3)),
        (Packet(0, 2, absent=True), "fresh", None),
        (Packet(1, 2, [3, 4]), "first", None),
        (Packet(1, 2, [3, 4]), "duplicate", None),
        (Packet(2, 2, [5, 6]), "added, complete", [8, 10]),
        (Packet(0, 2, absent=True), "retransmit", [8, 10]),
    ]),
    "the last to come may be the first with elements": (2, 1, [
        (Packet(0, 0, absent=True), "fresh", None),
        (Packet(1, 0, [3, 4]), "first, complete", [3, 4]),
        (Packet(0, 0, absent=True), "retransmit", [3, 4]),
    ]),
    "the last to come may be absent": (2, 1, [
        (Packet(0, 0, [3, 4]), "fresh", None),
        (Packet(1, 0, absent=True), "added, complete", [3, 4]),
    ]),
    "all are absent": (2, 1, [
        (Packet(0, 0, absent=True), "fresh", None),
        (Packet(1, 0, absent=True), "added, complete", []),
        (Packet(0, 0, absent=True), "retransmit", []),
    ]),
    "a worker alone is absent": (1, 1, [
        (Packet(0, 0, absent=True), "fresh, complete", []),
        (Packet(0, 1, [1, 1]), "fresh, complete", [1, 1]),
    ]),
    "absent is not the same as exponents alone": (2, 1, [
        (Packet(0, 0, []), "fresh", None),
        (Packet(1, 0, absent=True), "misfit", None),
        (Packet(1, 0, []), "added, complete", []),
        (Packet(1, 1, absent=True), "fresh", None),
        (Packet(0, 1, []), "misfit", None),
        (Packet(0, 1, [1, 2]), "first, complete", [1, 2]),
    ]),
    "another kind does not fit the chunk": (3, 1, [
        (Packet(0, 0, []), "fresh", None),
        (Packet(1, 0, [1, 2]), "misfit", None),
        (Packet(1, 0, []), "added", None),
        (Packet(2, 0, []), "added, complete", []),
    ]),
    "int32 wraps around": (2, 1, [
        (Packet(0, 0, [2**31 - 1, -(2**31)]), "fresh", None),
        (Packet(1, 0, [1, -1]), "added, complete", [-(2**31), 2**31 - 1]),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_script(name: str) -> None:
    workers, window, script = TABLE[name]
    switch = Switch(workers, window)
    for step, (packet, verdict, result) in enumerate(script):
        assert switch.take(packet)[:2] == (verdict, result), f"step {step}: {packet}"


def test_sequence_numbers_wrap() -> None:
    script: Script = [
        (Packet(0, 0, [9, 9]), "ahead", None),
        (Packet(0, 0xFFFFFFFE, [1, 2]), "fresh", None),
        (Packet(1, 0xFFFFFFFE, [1, 2]), "added, complete", [2, 4]),
        (Packet(1, 0, [9, 9]), "ahead", None),
        (Packet(1, 0xFFFFFFFF, [5, 5]), "fresh", None),
        (Packet(0, 0xFFFFFFFF, [5, 6]), "added, complete", [10, 11]),
        (Packet(1, 0, [3, 3]), "fresh", None),
        (Packet(0, 0xFFFFFFFE, [7, 7]), "stale", None),
        (Packet(0, 0, [4, 4]), "added, complete", [7, 7]),
        (Packet(0, 2, [4, 4]), "ahead", None),
        (Packet(0, 1, [4, 4]), "fresh", None),
    ]
    switch = Switch(2, start=0xFFFFFFFE)
    for step, (packet, verdict, result) in enumerate(script):
        assert switch.take(packet)[:2] == (verdict, result), f"step {step}: {packet}"


def test_a_worker_may_ask_whether_its_packet_has_come() -> None:
    switch = Switch(2, start=0xFFFFFFFE)
    steps: list[tuple[Packet | None, dict[int, list[str]]]] = [
        # after the packet, what each worker hears of which sequence number
        (None, {0xFFFFFFFE: ["unseen", "unseen"], 0: ["unseen", "unseen"], 0xFFFFFFFA: ["stale", "stale"]}),
        (Packet(1, 0xFFFFFFFE, [1, 2]), {0xFFFFFFFE: ["unseen", "waiting"], 0: ["unseen", "unseen"]}),
        (Packet(0, 0xFFFFFFFE, absent=True), {0xFFFFFFFE: ["retransmit", "retransmit"], 0: ["unseen", "unseen"]}),
        (Packet(0, 0xFFFFFFFF), {0xFFFFFFFF: ["waiting", "unseen"], 0xFFFFFFFE: ["retransmit", "retransmit"]}),
        (Packet(1, 0xFFFFFFFF), {0xFFFFFFFF: ["retransmit", "retransmit"]}),
        (Packet(0, 0), {0: ["waiting", "unseen"], 0xFFFFFFFE: ["stale", "stale"]}),
    ]  # fmt: skip
    for packet, heard in steps:
        if packet is not None:
            switch.take(packet)
        for tsi, verdicts in heard.items():
            assert [switch.ask(worker, tsi) for worker in range(2)] == verdicts, (packet, tsi)


def test_an_unused_copy_has_seen_nobody() -> None:
    switch = Switch(256)
    for tsi in (0, 1, 0x80000000):
        assert [switch.ask(worker, tsi) for worker in (0, 255)] == ["unseen", "unseen"]


def test_exponents_are_the_maximum_of_the_chunk_s_own() -> None:
    switch = Switch(3)
    steps = [
        (Packet(0, 0, e0=-5, e1=-128), (-5, -128)),
        (Packet(0, 0, e0=100, e1=100), (-5, -128)),  # a duplicate's do not count
        (Packet(1, 0, e0=7, e1=-1), (7, -1)),
        (Packet(2, 0, e0=-128, e1=127), (7, 127)),
        (Packet(1, 0, e0=9, e1=9), (7, 127)),  # nor do a retransmission's
        (Packet(1, 2, e0=1, e1=2), (7, 127)),  # nor one before its turn
    ]
    for packet, exponents in steps:
        assert switch.take(packet)[2] == exponents, packet
    for worker in range(3):
        switch.take(Packet(worker, 1))
    for packet, exponents in [
        (Packet(1, 2, e0=-90, e1=-91), (-90, -91))
    ]:  # the copy's next chunk starts anew
        assert switch.take(packet)[2] == exponents, packet


def test_256_workers_have_a_bit_each() -> None:
    switch = Switch(256, elements=1)
    order = list(range(256))
    random.Random(1).shuffle(order)
    for number, worker in enumerate(order[:-1]):
        assert switch.take(Packet(worker, 0, [1]))[0] == ("added" if number else "fresh")
        assert switch.take(Packet(worker, 0, [1]))[0] == "duplicate"
        seen = {other for other in range(256) if is_seen(switch.pool.slots, 0, other)}
        assert seen == set(order[: number + 1])
    assert switch.take(Packet(order[-1], 0, [1]))[:2] == ("added, complete", [256])
    assert switch.take(Packet(255, 0, [1]))[:2] == ("retransmit", [256])


def test_clearing_forgets_both_copies_of_these_slots_only() -> None:
    switch = Switch(2, window=4, start=8)
    for tsi in range(8, 16):
        for worker in range(2):
            switch.take(Packet(worker, tsi, [1, 1]))
    clear_slots(switch.pool.slots, 1, 2)
    used = switch.pool.slots["used"].reshape(4, 2).any(axis=1)
    assert used.tolist() == [True, False, False, True]
    assert switch.take(Packet(0, 1, [1, 1]))[0] == "fresh"
    assert switch.take(Packet(0, 8, [1, 1]))[0] == "retransmit"


# A chunk of each copy is done, then a copy of worker 0's first packet arrives late, before chunk 2 (which uses that copy again).
DELAYED_DUPLICATE = [
    Packet(0, 0, [1, 1]), Packet(1, 0, [2, 2]), Packet(0, 1, [10, 10]), Packet(1, 1, [20, 20]), Packet(0, 0, [1, 1]),
    Packet(1, 2, [200, 200]), Packet(0, 2, [100, 100]),
]  # fmt: skip


def test_the_published_machine_adds_a_delayed_duplicate_to_a_foreign_chunk() -> None:
    switch = Switch(2, paper=True)
    told = [switch.take(packet)[:2] for packet in DELAYED_DUPLICATE]
    assert told[1] == ("added, complete", [3, 3])
    assert told[3] == ("added, complete", [30, 30])
    assert told[4] == ("fresh", None)
    assert told[5] == ("added, complete", [201, 201]), "chunk 2 has the elements of chunk 0"


def test_the_stamp_keeps_it_out() -> None:
    switch = Switch(2)
    told = [switch.take(packet)[:2] for packet in DELAYED_DUPLICATE]
    assert told[4] == ("retransmit", [3, 3])
    assert told[5:] == [("fresh", None), ("added, complete", [300, 300])]
    assert switch.take(DELAYED_DUPLICATE[0])[0] == "stale"


PAPER: Script = [
    (Packet(0, 0, [1, 2]), "fresh", None),
    (Packet(0, 0, [1, 2]), "duplicate", None),
    (Packet(1, 0, []), "misfit", None),
    (Packet(1, 0, [3, 4]), "added, complete", [4, 6]),
    (Packet(0, 0, [1, 2]), "retransmit", [4, 6]),
    (Packet(0, 1, [1, 1]), "fresh", None),  # clears worker 0's bit of the first copy
    (Packet(1, 0, [3, 4]), "retransmit", [4, 6]),
    (Packet(1, 1, [1, 1]), "added, complete", [2, 2]),
    (Packet(0, 1, [1, 1]), "retransmit", [2, 2]),
    (Packet(1, 2, [5, 5]), "fresh", None),
    (Packet(0, 2, [6, 6]), "added, complete", [11, 11]),
    (Packet(0, 3, absent=True), "fresh", None),
    (Packet(1, 3, [6, 6]), "first, complete", [6, 6]),
    (Packet(1, 4, absent=True), "fresh", None),
    (Packet(0, 4, absent=True), "added, complete", []),
]


def test_published_machine_script() -> None:
    switch = Switch(2, paper=True)
    for step, (packet, verdict, result) in enumerate(PAPER):
        assert switch.take(packet)[:2] == (verdict, result), f"step {step}: {packet}"


class Model:
    """The protocol's table with dictionaries and unbounded integers."""

    def __init__(self, workers: int, window: int) -> None:
        self.workers, self.window = workers, window
        self.complete: set[int] = set()
        self.chunks: dict[int, tuple[int, dict[int, Packet]]] = {}

    def take(self, copy: int, packet: Packet) -> tuple[str, list[int] | None]:
        stamp, seen = self.chunks.get(copy, (-1, {}))
        if packet.tsi > stamp:
            if packet.tsi >= self.window and packet.tsi - self.window not in self.complete:
                return "ahead", None
            stamp, seen = packet.tsi, {}
            self.chunks[copy] = stamp, seen
        if packet.tsi < stamp:
            return "stale", None
        if packet.worker in seen:
            done = len(seen) == self.workers
            return ("retransmit", self.total(seen)) if done else ("duplicate", None)
        kinds = {other.kind for other in (*seen.values(), packet)}
        if EXPONENTS in kinds and len(kinds) > 1:
            return "misfit", None
        first = packet.values and not any(other.values for other in seen.values())
        seen[packet.worker] = packet
        verdict = "fresh" if len(seen) == 1 else "first" if first else "added"
        if len(seen) < self.workers:
            return verdict, None
        self.complete.add(stamp)
        return f"{verdict}, complete", self.total(seen)

    def ask(self, copy: int, worker: int, tsi: int) -> str:
        stamp, seen = self.chunks.get(copy, (-1, {}))
        if tsi < stamp:
            return "stale"
        if tsi > stamp or worker not in seen:
            return "unseen"
        return "retransmit" if len(seen) == self.workers else "waiting"

    def total(self, seen: dict[int, Packet]) -> list[int]:
        given = [packet.values for packet in seen.values() if packet.values]
        sums = [sum(column) for column in zip(*given, strict=True)]
        return [(value + 2**31) % 2**32 - 2**31 for value in sums]


packets_ = st.builds(
    Packet,
    worker=st.integers(0, 4),
    tsi=st.integers(0, 9),
    values=st.sampled_from([(1, -1), (2**31 - 1, -(2**31)), (5, 7)]),
    e0=st.integers(-128, 127),
    e1=st.just(0),
)


# One packet of every worker, so that the next chunk's turn comes.
rounds_ = st.builds(
    lambda packet, order: [packet._replace(worker=worker) for worker in order],
    packets_,
    st.permutations(range(5)),
)


@given(
    st.integers(1, 5),
    st.sampled_from([1, 2, 4]),
    st.lists(st.one_of(packets_.map(lambda packet: [packet]), rounds_), min_size=10, max_size=60).map(
        lambda parts: [packet for part in parts for packet in part]
    ),
)
def test_random_traces_against_the_model(workers: int, window: int, packets: list[Packet]) -> None:
    switch, model = Switch(workers, window), Model(workers, window)
    for step, drawn in enumerate(packets):
        worker = drawn.worker % workers
        # Some send no elements; a worker that repeats a packet sends one of the same kind.
        kind = (worker + 3 * drawn.tsi) % 7
        packet = drawn._replace(worker=worker, values=drawn.values if kind > 2 else (), absent=kind in (1, 2))
        copy = switch.index(packet.tsi)
        verdict, result, exponents = switch.take(packet)
        assert (verdict, result) == model.take(copy, packet), f"step {step}: {packet}"
        for tsi in range(max(0, packet.tsi - 2 * window), packet.tsi + 2 * window + 1, window):
            for rank in range(workers):
                assert switch.ask(rank, tsi) == model.ask(switch.index(tsi), rank, tsi), (step, rank, tsi)
        if copy in model.chunks:
            assert exponents[0] == max(other.e0 for other in model.chunks[copy][1].values())


@given(st.integers(0, 20), st.integers(0, 1), st.data())
def test_a_packet_before_its_turn_changes_nothing(steps: int, worker: int, data: st.DataObject) -> None:
    """However far a job has come: what no worker can have sent leaves the pool as it was, byte by byte."""
    window = 2
    switch = Switch(2, window)
    honest = [Packet(rank, tsi, [tsi, rank]) for tsi in range(11) for rank in range(2)]
    for packet in honest[:steps]:
        switch.take(packet)
    tsi = data.draw(st.integers(steps // 2 + window, 2**32 - 1))
    before = switch.pool.slots.tobytes(), switch.pool.sums.tobytes()
    assert switch.take(Packet(worker, tsi, [99, 99]))[:2] in [("ahead", None), ("stale", None)]
    assert (switch.pool.slots.tobytes(), switch.pool.sums.tobytes()) == before
    for packet in honest[steps:]:
        told, result, _ = switch.take(packet)
        expected = ("added, complete", [2 * packet.tsi, 1]) if packet.worker else ("fresh", None)
        assert (told, result) == expected
