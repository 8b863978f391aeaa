"""What a program may not have too much of, and where it is told that something is wrong."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from everything_program import everything

from switchml.errors import MalformedProgramError, SwitchMLError, UsageError
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4 import (
    P4Device,
    P4Switch,
    PipelineError,
    UnsupportedProgramError,
    load_program,
)

Change = Callable[[dict[str, Any]], object]


def _nested(depth: int) -> Any:
    item: Any = {"type": "hexstr", "value": "0x1"}
    for _ in range(depth):
        item = {"type": "expression", "value": {"op": "~", "left": None, "right": item}}
    return item


MALFORMED: list[tuple[Change, str]] = [
    (lambda p: p.pop("header_types"), "there is no 'header_types'"),
    (lambda p: p["header_types"][1].pop("name"), r"header_types\[1\]: there is no 'name'"),
    (lambda p: p["headers"][2].update(header_type="none"), r"headers\[2\] h: there is no 'none'"),
    (lambda p: p["headers"].append(p["headers"][2]), r"headers\[\d+\] h: there are two"),
    (lambda p: p.update(actions={}), "actions: a list is wanted, not a dict"),
    (lambda p: p["actions"].append(3), r"actions\[\d+\]: an object is wanted, not 3"),
    (lambda p: p["actions"][0].update(name=None), r"actions\[0\]: name: a text is wanted, not None"),
    (
        lambda p: p["actions"][0]["primitives"][2].update(parameters=[]),
        "action an_action: not enough values to unpack",
    ),
    (
        lambda p: p["actions"][0]["primitives"][0]["parameters"].__setitem__(
            0, {"type": "field", "value": 5}
        ),
        r"actions\[0\] an_action: primitives\[0\]: .*not 2 names",
    ),
    (
        lambda p: p["parsers"][0]["parse_states"][0]["transitions"][0].update(next_state="nowhere"),
        "parser state start: there is no state 'nowhere'",
    ),
    (
        lambda p: p["pipelines"][0]["tables"][0]["next_tables"].update(an_action="nowhere"),
        "pipeline ingress: there is no table or condition 'nowhere'",
    ),
    (lambda p: p["pipelines"][0]["tables"][0].update(action_ids=[99]), r"tables\[0\] t: there is no 99"),
    (
        lambda p: p["pipelines"][0]["tables"][0]["default_entry"].update(action_data=[]),
        r"tables\[0\] t: action an_action takes 2 arguments, not 0",
    ),
    (lambda p: p["header_stacks"][0].update(header_ids=[]), r"header_stacks\[0\] labels: headers"),
    (lambda p: p["register_arrays"][0].update(size=-1), r"register_arrays\[0\] sum_0: size: -1"),
    (lambda p: p["register_arrays"][0].update(size=0.5), r"register_arrays\[0\] sum_0: size: a whole number"),
    (lambda p: p["learn_lists"][0].update(elements=3), r"learn_lists\[0\] a_digest: "),
    (lambda p: p.update(__meta__=[]), "__meta__: "),
    (lambda p: p["calculations"][0].update(name="other"), "action an_action: there is no 'a_hash'"),
    (
        lambda p: p["counter_arrays"][0].update(is_direct=True, binding="t"),
        "action an_action: packets belongs to table t",
    ),
]

TOO_MUCH: list[tuple[Change, str]] = [
    (lambda p: p["register_arrays"][0].update(size=10**9), r"register_arrays\[0\] sum_0: size: 1000000000"),
    (
        lambda p: p["counter_arrays"][0].update(size=2**28),
        r"counter_arrays\[0\] packets: \d+ bytes of registers",
    ),
    (lambda p: p["register_arrays"][0].update(bitwidth=10**9), r"register_arrays\[0\] sum_0: bitwidth"),
    (
        lambda p: p["header_types"][2]["fields"][0].__setitem__(1, 10**9),
        r"header_types\[2\] h_t: width of field 'a'",
    ),
    (
        lambda p: p["actions"][0]["runtime_data"][0].update(bitwidth=2**31),
        r"runtime_data\[0\] first: bitwidth",
    ),
    (
        lambda p: p["actions"][0]["primitives"][0]["parameters"].__setitem__(
            1, {"type": "lookahead", "value": [0, 10**9]}
        ),
        r"actions\[0\] an_action: primitives\[0\]: width of a lookahead: 1000000000",
    ),
    (
        lambda p: p["actions"][0]["primitives"][1]["parameters"].__setitem__(1, _nested(900)),
        "nested too deeply",
    ),
    (
        lambda p: p["actions"][0]["primitives"][1]["parameters"].__setitem__(1, _nested(250)),
        "too many nested parentheses|nested too deeply",
    ),
    (
        lambda p: p["pipelines"][0]["conditionals"].extend(
            p["pipelines"][0]["conditionals"][0] | {"name": f"more_{i}"} for i in range(5000)
        ),
        r"pipelines\[0\] ingress: 50\d\d tables and conditions: this target takes 4096",
    ),
    (
        lambda p: p["calculations"][0]["input"].extend([p["calculations"][0]["input"][0]] * 5000),
        r"calculations\[0\] a_hash: 500\d inputs",
    ),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED, ids=[message for _, message in MALFORMED])
def test_what_does_not_hold_together_is_told_with_its_place(change: Change, message: str) -> None:
    program = everything().build()
    change(program)
    with pytest.raises(MalformedProgramError, match=message):
        P4Switch(load_program(program))
    # One type for all that is wrong with a program, which is a usage error too.
    assert issubclass(MalformedProgramError, UnsupportedProgramError)
    assert issubclass(MalformedProgramError, UsageError)
    with pytest.raises(RuntimeRequestError, match=message) as refused:
        P4Device(1).verify(b"", json.dumps(program).encode())
    assert refused.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("change", "message"), TOO_MUCH, ids=[message for _, message in TOO_MUCH])
def test_what_is_too_much_is_refused_before_memory_is_taken(change: Change, message: str) -> None:
    program = everything().build()
    change(program)
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedProgramError, match=message):
            P4Switch(load_program(program))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The program itself and its translation; the smallest of the arrays above would be hundreds of megabytes.
    assert peak < 100 << 20


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff", b"[NaN]", b""])
def test_text_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(UnsupportedProgramError):
        load_program(text)


def test_a_program_of_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchml.switch_emulator.p4.loader.MOST_JSON_BYTES", 1000)
    with pytest.raises(UnsupportedProgramError, match="bytes of JSON: this target takes 1000"):
        load_program(everything().build())


def test_a_parser_that_goes_round_without_end_is_an_error_of_the_packet(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8))
    program.states[0]["transitions"][0]["next_state"] = "again"
    program.state("again", [], default="once_more")
    program.state("once_more", [], default="again")
    switch = program.switch()
    with pytest.raises(PipelineError, match="has it an end"):
        switch.process(1, b"\x00")


def test_the_steps_of_a_frame_and_all_its_copies_are_counted_together(builder: Any) -> None:
    """A loop of 200,000 steps a pass, and a packet that recirculates for ever."""
    program = builder()
    program.header("meta", [("n", 18)], metadata=True)
    program.simple(("x", 8))
    n = program.field("meta", "n")
    program.run(
        [
            program.assign("meta", "n", program.op("+", n, program.const(1))),
            program.call("_jump_if_zero", program.op("==", n, program.const(0)), program.const(3)),
            program.call("_jump", program.const(4)),
            program.call("_jump", program.const(0)),
        ]
    )
    program.actions[-1]["primitives"][1]["parameters"][0] = {
        "type": "expression",
        "value": program.op(">", n, program.const(200_000)),
    }
    program.field_lists.append({"id": 1, "name": "none", "elements": []})
    program.run([program.call("recirculate", program.const(1))], "egress")
    switch = program.switch()
    with pytest.raises(PipelineError, match="has it an end"):
        switch.process(1, b"\x00")


def test_statements_that_look_like_a_repetition_and_are_none_do_not_take_minutes(builder: Any) -> None:
    program = builder()
    program.simple(("x", 32))
    x = program.field("h", "x")
    program.run([program.assign("h", "x", program.op("+", x, program.const(1)))] * 3000)
    before = time.process_time()
    switch = program.switch()
    # A second; it was a minute. Processor time: what else runs here does not count.
    assert time.process_time() - before < 20
    assert switch.process(1, bytes(4)) == [(0, (3000).to_bytes(4, "big"))]


def test_a_packet_that_the_program_has_no_result_for_is_lost_alone(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8))
    program.registers.append({"name": "r", "id": 0, "size": 2, "bitwidth": 8})
    index = program.op("-", program.field("h", "x"), program.const(9))
    program.run([program.call("register_write", program.of("register_array", "r"), index, program.const(1))])
    switch = program.switch()
    with pytest.raises(SwitchMLError, match="cannot go on with this packet"):
        switch.process(1, b"\x00")
    assert switch.process(1, b"\x0a") == [(0, b"\x0a")]
    assert list(switch.read_register("r")) == [0, 1]
