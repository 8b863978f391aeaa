"""Where BMv2's ways are not obvious: the scripts in `cases` expect what simple_switch does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from switchml.p4runtime.entries import ActionCall, CloneSession, Match, MatchKind, Replica, TableEntry
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.stf.language import StfError
from switchml.stf.script_files import run_files
from switchml.switch_emulator.p4 import P4Switch, UnsupportedProgramError, load_program

CASES = Path(__file__).with_name("cases")


@pytest.mark.parametrize("case", ["key_mask_exact", "truncate_ingress_clone"])
def test_a_case_that_simple_switch_has_been_seen_to_do(case: str) -> None:
    report = run_files(CASES / f"{case}.json", CASES / f"{case}.stf")
    assert report.passed, report.failures


def test_a_script_whose_packet_has_no_result_fails_though_it_expects_nothing() -> None:
    with pytest.raises(StfError, match=r"nothing_expected\.stf:1: .*division"):
        run_files(CASES / "bmv2_dies.json", CASES / "bmv2_dies_nothing_expected.stf")


@pytest.mark.parametrize(
    ("kind", "match", "priority", "hits"),
    [
        ("exact", Match(MatchKind.EXACT, 0x13), 0, {0x03, 0x13, 0xF3}),
        ("lpm", Match(MatchKind.LPM, 0x13, 8), 0, {0x03, 0x13, 0xF3}),
        # The prefix is compared with what the mask has left.
        ("lpm", Match(MatchKind.LPM, 0x13, 5), 0, {0x00, 0x01, 0x03, 0x04, 0x07, 0x13, 0x14, 0xF3}),
        ("ternary", Match(MatchKind.TERNARY, 0x13, 0xFF), 3, {0x03, 0x13, 0xF3}),
        ("ternary", Match(MatchKind.TERNARY, 0x13, 0x31), 3, {0x01, 0x03, 0x13, 0xF3, 0x07}),
        # Of a range the beginning is masked.
        ("range", Match(MatchKind.RANGE, 0x13, 0x14), 3, {0x03, 0x04, 0x07, 0x08, 0x13, 0x14, 0x1C, 0xF3}),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_a_key_s_mask_applies_to_the_entry_as_well(
    builder: Any, kind: str, match: Match, priority: int, hits: set[int], constant: bool
) -> None:
    program = builder()
    program.simple(("a", 8))
    hit = program.action("hit", [program.assign("standard_metadata", "egress_spec", program.const(1))])
    miss = program.action("miss", [program.assign("standard_metadata", "egress_spec", program.const(2))])
    written = {
        MatchKind.EXACT: {"key": hex(match.value)},
        MatchKind.LPM: {"key": hex(match.value), "prefix_length": match.extra},
        MatchKind.TERNARY: {"key": hex(match.value), "mask": hex(match.extra)},
        MatchKind.RANGE: {"start": hex(match.value), "end": hex(match.extra)},
    }[match.kind]
    entry = {
        "match_key": [{"match_type": kind, **written}],
        "action_entry": {"action_id": hit, "action_data": []},
        "priority": 1,
    }
    program.table(
        "t", [hit, miss], key=[("h", "a", kind)], default=miss, **({"entries": [entry]} if constant else {})
    )
    program.tables["ingress"][0]["key"][0]["mask"] = "0x0f"
    switch = program.switch()
    if not constant:
        request = TableEntry({"hdr.h.a": match}, ActionCall("hit", ()), priority)
        switch.insert("t", request)
        assert list(switch.entries("t")) == [request]
    for key in (0x00, 0x01, 0x03, 0x04, 0x07, 0x08, 0x13, 0x14, 0x1C, 0xF3):
        ((port, _),) = switch.process(0, bytes([key]))
        assert (port == 1) == (key in hits), hex(key)


def test_two_entries_that_the_mask_makes_one_are_one_too_many(builder: Any) -> None:
    program = builder()
    program.simple(("a", 8))
    hit = program.action("hit", [])
    program.table("t", [hit], key=[("h", "a", "exact")], default=hit)
    program.tables["ingress"][0]["key"][0]["mask"] = "0x0f"
    switch = program.switch()
    switch.insert("t", TableEntry({"hdr.h.a": Match(MatchKind.EXACT, 0x13)}, ActionCall("hit", ())))
    with pytest.raises(RuntimeRequestError, match="has this entry"):
        switch.insert("t", TableEntry({"hdr.h.a": Match(MatchKind.EXACT, 0x23)}, ActionCall("hit", ())))


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("none", "ingress"),
        ("none", "egress"),
        ("ingress clone", "ingress"),
        ("egress clone", "ingress"),
        ("egress clone", "egress"),
        ("multicast", "ingress"),
        ("resubmit", "ingress"),
        ("recirculate", "ingress"),
        ("recirculate", "egress"),
    ],
)
def test_a_packet_s_copies_are_not_truncated(builder: Any, how: str, where: str) -> None:
    """Only what goes on itself is cut; a session's own length holds for its copies."""
    program = builder()
    program.simple(("a", 8), ("seen", 8))
    program.field_lists.append({"id": 1, "name": "none", "elements": []})
    std, const = program.std, program.const
    again = {"ingress": [program.call("truncate", const(4))], "egress": []}
    if where == "egress":
        again = {"ingress": [], "egress": again["ingress"]}
    asked: dict[str, tuple[str, Any]] = {
        "ingress clone": ("ingress", program.call("clone_ingress_pkt_to_egress", const(5), const(1))),
        "egress clone": ("egress", program.call("clone_egress_pkt_to_egress", const(5), const(1))),
        "multicast": ("ingress", program.assign("standard_metadata", "mcast_grp", const(7))),
        "resubmit": ("ingress", program.call("resubmit", const(1))),
        "recirculate": ("egress", program.call("recirculate", const(1))),
    }
    if how != "none":
        pipeline, call = asked[how]
        again[pipeline].append(call)
    # Copies have another instance_type, or have been seen: they are left alone.
    again["egress"].append(program.assign("h", "seen", const(1)))
    for pipeline, body in again.items():
        over = len(body) + 1
        condition = program.op(
            "==", program.op("+", std("instance_type"), program.field("h", "seen")), const(0)
        )
        program.run([program.call("_jump_if_zero", condition, const(over)), *body], pipeline)
    program.run([program.assign("h", "a", std("instance_type"))], "egress")
    switch: P4Switch = program.switch()
    switch.set_clone_session(5, CloneSession((Replica(9, 1),)))
    switch.set_multicast_group(7, [Replica(3, 1), Replica(4, 1)])
    frame = bytes(10)
    sent = [(port, out[0], len(out)) for port, out in switch.process(1, frame)]
    assert (
        sorted(sent)
        == {
            "none": [(0, 0, 4)],
            "ingress clone": [(0, 0, 4), (9, 1, 10)],
            "egress clone": [(0, 0, 4), (9, 2, 10)],
            "multicast": [(3, 5, 10), (4, 5, 10)],
            "resubmit": [(0, 0, 10)],
            "recirculate": [(0, 0, 10)],
        }[how]
    )
    if how.endswith("clone"):
        switch.set_clone_session(5, CloneSession((Replica(9, 1), Replica(8, 2)), truncate=6))
        assert sorted(len(out) for _, out in switch.process(1, frame)) == [4, 6, 6]


