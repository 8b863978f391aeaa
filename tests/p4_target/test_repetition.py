"""Statements over runs of fields are done as whole arrays, and nobody can tell but by the clock."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchml.p4runtime.entries import CloneSession, Digest, Replica

COUNT = 20
WORDS = st.lists(st.integers(0, 2**32 - 1), min_size=COUNT, max_size=COUNT)


def _program(builder: Any, *, temporaries: str = "each") -> Any:
    """Adds a packet's elements to registers at an index and answers with the sums. temporaries: one for "each"
    register, "one" for all, or "read" by somebody else as well; "phases": all reads come before all additions.
    """
    program = builder()
    temps = [("t", 32)] if temporaries == "one" else [(f"t{i}", 32) for i in range(COUNT)]
    program.header("meta", [*temps, ("i", 32)], metadata=True)
    program.header("h", [("i", 16), ("first", 8)])
    program.header("data", [(f"e{i}", 32) for i in range(COUNT)])
    program.order += ["h", "data"]
    program.state("start", [program.extract("h"), program.extract("data")])
    body, additions, writes = [], [], []
    for i in range(COUNT):
        program.registers.append({"name": f"sum_{i}", "id": i, "size": 4, "bitwidth": 32})
        register = program.of("register_array", f"sum_{i}")
        temp = program.field("meta", "t" if temporaries == "one" else f"t{i}")
        element, index = program.field("data", f"e{i}"), program.field("h", "i")
        added = program.op("&", program.op("+", element, temp), program.const(0xFFFFFFFF))
        kept = program.op(
            "?", element, added, cond=program.op("!=", program.field("h", "first"), program.const(0))
        )
        body.append(program.call("register_read", temp, register, index))
        phases = temporaries == "phases"
        (additions if phases else body).append(program.call("assign", element, kept))
        (writes if phases else body).append(program.call("register_write", register, index, element))
    program.run(body + additions + writes)
    if temporaries == "read":
        program.run([program.assign("h", "first", program.field("meta", "t10"))])
    return program


def _frame(index: int, first: int, words: list[int]) -> bytes:
    return struct.pack(f">HB{COUNT}I", index, first, *words) + b"tail"


@pytest.mark.parametrize("temporaries", ["each", "one", "read", "phases"])
def test_sums_are_those_of_single_statements(builder: Any, temporaries: str) -> None:
    program = _program(builder, temporaries=temporaries)
    switch = program.switch()
    state = {i: [0] * COUNT for i in range(4)}
    # Not a statement an element.
    assert "bank_0[i]" in switch.source
    assert "bank_0[i, " not in switch.source

    @given(packets=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), WORDS), min_size=1, max_size=5))
    @settings(max_examples=40)
    def check(packets: list[tuple[int, int, list[int]]]) -> None:
        for index, first, words in packets:
            ((_, sent),) = switch.process(1, _frame(index, first, words))
            before = state.get(index, [0] * COUNT)
            sums = words if first else [(a + b) % 2**32 for a, b in zip(words, before, strict=True)]
            if index in state:
                state[index] = sums
            shown = before[10] % 256 if temporaries == "read" else first
            assert sent == _frame(index, shown, sums)
            for number in (0, 7, COUNT - 1):
                cells = [state[i][number] for i in range(4)]
                assert list(switch.read_register(f"sum_{number}")) == cells

    check()


def test_banks_are_registers_to_the_control_plane(builder: Any) -> None:
    switch = _program(builder).switch()
    switch.write_register("sum_3", 1, 100)
    switch.write_register("sum_4", None, 7)
    ((_, sent),) = switch.process(1, _frame(1, 0, [1] * COUNT))
    words = struct.unpack(f">{COUNT}I", sent[3 : 3 + 4 * COUNT])
    assert words[:6] == (1, 1, 1, 101, 8, 1)
    assert list(switch.read_register("sum_4")) == [7, 8, 7, 7]


@given(words=WORDS, position=st.integers(0, COUNT - 1), value=st.integers(0, 2**32 - 1))
def test_single_elements_of_a_run_are_fields_like_others(
    builder: Any, words: list[int], position: int, value: int
) -> None:
    program = builder()
    program.header("h", [("x", 32)])
    program.header("data", [(f"e{i}", 32) for i in range(COUNT)])
    program.order += ["h", "data"]
    program.state("start", [program.extract("h"), program.extract("data")])
    element = program.field("data", f"e{position}")
    program.run(
        [
            program.assign("h", "x", element),
            program.call("assign", element, program.op("^", element, program.const(value))),
            program.assign("data", "e0", program.op("+", program.field("data", "e0"), program.const(1))),
        ]
    )
    ((_, sent),) = program.switch().process(1, bytes(4) + struct.pack(f">{COUNT}I", *words))
    expected = list(words)
    expected[position] ^= value
    expected[0] = (expected[0] + 1) % 2**32
    assert sent == struct.pack(f">I{COUNT}I", words[position], *expected)


def test_rounds_that_depend_on_each_other_stay_in_order(builder: Any) -> None:
    program = builder()
    program.header("data", [(f"e{i}", 32) for i in range(COUNT)])
    program.order.append("data")
    program.state("start", [program.extract("data")])
    program.run(
        [
            program.assign(
                "data",
                f"e{i + 1}",
                program.op("+", program.field("data", f"e{i + 1}"), program.field("data", f"e{i}")),
            )
            for i in range(COUNT - 1)
        ]
    )
    ((_, sent),) = program.switch().process(1, struct.pack(f">{COUNT}I", *range(COUNT)))
    assert list(struct.unpack(f">{COUNT}I", sent)) == [i * (i + 1) // 2 for i in range(COUNT)]


def test_copies_of_a_packet_do_not_share_changes(builder: Any) -> None:
    program = _program(builder)
    program.run([program.assign("standard_metadata", "mcast_grp", program.const(1))])
    program.run([program.assign("data", "e1", program.std("egress_rid"))], "egress")
    switch = program.switch()
    switch.set_multicast_group(1, [Replica(1, 10), Replica(2, 20)])
    sent = switch.process(1, _frame(0, 0, list(range(COUNT))))
    assert [struct.unpack(f">{COUNT}I", frame[3 : 3 + 4 * COUNT])[:3] for _, frame in sent] == [
        (0, 10, 2),
        (0, 20, 2),
    ]


def test_a_run_of_metadata_is_kept_and_reported_field_by_field(builder: Any) -> None:
    """The temporaries are one run; a field list and a digest name single ones of them."""
    program = _program(builder, temporaries="phases")
    fields = [program.field("meta", "t3"), program.field("meta", "t5")]
    program.field_lists.append({"id": 1, "name": "kept", "elements": fields})
    program.learn_lists.append({"id": 1, "name": "told", "elements": fields})
    program.run(
        [
            program.call("generate_digest", program.const(0), program.const(1)),
            program.call("clone_ingress_pkt_to_egress", program.const(1), program.const(1)),
        ]
    )
    program.run(
        [
            program.assign("h", "i", program.field("meta", "t5")),
            program.assign("h", "first", program.field("meta", "t4")),
        ],
        "egress",
    )
    switch = program.switch()
    assert "meta_t0_to_t19" in switch.source
    told: list[Digest] = []
    switch.on_digest(told.append)
    switch.set_clone_session(1, CloneSession((Replica(7),)))
    for number, value in ((3, 30), (4, 40), (5, 50)):
        switch.write_register(f"sum_{number}", 1, value)
    sent = dict(switch.process(1, _frame(1, 0, [0] * COUNT)))
    assert [digest.values for digest in told] == [(30, 50)]
    assert [sent[port][:3] for port in (0, 7)] == [bytes([0, 50, 40]), bytes([0, 50, 0])]
