"""pcap files as the ports of a P4 switch: through the library with a controller, and as `switchml switch --use-files`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from program_builder import ProgramBuilder
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap, wrpcap

from switchml.packets.made_macs import SWITCH_MAC
from switchml.switch_emulator.p4_emulator import P4Emulator, read_program
from switchml.switch_emulator.ports.pcap_files import PcapFilePorts

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

PROGRAM = Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json"
STATION_MAC = "02:00:00:00:00:01"
OURS, ANOTHERS = "10.0.0.254", "10.0.0.2"


def everything_to(port: int) -> dict[str, Any]:
    """A program that sends all frames out by one port."""
    program = ProgramBuilder()
    program.simple(("a", 8))
    program.run([program.assign("standard_metadata", "egress_spec", program.const(port))])
    return program.build()


@pytest.fixture(autouse=True)
def questions(tmp_path: Path) -> None:
    """Two ARP requests come in on the left."""
    asked = Ether(src=STATION_MAC, dst="ff:ff:ff:ff:ff:ff")
    wrpcap(
        str(tmp_path / "left_in.pcap"),
        [asked / ARP(hwsrc=STATION_MAC, psrc="10.0.0.1", pdst=target) for target in (OURS, ANOTHERS)],
    )


def test_a_controller_makes_the_switch_answer_and_forward(tmp_path: Path) -> None:
    from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
    from switchml.control.p4runtime.p4runtime_target import P4RuntimeTarget

    ports = PcapFilePorts({1: tmp_path / "left", 2: tmp_path / "right"})
    with (
        P4Emulator(ports, read_program(PROGRAM), p4runtime=("127.0.0.1", 0)) as switch,
        P4RuntimeClient(switch.p4runtime_address) as client,
    ):
        target = P4RuntimeTarget(client, OURS, 0xBEE0, ports={1, 2})
        switch.start()
        assert switch.forwarding.finished.wait(20)
        target.close()
        assert switch.finished
    (reply,) = rdpcap(str(tmp_path / "left_out.pcap"))
    assert (reply[ARP].op, reply[ARP].psrc, reply[ARP].hwsrc) == (2, OURS, SWITCH_MAC)
    assert reply.dst == STATION_MAC
    assert [packet[ARP].pdst for packet in rdpcap(str(tmp_path / "right_out.pcap"))] == [ANOTHERS]


def test_the_command_ends_with_its_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "switchml.cli", "switch", "--pipeline", str(PROGRAM), "--json"]
    options = ["-i", "1@left", "-i", "2@right", "--use-files", "0", "--capture", "all.pcap", "--trace"]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
    )
    ready, counters = done.stdout.splitlines()
    assert ready.startswith("switch ready: frames are forwarded")
    assert json.loads(counters)["frames_received"] == 2
    assert len(rdpcap(str(tmp_path / "all.pcap"))) == 2
    assert f"port 1   -> ARP who has {OURS}? tell 10.0.0.1" in done.stderr
    assert re.search(r"table SwitchIngress.own_address.* miss", done.stderr)


def test_queues_drop_what_they_have_no_room_for_and_end_empty(tmp_path: Path) -> None:
    asked = Ether(src=STATION_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=STATION_MAC, psrc="10.0.0.1", pdst=ANOTHERS
    )
    wrpcap(str(tmp_path / "left_in.pcap"), [asked] * 50)
    program = tmp_path / "program.json"
    program.write_text(json.dumps(everything_to(2)))
    command = [sys.executable, "-m", "switchml.cli", "switch", "--pipeline", str(program), "--json"]
    options = [
        "-i",
        "1@left",
        "-i",
        "2@right",
        "--use-files",
        "0",
        "--queue-rate",
        "20",
        "--queue-depth",
        "3",
    ]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
    )
    counters = json.loads(done.stdout.splitlines()[-1])
    left = len(rdpcap(str(tmp_path / "right_out.pcap")))
    assert left >= 4, "one at once and three that waited, at least"
    assert (counters["frames_sent"], counters["dropped_queue_full"]) == (left, 50 - left)