def test_line_ends_inside_of_texts_load(builder: Any, tmp_path: Path) -> None:
    program = builder()
    program.simple(("a", 8))
    program.run([program.assign("h", "a", program.const(1)) | {"source_info": {"source_fragment": "a = 1;"}}])
    text = json.dumps(program.build()).replace("a = 1;", "a =\n\t1;")
    with pytest.raises(ValueError, match="Invalid control character"):
        json.loads(text)
    assert P4Switch(load_program(text.encode())).process(1, b"\x00") == [(0, b"\x01")]
    (tmp_path / "p.json").write_text(text)
    (tmp_path / "p.stf").write_text("packet 1 00\nexpect 0 01 $\n")
    assert run_files(tmp_path / "p.json", tmp_path / "p.stf").passed


def _old(builder: Any, table: dict[str, Any]) -> dict[str, Any]:
    """As a compiler of 2016 writes it: no ids of actions, an action profile declared by its table."""
    program = builder()
    program.simple(("a", 8))
    send = program.action(
        "send", [program.assign("standard_metadata", "egress_spec", program.param(0))], [("port", 9)]
    )
    program.table(
        "t", [send], key=[("h", "a", "exact")], default=send, arguments=[3], **{"type": "indirect"} | table
    )
    del program.tables["ingress"][0]["action_ids"]
    old: dict[str, Any] = program.build() | {"__meta__": {"version": [2, 0]}}
    return old


def test_json_before_2_7_loads(builder: Any) -> None:
    for more in (
        {},
        {"type": "indirect_ws", "selector": {"algo": "crc16", "input": [builder.field("h", "a")]}},
    ):
        switch = P4Switch(load_program(_old(builder, {"act_prof_name": "profile"} | more)))
        switch.insert_member("profile", 1, ActionCall("send", (9,)))
        assert switch.process(1, b"\x07") == [(3, b"\x07")]


def test_json_that_does_not_name_an_action_profile_or_its_actions_says_which_is_wanted(builder: Any) -> None:
    with pytest.raises(UnsupportedProgramError, match=r"tables\[0\] t: .*JSON of version 2\.7 or later"):
        load_program(_old(builder, {}))
    old = _old(builder, {"act_prof_name": "profile"})
    del old["pipelines"][0]["tables"][0]["actions"]
    with pytest.raises(UnsupportedProgramError, match=r"tables\[0\] t: .*JSON of version 2\.7 or later"):
        load_program(old)
