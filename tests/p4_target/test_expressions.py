"""Expressions against arithmetic done by hand: exact inside, cut to the field's width when stored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

Tree = tuple[Any, ...]

_LEAVES = st.one_of(
    st.tuples(st.just("field"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("const"), st.integers(-300, 300)),
)


def _nodes(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    binary = st.tuples(st.sampled_from(["+", "-", "*", "&", "|", "^"]), children, children)
    shift = st.tuples(
        st.sampled_from(["<<", ">>"]), children, st.tuples(st.just("const"), st.integers(0, 40))
    )
    cast = st.tuples(st.sampled_from(["two_comp_mod", "usat_cast", "sat_cast"]), children, st.integers(2, 40))
    choice = st.tuples(
        st.just("?"), st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), children, children, children
    )
    return st.one_of(binary, shift, cast, choice, st.tuples(st.just("~"), children))


_TREES = st.recursive(_LEAVES, _nodes, max_leaves=8)


def _json(builder: Any, tree: Tree) -> dict[str, Any]:
    match tree:
        case ("field", name):
            return builder.field("h", name)
        case ("const", value):
            return builder.const(value)
        case ("~", inner):
            return builder.op("~", None, _json(builder, inner))
        case ("?", comparison, left, right, other):
            one, two = _json(builder, left), _json(builder, right)
            return builder.op("?", one, _json(builder, other), cond=builder.op(comparison, one, two))
        case ("two_comp_mod" | "usat_cast" | "sat_cast" as op, inner, width):
            return builder.op(op, _json(builder, inner), builder.const(width))
        case (op, left, right):
            return builder.op(op, _json(builder, left), _json(builder, right))
    raise AssertionError(tree)


def _value(tree: Tree, fields: dict[str, int]) -> int:
    match tree:
        case ("field", name):
            return fields[name]
        case ("const", value):
            return int(value)
        case ("~", inner):
            return -_value(inner, fields) - 1
        case ("?", comparison, left, right, other):
            x, y = _value(left, fields), _value(right, fields)
            holds = {"<": x < y, "<=": x <= y, "==": x == y, "!=": x != y, ">": x > y, ">=": x >= y}[
                comparison
            ]
            return x if holds else _value(other, fields)
        case ("two_comp_mod", inner, width):
            value = _value(inner, fields) % 2**width
            return value - 2**width if value >= 2 ** (width - 1) else value
        case ("usat_cast", inner, width):
            return max(0, min(2**width - 1, _value(inner, fields)))
        case ("sat_cast", inner, width):
            return max(-(2 ** (width - 1)), min(2 ** (width - 1) - 1, _value(inner, fields)))
        case ("<<", left, (_, by)):
            return _value(left, fields) * 2**by
        case (">>", left, (_, by)):
            return _value(left, fields) // 2**by
        case (op, left, right):
            x, y = _value(left, fields), _value(right, fields)
            return {"+": x + y, "-": x - y, "*": x * y, "&": x & y, "|": x | y, "^": x ^ y}[op]
    raise AssertionError(tree)


@given(
    tree=_TREES,
    a=st.integers(0, 2**8 - 1),
    b=st.integers(0, 2**16 - 1),
    c=st.integers(0, 2**32 - 1),
    width=st.sampled_from([8, 16, 32, 48]),
)
def test_an_expression_is_exact_and_is_cut_when_stored(
    builder: Any, tree: Tree, a: int, b: int, c: int, width: int
) -> None:
    program = builder()
    program.simple(("a", 8), ("b", 16), ("c", 32), ("r", width))
    program.run([program.assign("h", "r", _json(program, tree))])
    frame = a.to_bytes(1, "big") + b.to_bytes(2, "big") + c.to_bytes(4, "big") + bytes(width // 8)
    ((_, sent),) = program.switch().process(1, frame)
    expected = _value(tree, {"a": a, "b": b, "c": c}) % 2**width
    assert int.from_bytes(sent[7:], "big") == expected


@given(value=st.integers(-(2**20), 2**20))
def test_a_signed_field_travels_in_twos_complement(builder: Any, value: int) -> None:
    program = builder()
    program.simple(("s", 12, True), ("pad", 4))
    program.run(
        [program.assign("h", "s", program.op("two_comp_mod", program.const(value), program.const(12)))]
    )
    ((_, sent),) = program.switch().process(1, b"\x7f\xf3")
    assert int.from_bytes(sent, "big") == (value % 4096) << 4 | 3


def test_a_signed_field_read_from_a_packet_is_negative(builder: Any) -> None:
    program = builder()
    program.simple(("s", 8, True), ("less", 8))
    below = program.op("<", program.field("h", "s"), program.const(0))
    program.run([program.assign("h", "less", program.op("b2d", None, below))])
    switch = program.switch()
    assert switch.process(1, b"\xff\x00") == [(0, b"\xff\x01")]
    assert switch.process(1, b"\x7f\x00") == [(0, b"\x7f\x00")]


@pytest.mark.parametrize(("left", "right", "result"), [(250, 10, 255), (3, 4, 7)])
def test_a_saturating_field_stops_at_its_limit(builder: Any, left: int, right: int, result: int) -> None:
    program = builder()
    program.simple(("x", 8, False, True), ("y", 8))
    program.run([program.assign("h", "x", program.op("+", program.field("h", "x"), program.field("h", "y")))])
    assert program.switch().process(1, bytes([left, right])) == [(0, bytes([result, right]))]
