"""What a switch does that has another above it, as packets in and out of the plain slot machine; all orders: tests/check."""

from __future__ import annotations

import numpy as np
import pytest

from switchml.aggregation.slot_machine import AHEAD, COMPLETE, DUPLICATE, FRESH, MISFIT, STALE
from switchml.check.machines import ELEMENTS, Answer, SwitchMachine
from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.messages import ABSENT, ASK, ASKED, ELEMENT_BYTES, SUM, SUM8, SUM16, size_code

SIZE = size_code(ELEMENT_BYTES * ELEMENTS)


def packet(tsi: int = 0, kind: int = SUM, fill: int = 0, e0: int = 0, e1: int = -128, **others: int) -> bytes:
    """Of a window of 2, all of its elements `fill`."""
    fields = {"to_one": 0, "but_one": 0, "size": SIZE, "job_number": 5} | others
    header = Header(msg_type=kind, tsi=tsi, version=tsi // 2 % 2, slot=tsi % 2, e0=e0, e1=e1, **fields)
    elements = np.full(ELEMENTS, fill, ">i4").tobytes() if kind == SUM else b""
    return build_header(header) + elements


def words(sent: bytes) -> list[int]:
    return sorted(set(np.frombuffer(sent, ">i4", offset=HEADER_BYTES).tolist()))


def leaf(**options: str) -> SwitchMachine:
    """A rack of the ranks 2 and 3."""
    return SwitchMachine(2, 2, members=(2, 3), above=True, **options)


ABOVE = 2


def filled(machine: SwitchMachine, tsi: int = 0) -> Answer:
    assert machine.take(1, packet(tsi, fill=1, e0=4)).up == b""
    return machine.take(0, packet(tsi, fill=2, e0=-3))


def test_a_full_rack_goes_up_and_nothing_down() -> None:
    machine = leaf()
    sent = filled(machine)
    assert (sent.packet, words(sent.up), parse_header(sent.up).e0) == (b"", [3], 4)
    result = machine.take(ABOVE, packet(fill=9, e0=7))
    assert (result.verdict, result.to, words(result.packet)) == (FRESH + COMPLETE, None, [9])
    assert parse_header(result.packet).e0 == 7
    again = machine.take(1, packet(fill=1))
    assert (again.to, again.packet) == (1, result.packet)


def test_the_first_worker_alone_has_the_sums_sent_up_again() -> None:
    machine = leaf()
    sent = filled(machine)
    assert machine.take(0, packet(fill=2, e0=-3)).up == sent.up
    again = machine.take(1, packet(fill=1))
    assert (again.verdict, again.up, again.packet) == (DUPLICATE, b"", b"")
    assert words(machine.take(0, packet(fill=2)).up) == [3], "what was sent again is not added"


def test_the_first_workers_question_goes_up_and_the_answer_to_it() -> None:
    machine, question = leaf(), packet(kind=ASK)
    filled(machine)
    assert machine.take(0, question).up == question
    other = machine.take(1, question)
    assert (other.to, parse_header(other.packet).e0, other.up) == (1, 1, b"")
    unseen = packet(kind=ASK, e0=0)
    told = machine.take(ABOVE, unseen)
    assert (told.to, told.packet) == (0, unseen)
    result = machine.take(ABOVE, packet(fill=9, size=SIZE ^ ASKED))
    assert (result.to, parse_header(result.packet).size) == (None, SIZE), "it goes to all"


@pytest.mark.parametrize(
    ("tsi", "kind", "verdict"), [(0, SUM, AHEAD), (2, SUM, AHEAD), (0, ASK, AHEAD), (0, ABSENT, AHEAD)]
)
def test_what_is_not_pending_takes_nothing_from_above(tsi: int, kind: int, verdict: int) -> None:
    machine = leaf()
    machine.take(0, packet(fill=1))
    before = machine.save()
    answer = machine.take(ABOVE, packet(tsi, kind))
    assert (answer.verdict, answer.packet, answer.up) == (verdict, b"", b"")
    assert machine.save() == before


def test_a_result_is_taken_once_and_never_for_another_chunk() -> None:
    machine = leaf()
    for tsi in (0, 2):
        filled(machine, tsi)
        machine.take(ABOVE, packet(tsi, fill=9))
    assert machine.take(ABOVE, packet(2, fill=8)).verdict == DUPLICATE
    filled(machine, 4)
    before = machine.save()
    assert machine.take(ABOVE, packet(0, fill=8)).verdict == STALE
    assert machine.take(ABOVE, packet(4, kind=ABSENT)).verdict == MISFIT, "elements have gone up"
    assert machine.save() == before


def test_elements_come_to_a_rack_that_had_none() -> None:
    machine = leaf()
    machine.take(0, packet(kind=ABSENT))
    assert parse_header(machine.take(1, packet(kind=ABSENT)).up).msg_type == ABSENT
    assert words(machine.take(ABOVE, packet(fill=9)).packet) == [9]


@pytest.mark.parametrize("rank", [2, 0])
def test_elements_for_one_rank_go_to_it_if_it_is_here(rank: int) -> None:
    machine = leaf()
    ways = {"to_one": 1, "e1": rank}
    machine.take(0, packet(kind=ABSENT, **ways))
    up = machine.take(1, packet(fill=5, **ways)).up
    assert (parse_header(up).to_one, parse_header(up).e1) == (1, rank)
    down = packet(fill=9, **ways) if rank == 2 else packet(kind=ABSENT, **ways)
    told = dict(machine.take(ABOVE, down).deliveries(2))
    assert [words(told[0]), words(told[1])] == ([[9], []] if rank == 2 else [[], []])
    header = parse_header(told[1])
    assert (header.msg_type, header.to_one) == (ABSENT, 1)
    assert machine.take(1, packet(fill=5, **ways)).packet == told[1], "and is told so again"


def test_the_root_knows_whose_rack_a_rank_is_in() -> None:
    root = SwitchMachine(3, 2, members=(frozenset({0, 1}), frozenset({2}), frozenset({3, 4})))
    for ways, who in (
        ({"to_one": 1, "e1": 4}, [2]),
        ({"but_one": 1, "e1": 2}, [0, 2]),
        ({"but_one": 1, "e1": 3}, [0, 1, 2]),
    ):
        for member in range(2):
            root.take(member, packet(fill=1, **ways))
        told = dict(root.take(2, packet(fill=1, **ways)).deliveries(3))
        assert [member for member in range(3) if words(told[member])] == who
        root = SwitchMachine(3, 2, members=(frozenset({0, 1}), frozenset({2}), frozenset({3, 4})))


@pytest.mark.parametrize(("kind", "wire", "bits"), [(SUM16, "int16", 16), (SUM8, "int8", 8)])
def test_narrow_lanes_are_rounded_once_a_switch(kind: int, wire: str, bits: int) -> None:
    lanes = ELEMENT_BYTES * ELEMENTS * 8 // bits
    top = 2 ** (bits - 1) - 1
    given = np.random.default_rng(1).integers(-top - 1, top + 1, (6, lanes))
    racks = [SwitchMachine(3, 2, members=ranks, above=True, wire=wire) for ranks in ((0, 1, 2), (3, 4, 5))]
    root = SwitchMachine(2, 2, members=(frozenset({0, 1, 2}), frozenset({3, 4, 5})), wire=wire)
    for rank, values in enumerate(given):
        rack, number = divmod(rank, 3)
        ways = {"to_one": 1, "e1": 4}
        up = (
            racks[rack].take(number, packet(kind=kind, **ways) + values.astype(f">i{bits // 8}").tobytes()).up
        )
        result = root.take(rack, up).packet if up else b""
    assert parse_header(up).to_one == 0
    told = [dict(rack.take(3, result).deliveries(3)) for rack in racks]
    with_elements = [len(sent) > HEADER_BYTES for below in told for sent in below.values()]
    assert with_elements == [False, False, False, False, True, False]
    shift = parse_header(told[1][1]).e1
    sums = np.frombuffer(told[1][1], f">i{bits // 8}", offset=HEADER_BYTES).astype(np.int64) << shift
    assert 0 < shift <= 3
    # 2^ceil(log2 m) - 1 of each rack of m, and of the root.
    assert np.max(np.abs(sums - given.sum(axis=0))) <= 3 + 3 + 7
    ways = {"to_one": 1, "e1": 4}
    again = racks[1].take(1, packet(kind=kind, **ways) + given[4].astype(f">i{bits // 8}").tobytes())
    assert again.packet == told[1][1]
