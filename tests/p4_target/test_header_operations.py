"""Whole headers, unions, stacks and stacks of unions: assigned, compared, made valid and invalid."""

from __future__ import annotations

from typing import Any

import pytest

from switchml.switch_emulator.p4 import UnsupportedProgramError

WORDS = [(f"e{i}", 16) for i in range(16)]


def _two_headers(builder: Any, fields: list[tuple[Any, ...]] | None = None) -> Any:
    """flag, then headers a and b of one type; b is there only when the flag says so."""
    program = builder()
    fields = fields or [("x", 4), ("y", 12)]
    program.header("flag", [("b_follows", 8), ("same", 8)])
    program.header("a", fields, kind="pair_t")
    program.header("b", fields, kind="pair_t")
    program.order += ["flag", "a", "b"]
    cases = [("0x01", None, "with_b")]
    program.state(
        "start",
        [program.extract("flag"), program.extract("a")],
        [program.field("flag", "b_follows")],
        cases=cases,
    )
    program.state("with_b", [program.extract("b")])
    return program


@pytest.mark.parametrize("primitive", ["assign_header", "copy_header"])
@pytest.mark.parametrize(
    ("frame", "sent"), [(b"\x01\0\x12\x34\x56\x78", b"\x01\0\x56\x78\x56\x78"), (b"\0\0\x12\x34", b"\0\0")]
)
def test_an_assigned_header_is_a_copy_or_as_invalid_as_its_source(
    builder: Any, primitive: str, frame: bytes, sent: bytes
) -> None:
    program = _two_headers(builder)
    program.run([program.call(primitive, program.of("header", "a"), program.of("header", "b"))])
    assert program.switch().process(1, frame) == [(0, sent)]


@pytest.mark.parametrize("fields", [[("x", 4), ("y", 12)], WORDS], ids=["fields", "run"])
@pytest.mark.parametrize("op", ["==", "!="])
def test_headers_are_equal_when_both_are_valid_and_all_fields_are(builder: Any, fields: Any, op: str) -> None:
    program = _two_headers(builder, fields)
    size = sum(width for _, width in fields) // 8
    equal = program.op(op, program.of("header", "a"), program.of("header", "b"))
    program.run([program.assign("flag", "same", program.op("b2d", None, equal))])
    # One side of a run is a list by now, the other bytes as they came.
    first = program.field("a", fields[0][0])
    program.run([program.call("assign", first, first)])
    switch = program.switch()
    alike = bytes(range(size))
    other = bytes([*range(size - 1), 99])
    for follows, second, same in ((1, alike, True), (1, other, False), (0, b"", False)):
        ((_, sent),) = switch.process(1, bytes([follows, 9]) + alike + second)
        assert bool(sent[1]) == (same == (op == "==")), (follows, second)


def test_a_header_made_valid_begins_with_zeros_unless_it_was_valid(builder: Any) -> None:
    program = _two_headers(builder, WORDS)
    program.run(
        [program.assign("b", "e3", program.const(7)), program.call("add_header", program.of("header", "b"))]
    )
    switch = program.switch()
    assert switch.process(1, b"\0\0" + bytes(32)) == [(0, b"\0\0" + bytes(64))]
    ((_, sent),) = switch.process(1, b"\1\0" + bytes(32) + b"\1" * 32)
    assert sent[34:] == b"\1" * 6 + b"\0\7" + b"\1" * 24


def _stacks(builder: Any) -> Any:
    program = builder()
    for name in ("s", "t"):
        program.stack(name, 3, [("v", 8)])
        program.order += [f"{name}[{i}]" for i in range(3)]
    program.header("out", [("last", 8), ("size", 8), ("index", 8)])
    program.order.insert(0, "out")
    program.state("start", [program.extract("s", "stack"), program.extract("s", "stack")])
    program.run([program.call("add_header", program.of("header", "out"))])
    return program


def test_a_stack_is_assigned_with_what_is_in_use(builder: Any) -> None:
    program = _stacks(builder)
    s, t = (program.of("header_stack", name) for name in "st")
    program.run(
        [
            program.call("assign_header_stack", t, s),
            program.call("pop", s, program.const(1)),
            program.assign("out", "last", program.of("stack_field", ["s", "v"])),
            program.assign("out", "size", program.op("size_stack", None, t)),
            program.assign("out", "index", program.op("last_stack_index", None, s)),
        ]
    )
    assert program.switch().process(1, b"\x0a\x0b") == [(0, b"\x0b\x02\x00" + b"\x0b" + b"\x0a\x0b")]


def _unions(builder: Any) -> Any:
    """Two unions u and w of {a: 8 bits, b: 16 bits}, and a stack of two more, us."""
    program = builder()
    program.header("out", [("x", 8)])
    program.order.append("out")
    program.union_types.append({"name": "u_t", "id": 0, "headers": [["a", "a_t"], ["b", "b_t"]]})
    for number, name in enumerate(("u", "w", "us[0]", "us[1]")):
        ids = [
            program.header(f"{name}.a", [("x", 8)], kind="a_t"),
            program.header(f"{name}.b", [("x", 16)], kind="b_t"),
        ]
        program.unions.append({"name": name, "id": number, "union_type": "u_t", "header_ids": ids})
        program.order += [f"{name}.a", f"{name}.b"]
    program.union_stacks.append({"name": "us", "id": 0, "union_type": "u_t", "header_union_ids": [2, 3]})
    return program


