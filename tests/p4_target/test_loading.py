"""What is refused and what it is called; the trace; the device around the switch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from switchml.errors import P4AssertionError, UsageError
from switchml.p4runtime.entries import ActionCall, Match, MatchKind, TableEntry
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4 import P4Device, P4Switch, UnsupportedProgramError, load_program
from switchml.switch_emulator.p4.support import format_message


def _sending(builder: Any) -> Any:
    program = builder()
    program.simple(("x", 8))
    send = program.action(
        "send", [program.assign("standard_metadata", "egress_spec", program.param(0))], [("port", 9)]
    )
    program.table("t", [send], key=[("h", "x", "exact")], default=send, arguments=[3])
    return program


def test_a_program_comes_from_a_path_bytes_or_a_dictionary(builder: Any, tmp_path: Path) -> None:
    made = _sending(builder).build()
    text = json.dumps(made)
    (tmp_path / "p.json").write_text(text)
    for source in (made, text.encode(), tmp_path / "p.json", str(tmp_path / "p.json")):
        program = load_program(source)
        assert list(program.tables) == ["t"]
        assert [p.name for p in program.actions["send"].params] == ["port"]


@pytest.mark.parametrize("source", [b"no json", b"[]", b'{"pipelines": []}'])
def test_what_is_no_program_is_a_usage_error(source: bytes) -> None:
    with pytest.raises(UsageError):
        load_program(source)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda p: p.externs.append({"name": "e", "id": 0, "type": "ext_t"}), "ext_t"),
        (lambda p: p.run([p.call("teleport")]), "teleport"),
        (lambda p: p.run([p.assign("h", "x", p.op("**", p.const(1), p.const(2)))]), r"\*\*"),
        (lambda p: p.calculations.append({"name": "c", "id": 0, "algo": "xxh64", "input": []}), "xxh64"),
        (lambda p: p.tables["ingress"][0].update(type="magic"), "magic"),
        (lambda p: p.table("bad", [0], key=[("h", "x", "fuzzy")]), "fuzzy"),
        (lambda p: p.header("odd", [("x", 7)]), "odd"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(builder: Any, change: Any, name: str) -> None:
    program = _sending(builder)
    change(program)
    with pytest.raises(UnsupportedProgramError, match=name):
        program.switch()


def test_an_assertion_that_fails_is_an_error(builder: Any) -> None:
    program = builder()
    program.simple(("x", 8))
    program.run([program.call("assert", program.op("<", program.field("h", "x"), program.const(9)))])
    switch = program.switch()
    assert switch.process(1, b"\x08") == [(0, b"\x08")]
    with pytest.raises(P4AssertionError):
        switch.process(1, b"\x09")


def test_log_messages_take_their_values_in_order() -> None:
    assert format_message("a = {}, b = {} \\{kept\\}", [1, 2]) == "a = 1, b = 2 {kept}"


def test_a_trace_tells_states_entries_actions_and_what_leaves(builder: Any) -> None:
    program = _sending(builder)
    lines: list[str] = []
    switch = program.switch(trace=lines.append)
    switch.insert("t", TableEntry({"hdr.h.x": Match(MatchKind.EXACT, 5)}, ActionCall("send", (17,))))
    switch.process(2, b"\x05rest")
    told = "\n".join(lines)
    for part in (
        "port 2",
        "state start",
        "extract h: x = 0x5",
        "table t (hdr.h.x = 0x5): hit",
        "send(port = 0x11)",
        "sent on port 17",
    ):
        assert part in told
    lines.clear()
    switch.process(2, b"\x06")
    assert any("table t (hdr.h.x = 0x6): miss" in line for line in lines)
    assert "trace" not in program.switch().source


def test_a_trace_shows_what_is_stored_and_where_the_program_says_so(builder: Any) -> None:
    program = builder()
    program.header("data", [("i", 8), *((f"e{i}", 32) for i in range(20))])
    program.order.append("data")
    program.state("start", [program.extract("data")])
    source = {"filename": "include/sums.p4", "line": 7, "source_fragment": "data.i = data.i + 1"}
    added = program.op("+", program.field("data", "i"), program.const(1))
    program.run([program.assign("data", "i", added) | {"source_info": source}])
    program.run(
        [
            program.assign("data", f"e{i}", program.op("+", program.field("data", f"e{i}"), program.const(2)))
            for i in range(20)
        ]
    )
    lines: list[str] = []
    program.switch(trace=lines.append).process(1, bytes([4]) + bytes(80))
    assert "      sums.p4:7: data.i = 0x5" in lines
    assert any(line.startswith("      20 x assign = 0x2, 0x2, 0x2, 0x2, ...") for line in lines)


def test_a_device_replaces_its_pipeline_and_keeps_it_when_the_next_is_refused(builder: Any) -> None:
    device = P4Device(1)
    with pytest.raises(RuntimeRequestError) as refused:
        _ = device.runtime
    assert refused.value.code == "FAILED_PRECONDITION"
    assert device.process(1, b"\x05") == []
    config = json.dumps(_sending(builder).build()).encode()
    device.commit(b"", config)
    device.runtime.insert("t", TableEntry({"hdr.h.x": Match(MatchKind.EXACT, 5)}, ActionCall("send", (17,))))
    with pytest.raises(RuntimeRequestError) as refused:
        device.commit(b"", b"{}")
    assert refused.value.code == "INVALID_ARGUMENT"
    assert device.config == config
    assert device.process(1, b"\x05") == [(17, b"\x05")]
    device.verify(b"", config)
    assert device.process(1, b"\x05") == [(17, b"\x05")]
    device.commit(b"", config)
    assert device.process(1, b"\x05") == [(3, b"\x05")]


def test_an_entry_that_no_packet_hits_is_reported_when_its_time_is_over(builder: Any) -> None:
    program = _sending(builder)
    program.tables["ingress"][0]["support_timeout"] = True
    now = 0
    switch = program.switch(clock=lambda: now)
    entry = TableEntry(
        {"hdr.h.x": Match(MatchKind.EXACT, 5)}, ActionCall("send", (1,)), idle_timeout_ns=2_000_000
    )
    switch.insert("t", entry)
    reports: list[tuple[str, TableEntry]] = []
    switch.on_idle_timeout(lambda table, expired: reports.append((table, expired)))
    now = 1500
    switch.process(1, b"\x05")
    now = 3000
    switch.check_idle_timeouts()
    assert reports == []
    now = 3500
    switch.check_idle_timeouts()
    switch.check_idle_timeouts()
    assert reports == [("t", entry)]


def test_switches_of_one_program_share_nothing_but_its_code(builder: Any) -> None:
    program = _sending(builder)
    program.registers.append({"name": "r", "id": 0, "size": 2, "bitwidth": 8})
    program.counters.append({"name": "c", "id": 0, "size": 2, "is_direct": False})
    one = program.const(1)
    program.run(
        [
            program.call("register_write", program.of("register_array", "r"), one, program.field("h", "x")),
            program.call("count", program.of("counter_array", "c"), one),
        ]
    )
    loaded = load_program(program.build())
    first, second = P4Switch(loaded), P4Switch(loaded)
    assert first.source is second.source
    first.insert("t", TableEntry({"hdr.h.x": Match(MatchKind.EXACT, 5)}, ActionCall("send", (17,))))
    assert first.process(2, b"\x05")[0][0] == 17
    assert second.process(2, b"\x05") != first.process(2, b"\x05")
    second.process(2, b"\x06")
    assert (list(first.read_register("r")), list(second.read_register("r"))) == ([0, 5], [0, 6])
    assert first.read_counter("c", 1)[0].packets == second.read_counter("c", 1)[0].packets == 2
    lines: list[str] = []
    P4Switch(loaded, trace=lines.append).process(2, b"\x07")
    assert lines
