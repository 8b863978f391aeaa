"""What happens around the pipelines: replication, clones, resubmission, recirculation, digests, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from switchml.p4runtime.entries import (
    ActionCall,
    CloneSession,
    Digest,
    Match,
    MatchKind,
    PacketIn,
    Replica,
    TableEntry,
)
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4 import P4Switch

NORMAL, INGRESS_CLONE, EGRESS_CLONE, RECIRCULATED, REPLICATED, RESUBMITTED = 0, 1, 2, 4, 5, 6


def _program(builder: Any) -> Any:
    """h.a is the test's; egress writes instance_type, rid and a metadata field behind it."""
    program = builder()
    program.header("meta", [("kept", 8), ("lost", 8)], metadata=True)
    program.simple(("a", 8), ("kind", 8), ("rid", 8), ("kept", 8), ("lost", 8))
    return program


def _stamp(program: Any) -> None:
    program.run(
        [
            program.assign("h", "kind", program.std("instance_type")),
            program.assign("h", "rid", program.std("egress_rid")),
            program.assign("h", "kept", program.field("meta", "kept")),
            program.assign("h", "lost", program.field("meta", "lost")),
        ],
        "egress",
    )


def _fields(program: Any) -> None:
    program.field_lists.append({"id": 1, "name": "fl", "elements": [program.field("meta", "kept")]})


def _port(program: Any, port: int) -> Any:
    return program.assign("standard_metadata", "egress_spec", program.const(port))


def test_multicast_makes_a_copy_a_replica(builder: Any) -> None:
    program = _program(builder)
    program.run(
        [
            _port(program, 9),
            program.assign("meta", "kept", program.const(7)),
            program.assign("standard_metadata", "mcast_grp", program.field("h", "a")),
        ]
    )
    _stamp(program)
    switch = program.switch()
    switch.set_multicast_group(2, [Replica(4, 1), Replica(5, 2), Replica(4, 3)])
    assert switch.process(1, b"\x02....x") == [
        (port, bytes([2, REPLICATED, rid, 7, 0]) + b"x") for port, rid in ((4, 1), (5, 2), (4, 3))
    ]
    # No such group: no copies; group 0: where egress_spec says.
    assert switch.process(1, b"\x03....x") == []
    assert switch.process(1, b"\x00....x") == [(9, bytes([0, NORMAL, 0, 7, 0]) + b"x")]
    switch.set_multicast_group(2, None)
    assert switch.process(1, b"\x02....x") == []


def test_dropping_takes_a_multicast_back(builder: Any) -> None:
    program = _program(builder)
    program.run(
        [
            program.assign("standard_metadata", "mcast_grp", program.const(1)),
            program.call("mark_to_drop", program.of("header", "standard_metadata")),
        ]
    )
    switch = program.switch()
    switch.set_multicast_group(1, [Replica(4)])
    assert switch.process(1, b"\x01....") == []


def test_an_ingress_clone_is_the_packet_as_it_came(builder: Any) -> None:
    program = _program(builder)
    _fields(program)
    program.run(
        [
            _port(program, 9),
            program.assign("h", "a", program.const(0xEE)),
            program.assign("meta", "kept", program.const(3)),
            program.assign("meta", "lost", program.const(4)),
            program.call("clone_ingress_pkt_to_egress", program.const(5), program.const(1)),
        ]
    )
    _stamp(program)
    switch = program.switch()
    normal = (9, bytes([0xEE, NORMAL, 0, 3, 4]) + b"xyz")
    assert switch.process(1, b"\x11....xyz") == [normal]
    switch.set_clone_session(5, CloneSession((Replica(6, 1), Replica(7, 2))))
    clones = [(port, bytes([0x11, INGRESS_CLONE, rid, 3, 0]) + b"xyz") for port, rid in ((6, 1), (7, 2))]
    assert switch.process(1, b"\x11....xyz") == [*clones, normal]
    switch.set_clone_session(5, CloneSession((Replica(6),), truncate=6))
    assert switch.process(1, b"\x11....xyz") == [(6, bytes([0x11, INGRESS_CLONE, 0, 3, 0]) + b"x"), normal]


def test_an_egress_clone_is_the_packet_as_it_leaves(builder: Any) -> None:
    program = _program(builder)
    _fields(program)
    program.run(
        [
            _port(program, 9),
            program.assign("meta", "kept", program.const(3)),
            program.assign("meta", "lost", program.const(4)),
        ]
    )
    _stamp(program)
    clone = program.action(
        "clone",
        [
            program.assign("h", "a", program.const(0xEE)),
            program.call("clone_egress_pkt_to_egress", program.const(5), program.const(1)),
        ],
    )
    once = program.op("==", program.std("instance_type"), program.const(NORMAL))
    program.conditionals["egress"].append(
        {"name": "once", "id": 0, "expression": once, "true_next": "clone_it", "false_next": None}
    )
    stamp = program.tables["egress"][0]
    stamp["next_tables"], stamp["base_default_next"] = dict.fromkeys(stamp["actions"], "once"), "once"
    program.table(
        "clone_it", [clone], default=clone, const=True, pipeline="egress", following={"clone": None}
    )
    switch = program.switch()
    switch.set_clone_session(5, CloneSession((Replica(6, 8),)))
    assert switch.process(1, b"\x11....xyz") == [
        (9, bytes([0xEE, NORMAL, 0, 3, 4]) + b"xyz"),
        (6, bytes([0xEE, EGRESS_CLONE, 8, 3, 0]) + b"xyz"),
    ]


