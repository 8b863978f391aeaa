"""The committed P4 programs: current, complete, and of the sizes that they promise."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from switchml.control.p4runtime.program import FLOOD_GROUP
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.protocol.header import FIELDS, HEADER_BYTES
from switchml.protocol.messages import (
    MESSAGE_TYPES,
    SUM,
    SUM8,
    SUM16,
    UDP_PORT_FIRST,
    UDP_PORT_LAST,
    size_code,
)

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

P4 = Path(__file__).parents[2] / "p4"
COMPILER = os.environ.get("P4C") or "p4c-bm2-ss"
COPIES = 2 * 1024
COUNTER_ROWS = 257

ACTIONS = {
    "SwitchIngress.is_ours": {"mac": 48},
    "SwitchIngress.known_sender": {"job": 8},
    "SwitchIngress.set_worker": {
        "worker": 8,
        "bit_of_worker": 64,
        "workers": 8,
        "everyone": 64,
        "pool_base": 16,
        "window": 16,
        "paper": 1,
        "epoch": 8,
        "multicast_group": 16,
    },
    "SwitchIngress.reachable": {},
    "SwitchIngress.ask": {"secret": 64, "challenge": 64},
    "SwitchIngress.send_to": {"port": 9},
    "SwitchIngress.lose_ingress": {"probability": 32},
    "SwitchEgress.lose_egress": {"probability": 32},
    "SwitchEgress.to_worker": {"mac": 48, "addr": 32, "udp_port": 16},
}
TABLES = {
    "SwitchIngress.own_address": ["meta.target_addr"],
    "SwitchIngress.station": ["hdr.ethernet.src_addr", "standard_metadata.ingress_port"],
    "SwitchIngress.forward": ["hdr.ethernet.dst_addr"],
    "SwitchIngress.sender_table": ["hdr.ipv4.src_addr", "hdr.udp.src_port"],
    "SwitchIngress.job_table": ["hdr.ipv4.src_addr", "hdr.udp.src_port", "hdr.switchml.job_number"],
    "SwitchIngress.worker_port": ["meta.job_number", "meta.worker"],
    "SwitchIngress.claim": ["meta.job_number", "meta.worker"],
    "SwitchIngress.ingress_loss": [],
    "SwitchEgress.egress_loss": [],
    "SwitchEgress.worker_rewrite": ["meta.job_number", "meta.worker"],
}
REGISTERS = {"stamp": 32, "used": 8, "seen": 64, "seen_count": 8, "kind": 4, "e0": 8, "e1": 8}
DIGESTS = {
    "sender_digest_t": ["job_number", "worker", "mac", "addr", "udp_port", "ingress_port"],
    "station_digest_t": ["mac", "port"],
}
NOT_IN_P4 = {
    "bytes_received",  # the bytes of packets_received
    "bytes_sent",
    "elements_added",  # a register
    "dropped_port_full",
    "dropped_over_limit",
    "dropped_by_kernel",  # of a socket
    "floods_cut",
    "fault_duplicated",
    "fault_reordered",
}

pytestmark = pytest.mark.parametrize("elements", [64, 256])


@functools.cache
def _program(elements: int) -> dict[str, Any]:
    program: dict[str, Any] = json.loads((P4 / "build" / f"switchml_{elements}.json").read_text())
    return program


@functools.cache
def _p4info(elements: int) -> Any:
    from switchml.p4runtime.stubs import p4info_pb2

    text = (P4 / "build" / f"switchml_{elements}.p4info.txtpb").read_text()
    return text_format.Parse(text, p4info_pb2.P4Info())


def test_tables_and_actions_have_their_names_and_widths(elements: int) -> None:
    info = _p4info(elements)
    tables = {table.preamble.name: [field.name for field in table.match_fields] for table in info.tables}
    assert tables == TABLES
    actions = {
        action.preamble.name: {param.name: param.bitwidth for param in action.params}
        for action in info.actions
    }
    assert {name: actions[name] for name in ACTIONS} == ACTIONS


def test_digests_have_their_fields(elements: int) -> None:
    info = _p4info(elements)
    assert {digest.preamble.name for digest in info.digests} == set(DIGESTS)
    for name, fields in DIGESTS.items():
        assert [member.name for member in info.type_info.structs[name].members] == fields


def test_every_counter_of_the_native_pipeline_that_applies_is_there(elements: int) -> None:
    info = _p4info(elements)
    sizes = {counter.preamble.name: counter.size for counter in info.counters}
    assert set(sizes.values()) == {COUNTER_ROWS}
    names = {name.partition(".")[2] for name in sizes}
    assert {counter.name for counter in SWITCH_COUNTERS} - NOT_IN_P4 <= names
    assert {"SwitchIngress.fault_lost", "SwitchEgress.fault_lost", "SwitchEgress.packets_sent"} <= set(sizes)


def test_the_control_plane_can_tell_when_a_worker_was_last_heard(elements: int) -> None:
    info = _p4info(elements)
    (direct,) = info.direct_counters
    (job_table,) = (t for t in info.tables if t.preamble.name == "SwitchIngress.job_table")
    assert direct.preamble.name == "SwitchIngress.job_packets"
    assert direct.direct_table_id == job_table.preamble.id
    assert direct.preamble.id in job_table.direct_resource_ids


def test_the_header_is_that_of_the_protocol(elements: int) -> None:
    types = {kind["name"]: kind["fields"] for kind in _program(elements)["header_types"]}
    assert [tuple(field[:2]) for field in types["switchml_t"]] == [
        (name, field.bits) for name, field in FIELDS.items()
    ]
    assert [field[1] for field in types["elements_t"]] == [32] * elements


def test_ports_sizes_and_message_types_are_those_of_the_protocol(elements: int) -> None:
    states = {state["name"]: state for state in _program(elements)["parsers"][0]["parse_states"]}
    port = _transition(states["parse_udp"], "check_length")
    first, mask = int(port["value"], 16), int(port["mask"], 16)
    assert (first, first | ~mask & 0xFFFF) == (UDP_PORT_FIRST, UDP_PORT_LAST)
    # What it looks at: message type and UDP length, in whole bytes.
    length = 8 + HEADER_BYTES + 4 * elements
    looked_at = {
        int(one["value"], 16): one["next_state"]
        for one in states["parse_switchml"]["transitions"]
        if one["next_state"] is not None
    }
    narrow = (
        {SUM16 << 16 | length: "parse_lanes", SUM8 << 16 | length: "parse_lanes"} if elements == 64 else {}
    )
    assert looked_at == {SUM << 16 | length: "parse_elements", **narrow}
    refused_unless = {field: _compared(elements, "switchml", field) for field in ("size", "msg_type")}
    assert refused_unless["size"] == {size_code(4 * elements)}
    known = {message.code for message in MESSAGE_TYPES} - ({SUM16, SUM8} if elements == 256 else set())
    assert refused_unless["msg_type"] == known


def test_the_control_plane_s_numbers_are_the_program_s(elements: int) -> None:
    program = _program(elements)
    (flood,) = (action for action in program["actions"] if action["name"] == "SwitchIngress.flood")
    groups = [
        int(item["parameters"][1]["value"], 16)
        for item in flood["primitives"]
        if item["parameters"][0]["value"] == ["standard_metadata", "mcast_grp"]
    ]
    assert groups == [FLOOD_GROUP]


def _transition(state: dict[str, Any], target: str) -> dict[str, Any]:
    (found,) = (one for one in state["transitions"] if one["next_state"] == target)
    return dict(found)


def _compared(elements: int, header: str, field: str) -> set[int]:
    """The constants that conditions compare the field with, by != alone."""
    return {
        int(node["right"]["value"], 16)
        for node in _nodes(_program(elements)["pipelines"][0]["conditionals"])
        if node.get("op") == "!=" and node["left"] == {"type": "field", "value": [header, field]}
    }


def test_registers_are_of_the_pool_s_size(elements: int) -> None:
    registers = {
        register["name"].partition(".")[2]: (register["bitwidth"], register["size"])
        for register in _program(elements)["register_arrays"]
    }
    expected = {name: (width, COPIES) for name, width in REGISTERS.items()}
    expected |= {f"sum_{element}": (32, COPIES) for element in range(elements)}
    expected |= {name: (2048, COPIES) for name in ("lanes_even", "lanes_odd") if elements == 64}
    expected["elements_added"] = (64, COUNTER_ROWS)
    assert registers == expected
    named = {register.preamble.name.partition(".")[2] for register in _p4info(elements).registers}
    assert named == set(registers)


def test_the_json_names_no_place_on_the_machine_it_was_made_on(elements: int) -> None:
    program = _program(elements)
    assert program["program"] == "switchml.p4"
    places = {node["source_info"]["filename"] for node in _nodes(program) if node.get("source_info")}
    assert {place for place in places if place.startswith("/")} == set()
    assert "include/ingress.p4" in places


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _nodes(child)


def test_what_is_committed_is_what_p4c_makes_of_the_source(elements: int, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER} here (p4c's compiler for v1model; set P4C to name it)")
    target = tmp_path / f"switchml_{elements}.json"
    subprocess.run(
        ["make", "-C", str(P4), f"BUILD={tmp_path}", f"P4C={COMPILER}", str(target)], check=True, timeout=300
    )
    for name in (target.name, f"switchml_{elements}.p4info.txtpb"):
        fresh, committed = (tmp_path / name).read_text(), (P4 / "build" / name).read_text()
        assert fresh == committed, f"p4/build/{name} is not current: run make -C p4"


def test_the_json_tells_where_its_parts_stand_in_the_source(elements: int, tmp_path: Path) -> None:
    """As far as can be told without p4c: each piece of source in the JSON stands in the line and column that it names."""
    if shutil.which("cpp") is None:
        pytest.skip("no cpp here, by which p4c reads its source")
    for name in ("core.p4", "v1model.p4"):
        (tmp_path / name).touch()
    flags = [
        "-C",
        "-undef",
        "-nostdinc",
        "-x",
        "assembler-with-cpp",
        f"-I{tmp_path}",
        f"-DELEMENTS={elements}",
    ]
    lines: dict[tuple[str, int], str] = {}
    file, number = "", 0
    text = subprocess.run(
        ["cpp", *flags, "switchml.p4"], cwd=P4, check=True, capture_output=True, text=True
    ).stdout
    for line in text.splitlines():
        if marker := re.match(r'# (\d+) "([^"]*)"', line):
            number, file = int(marker[1]), marker[2]
        else:
            lines[file, number] = line
            number += 1
    places = [node["source_info"] for node in _nodes(_program(elements)) if node.get("source_info")]
    assert len(places) > 700
    for place in places:
        start = place["source_fragment"].removesuffix(" ...")
        assert lines[place["filename"], place["line"]][place["column"] :].startswith(start), place
