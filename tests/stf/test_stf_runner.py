"""Scripts on a fake switch: names, entries, replication, checks and the comparison of what leaves."""

from __future__ import annotations

from typing import Any

import pytest
from stf_fakes import NAMES, FakeRuntime

from switchml.p4runtime.entries import (
    ActionCall,
    CloneSession,
    CounterValue,
    Match,
    MatchKind,
    MeterRates,
    Replica,
    TableEntry,
)
from switchml.stf.cli import described
from switchml.stf.emulator_target import Clock, EmulatorSwitch
from switchml.stf.language import StfError, parse
from switchml.stf.runner import Report, run_script


def play(text: str, runtime: Any = None) -> Report:
    runtime = runtime or FakeRuntime()
    return run_script(parse(text, "s.stf"), NAMES, EmulatorSwitch(runtime, runtime.process), "s.stf")


def exact(value: int) -> Match:
    return Match(MatchKind.EXACT, value)


def test_entries_with_short_names() -> None:
    runtime = FakeRuntime()
    play(
        """
        add in.t h.f:0x10 h.valid:1 go(x:3, port:2)
        add in.t f:0x11 nogo()
        add tern 7 h.f:0x12** e$0.g:3 in.go(5, 6)
        add in.tern h.a:0x0a000000/8 NoAction()
        add out.t 3 h.a:0x0a****** .NoAction()
        setdefault tern other.go()
        """,
        runtime,
    )
    assert runtime.tables["in.t"] == [
        TableEntry({"hdr.h.f": exact(0x10), "hdr.h.$valid$": exact(1)}, ActionCall("in.go", (2, 3))),
        TableEntry({"hdr.h.f": exact(0x11), "hdr.h.$valid$": exact(0)}, ActionCall("in.nogo")),
    ]
    assert runtime.tables["in.tern"] == [
        TableEntry(
            {"h.f": Match(MatchKind.TERNARY, 0x1200, 0xFF00), "e[0].g": exact(3)},
            ActionCall("in.go", (5, 6)),
            8,
        ),
        TableEntry(
            {"h.a": Match(MatchKind.LPM, 0x0A000000, 8), "e[0].g": exact(0)}, ActionCall("NoAction"), 1
        ),
    ]
    assert runtime.tables["out.t"] == [
        TableEntry({"h.a": Match(MatchKind.LPM, 0x0A000000, 8)}, ActionCall("NoAction"))
    ]
    assert runtime.defaults == {"in.tern": ActionCall("other.go")}


def test_entries_are_removed_by_handle_by_key_and_all() -> None:
    runtime = FakeRuntime()
    play(
        "add in.t f:1 nogo() = one\nadd in.t f:2 nogo()\nadd in.t f:3 nogo()\nremove one\nremove in.t f:2",
        runtime,
    )
    assert [entry.key["hdr.h.f"].value for entry in runtime.tables["in.t"]] == [3]
    play("add out.t h.a:1 NoAction()\nremove all in.t", runtime)
    assert {name: len(entries) for name, entries in runtime.tables.items()} == {"in.t": 0, "out.t": 1}
    play("remove all", runtime)
    assert not any(runtime.tables.values())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("add nothing f:1 go()", "no table 'nothing'; there are: in.t, in.tern, out.t"),
        ("add t f:1 nogo()", "table 't' may be any of in.t, out.t: write more"),
        ("add in.t z:1 nogo()", "table in.t has no key field 'z'; it has hdr.h.f, hdr.h.$valid$"),
        ("add in.t f:1 zz()", "no action of table in.t 'zz'"),
        ("add in.tern go()", "may be any of in.go, other.go"),
        ("add in.t f:0x10000 nogo()", "does not fit 16 bits"),
        ("add in.t f:1 f:2 nogo()", "given twice"),
        ("add in.t f:1 in.go(port:1)", "argument 'x' is missing"),
        ("add in.t f:1 in.go(port:1, x:16)", "x = 16 does not fit 4 bits"),
        ("add in.t f:1 in.go(port:1, y:1)", "argument 'y' is none of port, x"),
        ("add in.t f:1 in.go(1, port:1)", "argument 'port' is given twice"),
        ("add in.t f:1 in.go(1, 2, 3)", "takes 2 arguments, not 3"),
        ("remove nothing", "no entry was added as 'nothing'"),
        ("check_counter in.c(x) packets == 1", "'x' is no number"),
        ("check_counter direct(one) packets == 1", "no entry was added as 'one'"),
        ("mc_node_associate 1 0", "there is no multicast node 0"),
        ("mirroring_get 1", "there is no mirror session 1"),
        ("meter_set_rates m 0 2.0:1 1.0:1", "peak rate is below"),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(line: str, why: str) -> None:
    with pytest.raises(StfError) as told:
        play(f"\n{line}\n")
    assert str(told.value).startswith("s.stf:2: ")
    assert why in str(told.value)


def test_a_second_entry_with_the_same_key_is_the_runtime_s_to_refuse() -> None:
    with pytest.raises(StfError, match=r"s\.stf:2: in\.t has this entry"):
        play("add in.t f:1 nogo()\nadd in.t f:1 nogo()")


