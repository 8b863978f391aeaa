"""The committed P4 programs: current, complete, and of the sizes that they promise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from switchml.protocol.counters import SWITCH_COUNTERS

p4info_pb2 = pytest.importorskip("p4.config.v1.p4info_pb2")

P4 = Path(__file__).parents[2] / "p4"
COMPILER = os.environ.get("P4C", "p4c-bm2-ss")
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
    "fault_duplicated",
    "fault_reordered",
}

pytestmark = pytest.mark.parametrize("elements", [64, 256])


def _program(elements: int) -> dict[str, Any]:
    program: dict[str, Any] = json.loads((P4 / "build" / f"switchml_{elements}.json").read_text())
    return program


def _p4info(elements: int) -> Any:
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


def test_registers_are_of_the_pool_s_size(elements: int) -> None:
    registers = {
        register["name"].partition(".")[2]: (register["bitwidth"], register["size"])
        for register in _program(elements)["register_arrays"]
    }
    expected = {name: (width, COPIES) for name, width in REGISTERS.items()}
    expected |= {f"sum_{element}": (32, COPIES) for element in range(elements)}
    expected["elements_added"] = (64, COUNTER_ROWS)
    assert registers == expected
    named = {register.preamble.name.partition(".")[2] for register in _p4info(elements).registers}
    assert named == set(registers)


def test_the_json_names_no_place_on_the_machine_it_was_made_on(elements: int) -> None:
    program = _program(elements)
    assert program["program"] == "switchml.p4"
    places = {str(place["filename"]) for place in _source_places(program)}
    assert {place for place in places if place.startswith("/")} == set()
    assert "include/ingress.p4" in places


def _source_places(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [place for child in node for place in _source_places(child)]
    if not isinstance(node, dict):
        return []
    own = [node["source_info"]] if node.get("source_info") else []
    return own + [place for child in node.values() for place in _source_places(child)]


def test_what_is_committed_is_what_p4c_makes_of_the_source(elements: int, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER} here (p4c's compiler for v1model; set P4C to name it)")
    target = tmp_path / f"switchml_{elements}.json"
    subprocess.run(["make", "-C", str(P4), f"BUILD={tmp_path}", f"P4C={COMPILER}", str(target)], check=True)
    for name in (target.name, f"switchml_{elements}.p4info.txtpb"):
        fresh, committed = (tmp_path / name).read_text(), (P4 / "build" / name).read_text()
        assert fresh == committed, f"p4/build/{name} is not current: run make -C p4"
