"""Jumps inside actions: ifs, loops, and anything else that a body of primitives can say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from switchml.switch_emulator.p4 import PipelineError, UnsupportedProgramError, support

Item = tuple[Any, ...]

MOST_STEPS = 300


def test_jumps_inside_an_action_are_ifs(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8), ("y", 8), ("z", 8))

    def y(value: int) -> Any:
        return program.assign("h", "y", program.const(value))

    jump = program.call
    # if (x) { y = 1; } else { y = 2; if (z) { y = 3; } } z = 9
    program.run(
        [
            jump("_jump_if_zero", program.field("h", "x"), program.const(3)),
            y(1),
            jump("_jump", program.const(6)),
            y(2),
            jump("_jump_if_zero", program.field("h", "z"), program.const(6)),
            y(3),
            program.assign("h", "z", program.const(9)),
        ]
    )
    switch = program.switch()
    frames = [bytes([x, 0, z]) for x, z in ((1, 0), (0, 0), (0, 5), (7, 7))]
    assert [switch.process(1, frame)[0][1][1:] for frame in frames] == [
        b"\x01\x09",
        b"\x02\x09",
        b"\x03\x09",
        b"\x01\x09",
    ]
    assert "step" not in switch.source


def _loop(builder: Any) -> Any:
    """For (i = 0; i < n; i++) { if (i == 5) break; sum += i; }"""
    program = builder()
    program.simple(("n", 8), ("i", 8), ("sum", 16))
    n, i, total = (program.field("h", name) for name in ("n", "i", "sum"))

    def unless(condition: Any, target: int) -> Any:
        return program.call("_jump_if_zero", program.op("b2d", None, condition), program.const(target))

    program.run(
        [
            program.assign("h", "i", program.const(0)),
            unless(program.op("<", i, n), 7),
            unless(program.op("==", i, program.const(5)), 4),
            program.call("_jump", program.const(7)),
            program.assign("h", "sum", program.op("+", total, i)),
            program.assign("h", "i", program.op("+", i, program.const(1))),
            program.call("_jump", program.const(1)),
        ]
    )
    return program


@pytest.mark.parametrize(("n", "i", "total"), [(0, 0, 0), (3, 3, 3), (5, 5, 10), (200, 5, 10)])
def test_a_loop_with_a_break(builder: Any, n: int, i: int, total: int) -> None:
    assert _loop(builder).switch().process(1, bytes([n, 9, 0, 0])) == [(0, bytes([n, i, 0, total]))]


def test_a_loop_without_end_is_an_error_of_the_packet(builder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "MOST_WORK", 100)
    program = builder()
    program.simple(("x", 8))
    program.run([program.call("_jump_if_zero", program.field("h", "x"), program.const(0))])
    switch = program.switch()
    with pytest.raises(PipelineError, match="end"):
        switch.process(1, b"\x00")
    assert switch.process(1, b"\x01") == [(0, b"\x01")]


def test_a_jump_out_of_the_action_is_refused(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8))
    program.run([program.call("_jump", program.const(2))])
    with pytest.raises(UnsupportedProgramError, match="jump to primitive 2"):
        program.switch()


_ITEMS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("xyz"), st.integers(1, 255)),
    st.tuples(st.just("set"), st.sampled_from("xyz"), st.sampled_from("xyz")),
    st.tuples(st.just("jump"), st.integers(0, 12)),
    st.tuples(st.just("unless"), st.sampled_from("xyz"), st.integers(0, 12)),
)


def _run(items: list[Item], fields: dict[str, int]) -> bool:
    """One primitive after the other, as the format says. False: no end in sight."""
    position = 0
    for _ in range(MOST_STEPS):
        if position >= len(items):
            return True
        match items[position]:
            case ("jump", target):
                position = target
                continue
            case ("unless", name, target) if fields[name] == 0:
                position = target
                continue
            case ("add", name, value):
                fields[name] = (fields[name] + value) % 256
            case ("set", name, other):
                fields[name] = fields[other]
        position += 1
    return False


def _primitive(program: Any, item: Item) -> Any:
    match item:
        case ("jump", target):
            return program.call("_jump", program.const(target))
        case ("unless", name, target):
            return program.call("_jump_if_zero", program.field("h", name), program.const(target))
        case ("set", name, other):
            return program.assign("h", name, program.field("h", other))
        case (_, name, value):
            return program.assign("h", name, program.op("+", program.field("h", name), program.const(value)))
    raise AssertionError(item)


@given(items=st.lists(_ITEMS, min_size=1, max_size=12), frame=st.binary(min_size=3, max_size=3))
def test_any_jumps_do_what_a_walk_over_the_primitives_does(
    builder: Any, items: list[Item], frame: bytes
) -> None:
    items = [
        (*item[:-1], min(item[-1], len(items))) if item[0] in ("jump", "unless") else item for item in items
    ]
    fields = dict(zip("xyz", frame, strict=True))
    assume(_run(items, fields))
    program = builder()
    program.simple(("x", 8), ("y", 8), ("z", 8))
    program.run([_primitive(program, item) for item in items])
    assert program.switch().process(1, frame) == [(0, bytes(fields.values()))]