def test_multicast_nodes_and_mirror_sessions() -> None:
    runtime = FakeRuntime()
    report = play(
        """
        mirroring_add 5 4
        mirroring_add_mc 6 9
        mc_mgrp_create 9
        mc_node_create 400 3 1
        mc_node_create 401 7
        mc_node_associate 9 1
        mc_node_associate 9 0
        mirroring_get 6
        mc_node_update 1 8
        mc_node_dissociate 9 0
        """,
        runtime,
    )
    assert runtime.groups == {9: (Replica(8, 401),)}
    assert runtime.sessions == {5: CloneSession((Replica(4),)), 6: CloneSession((Replica(8, 401),))}
    assert report.notes == [(9, "port 7 instance 401, port 1 instance 400, port 3 instance 400")]
    play("mc_mgrp_create 9\nmc_node_create 1 1\nmc_node_associate 9 0\nmc_node_destroy 0", runtime)
    assert runtime.groups == {9: ()}


def test_state_is_read_written_and_checked() -> None:
    runtime = FakeRuntime()
    runtime.direct["in.t", frozenset({("hdr.h.f", exact(1)), ("hdr.h.$valid$", exact(0))}), 0] = CounterValue(
        3, 90
    )
    report = play(
        """
        counter_write in.c 2 5 600
        check_counter c(2) packets == 5
        check_counter c(2) bytes > 600
        counter_read in.c 2
        add in.t f:1 nogo() = one
        check_counter direct($one) bytes == 90
        register_write r 3 77
        check_register r(3) == 77
        check_register r(2) >= 1
        register_read in.r
        register_reset in.r
        register_read r 3
        counter_reset c
        check_counter c(2)
        meter_array_set_rates m 0.000006:7 0.00008:9
        meter_set_rates m 1 1.5:2
        meter_get_rates m 0
        """,
        runtime,
    )
    assert [(failure.line, failure.message) for failure in report.failures] == [
        (4, "in.c(2): 5 packets, 600 bytes; bytes > 600 expected"),
        (10, "in.r(2) is 0; value >= 1 expected"),
    ]
    assert [line for line, _ in report.notes] == [5, 11, 13, 15, 18]
    assert report.notes[1][1] == "in.r = 0, 0, 0, 77"
    assert report.notes[2][1] == "in.r(3) = 0"
    assert report.notes[3][1] == "in.c(2): 0 packets, 0 bytes"
    assert runtime.meters == {
        0: MeterRates(6, 7, 80, 9), 1: MeterRates(1_500_000, 2, 1_500_000, 2)
    }  # fmt: skip


def test_expectations_hold_port_by_port_in_order_wherever_they_stand() -> None:
    report = play("expect 2 0A$\npacket 1 0A\npacket 4 0B\npacket 1 0C\nexpect 5 0B\nexpect 2")
    assert report.passed
    assert (report.packets_in, report.packets_out) == (3, 3)
    assert not play("packet 1 0A\npacket 1 0B\nexpect 2 0B\nexpect 2 0A").passed


def test_missing_surplus_and_differing_packets() -> None:
    text = "packet 1 0102\nexpect 2 0103\nexpect 2 04\npacket 3 0A\npacket 4 0B"
    report = play(text)
    told = [(failure.line, failure.message) for failure in report.failures]
    assert told == [
        (2, "packet 1 on port 2: 1 byte differs, the first at 1"),
        (3, "packet 2 on port 2 did not come"),
        (0, "packet 1 on port 4 was not expected"),
    ]
    shown = "\n".join(described("s.stf", report))  # type: ignore[arg-type]
    assert "s.stf:2: packet 1 on port 2: 1 byte differs" in shown
    assert "expected  01 03" in shown
    assert "got       01 02" in shown
    assert "FAILED (3)" in shown
    assert report.notes == [(0, "1 packets left through port 5, of which the script does not speak")]
    failures = report.as_dict()["failures"]
    assert failures[0] == {
        "line": 2, "message": told[0][1], "expected": "0103", "got": "0102", "differing_bytes": [1],
    }  # fmt: skip


def test_no_packet() -> None:
    assert play("packet 1 00\nexpect 2 00\nno_packet 1").passed
    report = play("packet 1 00\nno_packet 2")
    assert [(failure.line, failure.message) for failure in report.failures] == [
        (2, "packet 1 on port 2 was not expected")
    ]
    report = play("packet 1 00\nno_packet")
    assert [(failure.line, failure.message) for failure in report.failures] == [
        (2, "1 packets left through port 2")
    ]
    assert play("packet 1 00\nno_packet", FakeRuntime(lambda port, frame: [])).passed


def test_the_clock_is_the_script_s_own() -> None:
    clock = Clock()
    runtime = FakeRuntime()
    captured: list[tuple[int, bytes]] = []
    switch = EmulatorSwitch(
        runtime, runtime.process, clock=clock, capture=lambda time, frame: captured.append((time, frame))
    )
    start = clock()
    run_script(parse("packet 1 0A\nwait 2\npacket 1 0B"), NAMES, switch)
    assert clock() - start == 2_000_020
    assert [(time - start, frame) for time, frame in captured] == [
        (10, b"\x0a"), (10, b"\x0a"), (2_000_020, b"\x0b"), (2_000_020, b"\x0b"),
    ]  # fmt: skip