@pytest.mark.parametrize(
    ("primitive", "pipeline", "kind"),
    [("resubmit", "ingress", RESUBMITTED), ("recirculate", "egress", RECIRCULATED)],
)
def test_a_packet_comes_round_again_with_the_fields_it_keeps(
    builder: Any, primitive: str, pipeline: str, kind: int
) -> None:
    program = _program(builder)
    _fields(program)
    keep = [
        program.assign("meta", "kept", program.op("+", program.field("meta", "kept"), program.const(1))),
        program.assign("meta", "lost", program.op("+", program.field("meta", "lost"), program.const(1))),
        program.assign("h", "a", program.op("+", program.field("h", "a"), program.const(1))),
    ]
    program.run([*keep, program.assign("h", "kind", program.std("instance_type")), _port(program, 9)])
    again = program.action("again", [program.call(primitive, program.const(1))])
    few = program.op("<", program.field("meta", "kept"), program.const(3))
    if pipeline == "ingress":
        step = program.tables["ingress"][0]
        step["next_tables"], step["base_default_next"] = dict.fromkeys(step["actions"], "few"), "few"
    else:
        program.first["egress"] = "few"
    program.conditionals[pipeline].append(
        {"name": "few", "id": 0, "expression": few, "true_next": "again", "false_next": "rest"}
    )
    rest = program.action(
        "rest",
        [
            program.assign("h", "kept", program.field("meta", "kept")),
            program.assign("h", "lost", program.field("meta", "lost")),
        ],
    )
    program.table("again", [again], default=again, const=True, pipeline=pipeline, following={"again": None})
    program.table("rest", [rest], default=rest, const=True, pipeline=pipeline, following={"rest": None})
    ((port, frame),) = program.switch().process(1, b"\x10....")
    # Resubmission starts from the packet as it came, recirculation from the one that would have left.
    added = 1 if primitive == "resubmit" else 3
    assert (port, frame) == (9, bytes([0x10 + added, kind, ord("."), 3, 1]))


def test_recirculation_without_end_is_given_up(builder: Any) -> None:
    program = _program(builder)
    program.run([_port(program, 1)])
    program.run([program.call("recirculate", program.const(7))], "egress")
    switch = program.switch()
    assert switch.process(1, b"\x10....") == []
    assert switch.abandoned == 1


def test_lengths_times_and_truncation(builder: Any) -> None:
    program = builder()
    program.simple(("length", 16), ("egress_length", 16), ("time", 16), ("egress_time", 16))
    program.header("extra", [("x", 32)])
    program.order.append("extra")
    program.run(
        [
            program.assign("h", "length", program.std("packet_length")),
            program.assign("h", "time", program.std("ingress_global_timestamp")),
            program.call("add_header", program.of("header", "extra")),
            program.call("truncate", program.const(14)),
        ]
    )
    program.run(
        [
            program.assign("h", "egress_length", program.std("packet_length")),
            program.assign("h", "egress_time", program.std("egress_global_timestamp")),
        ],
        "egress",
    )
    times = iter(range(100, 200))
    ((_, frame),) = program.switch(clock=lambda: next(times)).process(1, bytes(8) + b"abcdef")
    length, egress_length, time, egress_time = (
        int.from_bytes(frame[i : i + 2], "big") for i in range(0, 8, 2)
    )
    assert (length, egress_length) == (14, 18)
    assert 100 <= time < egress_time
    assert frame[8:] == b"\0\0\0\0ab"


def test_a_digest_carries_the_values_at_the_end_of_ingress(builder: Any) -> None:
    program = _program(builder)
    elements = [program.field("h", "a"), program.field("meta", "kept")]
    program.learn_lists.append({"id": 4, "name": "learn_t", "elements": elements})
    program.run(
        [
            program.call("generate_digest", program.const(1), program.const(4)),
            program.assign("meta", "kept", program.const(9)),
        ]
    )
    switch = program.switch()
    digests: list[Digest] = []
    switch.on_digest(digests.append)
    switch.process(1, b"\x10....")
    assert digests == [Digest("learn_t", (0x10, 9))]


