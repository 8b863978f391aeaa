"""Tables against a search through all entries by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.entries import (
    ActionCall,
    CounterValue,
    GroupMember,
    GroupRef,
    Match,
    MatchKind,
    MemberRef,
    OneShot,
    TableEntry,
)
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4 import P4Switch

BYTE = st.integers(0, 255)
MISSED = 511


def _program(builder: Any, kinds: list[str], **table: Any) -> Any:
    """Sends a packet to the port its entry says, or drops it."""
    program = builder()
    program.simple(*((f"k{i}", 8) for i in range(len(kinds))))
    send = program.action(
        "send", [program.assign("standard_metadata", "egress_spec", program.param(0))], [("port", 9)]
    )
    drop = program.action("drop", [program.call("mark_to_drop", program.of("header", "standard_metadata"))])
    key = [("h", f"k{i}", kind) for i, kind in enumerate(kinds)]
    program.table("t", [send, drop], key=key, default=drop, size=1024, **table)
    return program


def _port(switch: P4Switch, *key: int) -> int:
    sent = switch.process(1, bytes(key))
    return sent[0][0] if sent else MISSED


def _entry(port: int, *matches: Match, priority: int = 0) -> TableEntry:
    key = {f"hdr.h.k{i}": match for i, match in enumerate(matches)}
    return TableEntry(key, ActionCall("send", (port,)), priority)


def _takes(match: Match, value: int) -> bool:
    match match.kind:
        case MatchKind.LPM:
            return value >> (8 - match.extra) == match.value >> (8 - match.extra)
        case MatchKind.TERNARY:
            return value & match.extra == match.value & match.extra
        case MatchKind.RANGE:
            return match.value <= value <= match.extra
    return value == match.value


_TERNARY = st.builds(lambda v, m: Match(MatchKind.TERNARY, v & m, m), BYTE, BYTE)
_RANGE = st.builds(lambda a, b: Match(MatchKind.RANGE, min(a, b), max(a, b)), BYTE, BYTE)
_OPTIONAL = st.builds(lambda v: Match(MatchKind.OPTIONAL, v), BYTE)
_PREFIX = st.builds(lambda v, n: Match(MatchKind.LPM, v >> (8 - n) << (8 - n), n), BYTE, st.integers(0, 8))
_EXACT = st.builds(lambda v: Match(MatchKind.EXACT, v), BYTE)


@given(
    rules=st.lists(st.tuples(st.one_of(_TERNARY, _OPTIONAL), _RANGE), max_size=8, unique=True),
    packets=st.lists(st.tuples(BYTE, BYTE), max_size=8),
)
def test_the_highest_priority_wins_in_ternary_and_range_tables(
    builder: Any, rules: Any, packets: Any
) -> None:
    switch = _program(builder, ["ternary", "range"]).switch()
    for number, (first, second) in enumerate(rules):
        switch.insert("t", _entry(number, first, second, priority=number + 1))
    for packet in [*packets, *[(a.value, b.value) for a, b in rules]]:
        hits = [
            n for n, rule in enumerate(rules) if all(_takes(m, v) for m, v in zip(rule, packet, strict=True))
        ]
        assert _port(switch, *packet) == max(hits, default=MISSED)


@given(prefixes=st.lists(_PREFIX, max_size=10, unique=True), packets=st.lists(BYTE, max_size=10))
def test_the_longest_prefix_wins(builder: Any, prefixes: list[Match], packets: list[int]) -> None:
    switch = _program(builder, ["lpm"]).switch()
    for number, prefix in enumerate(prefixes):
        switch.insert("t", _entry(number, prefix))
    for packet in [*packets, *[prefix.value for prefix in prefixes]]:
        hits = [(prefix.extra, n) for n, prefix in enumerate(prefixes) if _takes(prefix, packet)]
        assert _port(switch, packet) == max(hits, default=(0, MISSED))[1]


@given(data=st.data())
def test_insertions_and_deletions_leave_what_is_left(builder: Any, data: st.DataObject) -> None:
    kinds = data.draw(st.sampled_from([["exact"], ["lpm"], ["ternary"], ["exact", "lpm"]]))
    strategy = {"exact": _EXACT, "lpm": _PREFIX, "ternary": _TERNARY}
    keys = data.draw(st.lists(st.tuples(*(strategy[k] for k in kinds)), unique=True, max_size=8))
    switch = _program(builder, kinds).switch()
    priority = int("ternary" in kinds)
    for number, key in enumerate(keys):
        switch.insert("t", _entry(number, *key, priority=priority * (number + 1)))
    gone = data.draw(st.sets(st.sampled_from(range(len(keys))))) if keys else set()
    for number in gone:
        switch.delete("t", _entry(0, *keys[number]).key, priority * (number + 1))
    left = [n for n in range(len(keys)) if n not in gone]
    assert [entry.action for entry in switch.entries("t")] == [ActionCall("send", (n,)) for n in left]
    for key in keys:
        packet = tuple(match.value for match in key)
        hits = [
            (sum(m.extra for m in keys[n] if m.kind is MatchKind.LPM), priority * n, n)
            for n in left
            if all(_takes(m, v) for m, v in zip(keys[n], packet, strict=True))
        ]
        assert _port(switch, *packet) == max(hits, default=(0, 0, MISSED))[2]


def test_a_field_of_an_invalid_header_matches_as_zero(builder: Any) -> None:
    program = _program(builder, ["exact"])
    program.header("other", [("x", 8)])
    program.tables["ingress"][0]["key"][0]["target"] = ["other", "x"]
    switch = program.switch()
    switch.insert("t", _entry(7, Match(MatchKind.EXACT, 0)))
    assert _port(switch, 99) == 7


def test_constant_entries_are_tried_in_their_order_and_cannot_be_changed(builder: Any) -> None:
    def const(value: str, mask: str, port: str, priority: int) -> dict[str, Any]:
        return {
            "match_key": [{"match_type": "ternary", "key": value, "mask": mask}],
            "action_entry": {"action_id": 0, "action_data": [port]},
            "priority": priority,
        }

    entries = [const("0x10", "0xf0", "0x1", 1), const("0x00", "0x00", "0x2", 2)]
    switch = _program(builder, ["ternary"], entries=entries).switch()
    assert [_port(switch, key) for key in (0x10, 0x1F, 0x20)] == [1, 1, 2]
    assert [entry.priority for entry in switch.entries("t")] == [2, 1]
    with pytest.raises(RuntimeRequestError, match="constant") as refused:
        switch.insert("t", _entry(3, Match(MatchKind.TERNARY, 1, 1), priority=9))
    assert refused.value.code == "PERMISSION_DENIED"


def test_the_default_action_can_be_replaced_and_restored(builder: Any) -> None:
    switch = _program(builder, ["exact"]).switch()
    switch.set_default("t", ActionCall("send", (5,)))
    assert _port(switch, 1) == 5
    assert switch.default("t") == ActionCall("send", (5,))
    switch.set_default("t", None)
    assert _port(switch, 1) == MISSED


def test_modified_entries_and_direct_counters(builder: Any) -> None:
    program = _program(builder, ["exact"], with_counters=True)
    switch = program.switch()
    entry = _entry(4, Match(MatchKind.EXACT, 9))
    switch.insert("t", entry)
    switch.process(1, b"\x09abc")
    switch.modify("t", TableEntry(entry.key, ActionCall("send", (8,))))
    assert _port(switch, 9) == 8
    assert switch.read_direct_counter("t", entry.key) == CounterValue(2, 5)
    switch.write_direct_counter("t", entry.key, CounterValue(1, 1))
    _port(switch, 9)
    assert switch.read_direct_counter("t", entry.key) == CounterValue(2, 2)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (lambda s: s.insert("none", _entry(1, Match(MatchKind.EXACT, 1))), "NOT_FOUND"),
        (lambda s: s.insert("t", _entry(1, Match(MatchKind.EXACT, 256))), "INVALID_ARGUMENT"),
        (lambda s: s.insert("t", _entry(512, Match(MatchKind.EXACT, 1))), "INVALID_ARGUMENT"),
        (lambda s: s.insert("t", _entry(1)), "INVALID_ARGUMENT"),
        (lambda s: s.insert("t", _entry(1, Match(MatchKind.EXACT, 1), priority=3)), "INVALID_ARGUMENT"),
        (lambda s: s.insert("t", _entry(1, Match(MatchKind.TERNARY, 1, 1))), "INVALID_ARGUMENT"),
        (lambda s: s.insert("t", TableEntry({}, ActionCall("fly"))), "INVALID_ARGUMENT"),
        (lambda s: s.insert("t", _entry(2, Match(MatchKind.EXACT, 7))), "ALREADY_EXISTS"),
        (lambda s: s.delete("t", {"hdr.h.k0": Match(MatchKind.EXACT, 8)}), "NOT_FOUND"),
        (
            lambda s: s.insert("t", TableEntry({"hdr.h.k0": Match(MatchKind.EXACT, 8)}, MemberRef(1))),
            "INVALID_ARGUMENT",
        ),
    ],
)
def test_requests_that_cannot_be_met_say_why(builder: Any, request_: Any, code: str) -> None:
    switch = _program(builder, ["exact"]).switch()
    switch.insert("t", _entry(1, Match(MatchKind.EXACT, 7)))
    with pytest.raises(RuntimeRequestError) as refused:
        request_(switch)
    assert refused.value.code == code
    assert _port(switch, 7) == 1


def test_a_full_table_refuses(builder: Any) -> None:
    program = _program(builder, ["exact"])
    program.tables["ingress"][0]["max_size"] = 1
    switch = program.switch()
    switch.insert("t", _entry(1, Match(MatchKind.EXACT, 7)))
    with pytest.raises(RuntimeRequestError) as refused:
        switch.insert("t", _entry(1, Match(MatchKind.EXACT, 8)))
    assert refused.value.code == "RESOURCE_EXHAUSTED"


def _selector(builder: Any) -> P4Switch:
    program = _program(builder, ["exact"], type="indirect_ws", action_profile="ap")
    program.profiles.append(
        {
            "name": "ap",
            "id": 0,
            "max_size": 16,
            "selector": {"algo": "identity", "input": [program.field("h", "k0")]},
        }
    )
    del program.tables["ingress"][0]["default_entry"]
    switch: P4Switch = program.switch()
    return switch


def test_a_selector_spreads_packets_over_its_group(builder: Any) -> None:
    switch = _selector(builder)
    for member in (1, 2, 3):
        switch.insert_member("ap", member, ActionCall("send", (10 + member,)))
    switch.insert_group("ap", 5, [GroupMember(1), GroupMember(2, weight=2)])
    for key in range(6):
        switch.insert("t", TableEntry({"hdr.h.k0": Match(MatchKind.EXACT, key)}, GroupRef(5)))
    assert [_port(switch, key) for key in range(6)] == [11, 12, 12, 11, 12, 12]
    switch.modify_group("ap", 5, [GroupMember(3)])
    assert [_port(switch, key) for key in range(3)] == [13, 13, 13]
    switch.modify_member("ap", 3, ActionCall("send", (77,)))
    assert _port(switch, 0) == 77
    with pytest.raises(RuntimeRequestError, match="in use"):
        switch.delete_group("ap", 5)
    with pytest.raises(RuntimeRequestError, match="in use"):
        switch.delete_member("ap", 3)


def test_one_shot_groups_and_single_members(builder: Any) -> None:
    switch = _selector(builder)
    switch.insert_member("ap", 1, ActionCall("send", (11,)))
    one_shot = OneShot(((ActionCall("send", (1,)), 1), (ActionCall("send", (2,)), 1)))
    for key, action in ((0, one_shot), (1, one_shot), (2, MemberRef(1))):
        switch.insert("t", TableEntry({"hdr.h.k0": Match(MatchKind.EXACT, key)}, action))
    assert [_port(switch, key) for key in range(3)] == [1, 2, 11]
    # A miss without a default action does nothing: the packet leaves by port 0.
    assert _port(switch, 3) == 0


def test_a_pipeline_branches_on_hits_and_on_actions(builder: Any) -> None:
    program = _program(builder, ["exact"], following={"__HIT__": "hit", "__MISS__": "missed"})
    for name, port in (("hit", 21), ("missed", 22)):
        ident = program.action(
            f"a_{name}", [program.assign("standard_metadata", "egress_spec", program.const(port))]
        )
        program.table(name, [ident], default=ident, const=True, following={f"a_{name}": None})
    switch = program.switch()
    switch.insert("t", _entry(1, Match(MatchKind.EXACT, 7)))
    assert [_port(switch, key) for key in (7, 8)] == [21, 22]

    program = _program(builder, ["exact"], following={"send": "sent", "drop": None})
    ident = program.action(
        "back", [program.assign("standard_metadata", "egress_spec", program.std("ingress_port"))]
    )
    program.table("sent", [ident], default=ident, const=True, following={"back": None})
    switch = program.switch()
    switch.insert("t", _entry(9, Match(MatchKind.EXACT, 7)))
    assert [_port(switch, key) for key in (7, 8)] == [1, MISSED]
