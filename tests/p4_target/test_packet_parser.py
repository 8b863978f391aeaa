"""The parser: extraction, lookahead, stacks, unions, variable lengths, select, errors."""

from __future__ import annotations

from typing import Any

import pytest

from switchml.p4runtime.entries import Match, MatchKind


def _reports_error(program: Any) -> None:
    """Puts the parser's error code into a header in front of the packet."""
    program.header("report", [("error", 8)])
    program.order.insert(0, "report")
    program.run(
        [
            program.call("add_header", program.of("header", "report")),
            program.assign("report", "error", program.std("parser_error")),
        ]
    )


def test_fields_that_cross_bytes(builder: Any) -> None:
    program = builder()
    program.simple(("a", 3), ("b", 13), ("c", 48), ("d", 7), ("e", 1), ("f", 24))
    program.run([program.assign("h", "b", program.op("+", program.field("h", "b"), program.const(1)))])
    frame = bytes.fromhex("bfff 010203040506 ff aabbcc") + b"payload"
    assert program.switch().process(1, frame) == [
        (0, bytes.fromhex("a000 010203040506 ff aabbcc") + b"payload")
    ]


def test_a_short_packet_stops_the_parser_where_it_is(builder: Any) -> None:
    program = builder()
    program.header("first", [("x", 16)])
    program.header("second", [("x", 32)])
    program.order += ["first", "second"]
    program.state("start", [program.extract("first"), program.extract("second")])
    _reports_error(program)
    switch = program.switch()
    assert switch.process(1, b"abcdef") == [(0, b"\x00abcdef")]
    assert switch.process(1, b"abcde") == [(0, b"\x01abcde")]
    assert switch.process(1, b"a") == [(0, b"\x01a")]


def test_select_with_masks_lookahead_and_a_default(builder: Any) -> None:
    program = builder()
    for name in ("low", "high", "other"):
        program.header(name, [("x", 8)])
        program.state(f"to_{name}", [program.extract(name)])
    program.order += ["high", "low", "other"]
    look = program.of("lookahead", [0, 8])
    program.state(
        "choose",
        [],
        [look],
        cases=[("0x01", None, "to_low"), ("0x80", "0x80", "to_high")],
        default="to_other",
    )
    program.states.insert(0, program.states.pop())
    marks = [
        program.call("assign", program.field(name, "x"), program.const(value))
        for name, value in (("low", 0xA), ("high", 0xB), ("other", 0xC))
    ]
    program.run(marks)
    switch = program.switch()
    assert [switch.process(1, bytes([b, 9]))[0][1] for b in (1, 0x80, 0xFF, 2)] == [
        b"\x0a\x09",
        b"\x0b\x09",
        b"\x0b\x09",
        b"\x0c\x09",
    ]
    # Nothing to look at.
    assert switch.process(1, b"") == [(0, b"")]


def test_many_plain_cases(builder: Any) -> None:
    program = builder()
    program.header("tag", [("x", 8), ("y", 8)])
    program.order += ["tag"]
    names = [f"s{i}" for i in range(6)]
    for name in names:
        program.header(name, [("v", 8)])
        program.order.append(name)
        program.state(name, [program.extract(name)])
    key = [program.field("tag", "x"), program.field("tag", "y")]
    cases = [(f"0x{i:02x}{i + 1:02x}", None, name) for i, name in enumerate(names)]
    # A second case on a value never gets its turn.
    program.state("start", [program.extract("tag")], key, cases=[*cases, ("0x0001", None, "s5")])
    program.states.insert(0, program.states.pop())
    program.run([program.assign(name, "v", program.const(0xF0 + i)) for i, name in enumerate(names)])
    switch = program.switch()
    for i in range(6):
        assert switch.process(1, bytes([i, i + 1, 0]))[0][1] == bytes([i, i + 1, 0xF0 + i])
    assert switch.process(1, b"\x05\x05\x00") == [(0, b"\x05\x05\x00")]


def test_a_stack_fills_up_and_then_is_an_error(builder: Any) -> None:
    program = builder()
    program.stack("s", 2, [("more", 1), ("v", 7)])
    program.order += ["s[0]", "s[1]"]
    program.state(
        "start",
        [program.extract("s", "stack")],
        [program.of("stack_field", ["s", "more"])],
        cases=[("0x01", None, "start")],
    )
    _reports_error(program)
    switch = program.switch()
    assert switch.process(1, b"\x81\x02\x03") == [(0, b"\x00\x81\x02\x03")]
    assert switch.process(1, b"\x81\x82\x03") == [(0, b"\x03\x81\x82\x03")]


@pytest.mark.parametrize(
    ("primitive", "count", "result"),
    [
        ("push", 1, b"\x01\x02"),
        ("push", 5, b""),
        ("pop", 1, b"\x02\x03"),
        ("pop", 2, b"\x03"),
        ("pop", 9, b""),
    ],
)
def test_push_and_pop_move_the_whole_stack(builder: Any, primitive: str, count: int, result: bytes) -> None:
    program = builder()
    program.stack("s", 3, [("v", 8)])
    program.order += [f"s[{i}]" for i in range(3)]
    program.state("start", [program.extract("s", "stack") for _ in range(3)])
    program.run([program.call(primitive, program.of("header_stack", "s"), program.const(count))])
    assert program.switch().process(1, b"\x01\x02\x03") == [(0, result)]