def test_frames_for_the_cpu_port_go_to_its_receiver(builder: Any) -> None:
    program = _program(builder)
    program.run([program.assign("standard_metadata", "egress_spec", program.const(510))])
    switch: P4Switch = program.switch()
    assert switch.process(1, b"\x10....x") == [(510, b"\x10....x")]
    packets: list[PacketIn] = []
    switch.on_packet_in(packets.append)
    assert switch.process(1, b"\x10....x") == []
    assert packets == [PacketIn(b"\x10....x")]


def test_a_packet_out_goes_through_the_pipeline(builder: Any) -> None:
    program = _program(builder)
    program.run([program.assign("standard_metadata", "egress_spec", program.field("h", "a"))])
    switch: P4Switch = program.switch()
    switch.packet_out(b"\x03....first", {})
    assert switch.process(1, b"\x04....second") == [(3, b"\x03....first"), (4, b"\x04....second")]
    sent: list[tuple[int, bytes]] = []
    switch.on_transmit(sent.extend)
    switch.packet_out(b"\x05....third", {})
    assert sent == [(5, b"\x05....third")]


def test_exit_ends_the_pipeline_but_not_the_packet(builder: Any) -> None:
    program = _program(builder)
    program.run([_port(program, 3), program.call("exit")])
    program.run([_port(program, 4)])
    program.run([program.assign("h", "a", program.const(1))], "egress")
    assert program.switch().process(1, b"\x10....") == [(3, b"\x01....")]


def test_controller_headers_are_those_of_the_p4info(builder: Any) -> None:
    """packet_in: port and reason before the frame; packet_out: the port it shall leave by."""
    pytest.importorskip("p4", reason="the P4Runtime stubs are not installed")
    from switchml.p4runtime.stubs import p4info_pb2

    info = p4info_pb2.P4Info()
    for name, fields in (
        ("packet_in", [("port", 9), ("reason", 7)]),
        ("packet_out", [("egress_port", 9), ("_pad0", 7)]),
    ):
        header = info.controller_packet_metadata.add()
        header.preamble.name = name
        for number, (field, width) in enumerate(fields):
            header.metadata.add(id=number + 1, name=field, bitwidth=width)
    program = builder()
    program.header("h", [("port", 9), ("reason", 7)])
    program.order.append("h")
    program.state("start", [program.extract("h")])
    program.run([program.assign("standard_metadata", "egress_spec", program.field("h", "port"))])
    switch: P4Switch = program.switch(p4info=info.SerializeToString())
    packets: list[PacketIn] = []
    switch.on_packet_in(packets.append)
    to_controller = (510 << 7 | 5).to_bytes(2, "big")
    assert switch.process(1, to_controller + b"frame") == []
    assert packets == [PacketIn(b"frame", {"port": 510, "reason": 5})]
    switch.packet_out(b"out", {"egress_port": 3})
    assert switch.process(1, to_controller) == [(3, (3 << 7).to_bytes(2, "big") + b"out")]
    for metadata in ({}, {"egress_port": 512}):
        with pytest.raises(RuntimeRequestError) as refused:
            switch.packet_out(b"out", metadata)
        assert refused.value.code == "INVALID_ARGUMENT"
    with pytest.raises(RuntimeRequestError, match="no serialised P4Info"):
        program.switch(p4info=b"no P4Info")


@pytest.mark.parametrize("group", [0, 1 << 16])
def test_multicast_group_numbers_have_16_bits(builder: Any, group: int) -> None:
    with pytest.raises(RuntimeRequestError) as refused:
        _program(builder).switch().set_multicast_group(group, [Replica(1)])
    assert refused.value.code == "INVALID_ARGUMENT"


def test_mark_to_drop_of_a_copy_of_the_metadata_leaves_the_packet(builder: Any) -> None:
    """An action with a parameter of that type works on a copy, and p4c copies back what it wants."""
    program = builder()
    program.simple(("x", 8))
    program.header("copy", [("egress_spec", 9), ("mcast_grp", 16)], metadata=True)
    program.run([program.call("mark_to_drop", program.of("header", "copy"))])
    back = program.assign("standard_metadata", "egress_spec", program.field("copy", "egress_spec"))
    dropping = program.action("copy_back", [back])
    program.table("t", [dropping], key=[("h", "x", "exact")])
    switch = program.switch()
    switch.insert("t", TableEntry({"hdr.h.x": Match(MatchKind.EXACT, 1)}, ActionCall("copy_back")))
    assert switch.process(1, b"\x01") == []
    assert switch.process(1, b"\x02") == [(0, b"\x02")]


def test_dropping_alone_asks_for_no_times(builder: Any) -> None:
    """mark_to_drop is given all standard metadata, and that is no reason to fill it in for every packet."""
    asked = []

    def clock() -> int:
        asked.append(True)
        return 0

    program = builder()
    program.simple(("a", 8))
    program.run([program.call("mark_to_drop", program.of("header", "standard_metadata")), _port(program, 4)])
    switch = program.switch(clock=clock)
    assert switch.process(1, b"\x01") == [(4, b"\x01")]
    assert not asked