def test_a_union_is_assigned_and_compared_as_a_whole(builder: Any) -> None:
    program = _unions(builder)
    u, w = (program.of("header_union", name) for name in "uw")
    program.state("start", [program.extract("out"), program.extract("u.b")])
    program.run(
        [
            program.call("assign_union", w, u),
            program.assign("out", "x", program.op("b2d", None, program.op("==", u, w))),
        ]
    )
    valid = program.op("b2d", None, program.op("valid_union", None, w))
    program.run([program.assign("out", "x", program.op("+", program.field("out", "x"), valid))])
    assert program.switch().process(1, b"\0\x12\x34") == [(0, b"\2\x12\x34\x12\x34")]
    # No union to begin with: none after it, and nothing is equal to nothing.
    assert program.switch().process(1, b"\0\x12") == [(0, b"\0\x12")]


@pytest.mark.parametrize(
    ("popped", "index", "sent"),
    [
        (0, 0, b"\x22\x77\x00\x20"),
        # The member that is not valid takes the value, and nobody sees it.
        (0, 1, b"\x22\x01\x00\x20"),
        (1, 0, b"\x22\x00\x20"),
    ],
)
def test_a_stack_of_unions_is_parsed_indexed_and_shifted(
    builder: Any, popped: int, index: int, sent: bytes
) -> None:
    program = _unions(builder)
    us = program.of("header_union_stack", "us")
    extract = [{"op": "extract", "parameters": [{"type": "union_stack", "value": ["us", m]}]} for m in "ab"]
    program.state("start", [program.extract("out"), *extract])
    element = program.op("dereference_union_stack", us, program.field("out", "x"))
    member = {"type": "expression", "value": {"op": "access_union_header", "left": element, "right": 0}}
    field = {"type": "expression", "value": {"op": "access_field", "left": member, "right": 0}}
    program.run([program.call("assign", field, program.const(0x77))])
    last = program.of("union_stack_field", ["us", "b", "x"])
    program.run([program.assign("out", "x", program.op("+", last, program.op("size_stack", None, us)))])
    program.run([program.call("pop", us, program.const(popped))])
    assert program.switch().process(1, bytes([index]) + b"\x01\x00\x20") == [(0, sent)]


def test_an_element_of_a_stack_of_unions_is_assigned(builder: Any) -> None:
    program = _unions(builder)
    program.state("start", [program.extract("out"), program.extract("u.b")])
    us = program.of("header_union_stack", "us")
    element = program.op("dereference_union_stack", us, program.field("out", "x"))
    program.run([program.call("assign_union", element, program.of("header_union", "u"))])
    program.run([program.call("remove_header", program.of("header", "u.b"))])
    program.run([program.call("assign_union", program.of("header_union", "w"), element)])
    switch = program.switch()
    for index in (0, 1):
        assert switch.process(1, bytes([index]) + b"\x12\x34") == [(0, bytes([index]) + b"\x12\x34" * 2)]


def test_making_a_member_of_a_stacked_union_valid_makes_the_other_one_invalid(builder: Any) -> None:
    program = _unions(builder)
    us = program.of("header_union_stack", "us")
    extract = {"op": "extract", "parameters": [{"type": "union_stack", "value": ["us", "a"]}]}
    program.state("start", [program.extract("out"), extract])
    element = program.op("dereference_union_stack", us, program.const(0))
    member = {"type": "expression", "value": {"op": "access_union_header", "left": element, "right": 1}}
    program.run([program.call("add_header", member)])
    assert program.switch().process(1, b"\5\1") == [(0, b"\5\0\0")]


def test_variable_length_fields_are_assigned_with_their_length(builder: Any) -> None:
    program = builder()
    for name in ("first", "second"):
        program.header(name, [("options", "*")], kind="options_t")
    program.types[-1]["max_length"] = 8
    program.order += ["first", "second"]
    extract = {"op": "extract_VL", "parameters": [{"type": "regular", "value": "first"}, program.const(24)]}
    program.state("start", [extract])
    program.run(
        [
            program.call("add_header", program.of("header", "second")),
            program.call("assign_VL", program.field("second", "options"), program.field("first", "options")),
        ]
    )
    assert program.switch().process(1, b"abcde") == [(0, b"abcabcde")]


@pytest.mark.parametrize(
    "statement",
    [
        lambda p: p.call("assign_VL", p.field("out", "x"), p.field("out", "x")),
        lambda p: p.call("push", p.of("header", "out"), p.const(1)),
        lambda p: p.call("assign_header", p.of("header", "out"), p.const(1)),
        lambda p: p.call("assign_union", p.of("header_union", "u"), p.of("header", "out")),
        lambda p: p.call("mark_to_drop", p.of("header", "out")),
        lambda p: p.call("assign", p.of("lookahead", [0, 8]), p.const(1)),
    ],
)
def test_a_primitive_with_arguments_it_does_not_take_is_refused(builder: Any, statement: Any) -> None:
    program = _unions(builder)
    program.state("start", [])
    program.run([statement(program)])
    with pytest.raises(UnsupportedProgramError, match="action act_0: "):
        program.switch()