def test_an_element_is_addressed_by_a_field(builder: Any) -> None:
    program = builder()
    program.header("h", [("i", 8)])
    program.stack("s", 3, [("a", 8), ("v", 8)])
    program.order += ["h", "s[0]", "s[1]", "s[2]"]
    program.state("start", [program.extract("h"), *(program.extract("s", "stack") for _ in range(3))])
    element = program.op("dereference_header_stack", program.of("header_stack", "s"), program.field("h", "i"))
    target = {"type": "expression", "value": {"op": "access_field", "left": element, "right": 1}}
    program.run([program.call("assign", target, program.op("+", target, program.const(0x40)))])
    switch = program.switch()
    assert switch.process(1, bytes([1, 1, 2, 3, 4, 5, 6])) == [(0, bytes([1, 1, 2, 3, 0x44, 5, 6]))]
    # Out of range: nothing that the program can see changes.
    assert switch.process(1, bytes([9, 1, 2, 3, 4, 5, 6])) == [(0, bytes([9, 1, 2, 3, 4, 5, 6]))]


def test_only_one_member_of_a_union_is_valid(builder: Any) -> None:
    program = builder()
    ids = [program.header("u.a", [("x", 8)]), program.header("u.b", [("x", 16)])]
    program.union_types.append({"name": "u_t", "id": 0, "headers": [["a", "u.a_t"], ["b", "u.b_t"]]})
    program.unions.append({"name": "u", "id": 0, "union_type": "u_t", "header_ids": ids})
    program.order += ["u.a", "u.b"]
    program.state("start", [program.extract("u.a")])
    program.run(
        [
            program.call("add_header", program.of("header", "u.b")),
            program.assign("u.b", "x", program.const(0x1234)),
        ]
    )
    assert program.switch().process(1, b"\x01") == [(0, b"\x12\x34")]


def test_a_variable_field_has_the_length_it_is_given(builder: Any) -> None:
    program = builder()
    program.header("h", [("words", 8), ("options", "*"), ("after", 8)])
    program.types[-1]["max_length"] = 10
    program.header("first", [("n", 8)])
    program.order += ["first", "h"]
    length = program.op("<<", program.field("first", "n"), program.const(3))
    extract = {
        "op": "extract_VL",
        "parameters": [{"type": "regular", "value": "h"}, {"type": "expression", "value": length}],
    }
    program.state("start", [program.extract("first"), extract])
    program.run([program.assign("h", "after", program.const(0xEE))])
    _reports_error(program)
    switch = program.switch()
    assert switch.process(1, b"\x03Wabc\x01rest") == [(0, b"\x00\x03Wabc\xeerest")]
    assert switch.process(1, b"\x00W\x01rest") == [(0, b"\x00\x00W\xeerest")]
    assert switch.process(1, b"\x03Wab") == [(0, b"\x01\x03Wab")]
    # Longer than the header may be.
    too_short = switch.program.errors["HeaderTooShort"]
    assert switch.process(1, b"\x09" + bytes(20)) == [(0, bytes([too_short]) + b"\x09" + bytes(20))]


def test_verify_and_advance(builder: Any) -> None:
    program = builder()
    program.header("h", [("x", 8)])
    program.order += ["h"]
    condition = program.op("!=", program.field("h", "x"), program.const(0))
    program.state(
        "start",
        [
            {"op": "advance", "parameters": [program.const(16)]},
            program.extract("h"),
            {"op": "verify", "parameters": [condition, program.const(2)]},
        ],
    )
    _reports_error(program)
    switch = program.switch()
    # What was skipped is gone, as on BMv2.
    assert switch.process(1, b"ab\x01rest") == [(0, b"\x00\x01rest")]
    assert switch.process(1, b"ab\x00rest") == [(0, b"\x02\x00rest")]
    assert switch.process(1, b"a") == [(0, b"\x01a")]


def test_a_value_set_is_filled_by_the_control_plane(builder: Any) -> None:
    program = builder()
    program.value_sets.append({"name": "vs", "id": 0, "compressed_bitwidth": 8})
    program.header("h", [("x", 8)])
    program.header("g", [("x", 8)])
    program.order += ["h", "g"]
    program.state("start", [program.extract("h")], [program.field("h", "x")], cases=[("vs", None, "in_set")])
    program.state("in_set", [program.extract("g")])
    program.run([program.assign("g", "x", program.const(0x99))])
    switch = program.switch()
    assert switch.process(1, b"\x05\x00") == [(0, b"\x05\x00")]
    switch.set_value_set("vs", [[Match(MatchKind.EXACT, 5)], [Match(MatchKind.TERNARY, 0x80, 0x80)]])
    assert [switch.process(1, bytes([x, 0]))[0][1][1] for x in (5, 6, 0x85)] == [0x99, 0, 0x99]
    switch.set_value_set("vs", [])
    assert switch.process(1, b"\x05\x00") == [(0, b"\x05\x00")]
