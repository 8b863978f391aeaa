"""Faults, capture and trace around every kind of ports, with a pipeline that sends everything back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from memory_ports import MemoryPorts
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from switchml.packets.ethernet import UdpHeaders
from switchml.packets.pcap import PcapWriter, read_pcap
from switchml.switch_emulator.forwarding import Forwarding
from switchml.switch_emulator.p4_emulator import Wrapping
from switchml.switch_emulator.ports import Ports
from switchml.switch_emulator.ports.faulty import FaultRates
from switchml.switch_emulator.ports.interfaces import InterfacePorts
from switchml.switch_emulator.ports.pcap_files import PcapFilePorts
from switchml.switch_emulator.ports.udp import UdpPorts
from switchml.testbed import Namespace, why_unavailable

SENT = 300
NO_NAMESPACES = why_unavailable(rate=False)


class Echo:
    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        answer = Ether(frame)
        answer[UDP].sport, answer[UDP].dport = answer[UDP].dport, answer[UDP].sport
        return [(port, bytes(answer))]


class Kind(NamedTuple):
    """Ports, and the station behind port 1. play: it sends SENT frames. heard: how many came back to it by now."""

    ports: Ports
    play: Callable[[], object]
    heard: Callable[[], int]


def frames() -> list[bytes]:
    headers = UdpHeaders(
        *(bytes.fromhex("020000000001"), bytes.fromhex("02534d4c0001")),
        *(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 9]), 5000, 6000),
    )
    return [headers.build(4) + number.to_bytes(4, "big") for number in range(SENT)]


@contextlib.contextmanager
def memory(folder: Path) -> Iterator[Kind]:
    ports = MemoryPorts()
    yield Kind(ports, lambda: [ports.put(1, frame) for frame in frames()], lambda: len(ports.sent))


@contextlib.contextmanager
def files(folder: Path) -> Iterator[Kind]:
    with PcapWriter(folder / "one_in.pcap") as writer:
        for number, frame in enumerate(frames()):
            writer.write(number, frame)
    yield Kind(
        PcapFilePorts({1: folder / "one"}),
        lambda: None,
        lambda: len(list(read_pcap(folder / "one_out.pcap"))),
    )


@contextlib.contextmanager
def udp(folder: Path) -> Iterator[Kind]:
    ports = UdpPorts("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
        station.connect(ports.address)
        station.setblocking(False)
        # The default holds fewer small datagrams than come back before the test first looks.
        station.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SENT * 4096)
        yield Kind(
            ports, lambda: [station.send(bytes(4)) for _ in range(SENT)], counting(lambda: station.recv(100))
        )


@contextlib.contextmanager
def interfaces(folder: Path) -> Iterator[Kind]:
    from pyroute2 import IPRoute

    def lay_cable() -> None:
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        with IPRoute() as route:
            route.link("add", ifname="switch", kind="veth", peer="station")
            for end in ("switch", "station"):
                route.link("set", index=route.link_lookup(ifname=end)[0], state="up")

    namespace = Namespace("cable")
    try:
        namespace.call(lay_cable)
        with namespace.call(InterfacePorts, {1: "station"}) as station:
            yield Kind(
                namespace.call(InterfacePorts, {1: "switch"}),
                lambda: [station.send(1, frame) for frame in frames()],
                counting(lambda: station.receive(0)),
            )
    finally:
        namespace.close()


def counting(take: Callable[[], bytes | list[object]]) -> Callable[[], int]:
    """How many `take` has given so far, which gives or raises nothing when there are none."""
    heard = 0

    def count() -> int:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            while taken := take():
                heard += len(taken) if isinstance(taken, list) else 1
        return heard

    return count


KINDS = [
    memory,
    files,
    udp,
    pytest.param(
        interfaces,
        marks=[
            pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"no namespaces here: {NO_NAMESPACES}"),
            pytest.mark.namespaces,
        ],
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_faults_capture_and_trace_go_around_every_kind(
    kind: Callable[[Path], contextlib.AbstractContextManager[Kind]], tmp_path: Path
) -> None:
    lines: list[str] = []
    wrapping = Wrapping(FaultRates(0.1, 0.1, 0.1, seed=2), str(tmp_path / "all.pcap"), lines.append)
    with kind(tmp_path) as (bare, play, heard):
        ports = wrapping.around(bare)
        with Forwarding(ports, Echo()):
            play()
            until(lambda: heard() == SENT + extra(ports) and came_in(lines) == SENT)
        counters = ports.counters()
        assert min(counters[f"fault_{what}"] for what in ("lost", "duplicated", "reordered")) > 10
        came_back = heard()
    captured = [Ether(bytes(packet)) for packet in rdpcap(str(tmp_path / "all.pcap"))]
    first = captured[0][UDP].dport
    assert sum(packet[UDP].dport == first for packet in captured) == SENT
    assert len(captured) == SENT + came_back
    assert len(lines) == len(captured)


def extra(ports: Ports) -> int:
    """How many more frames come back than were sent."""
    counters = ports.counters()
    return counters["fault_duplicated"] - counters["fault_lost"]


def came_in(lines: list[str]) -> int:
    return sum(" -> " in line for line in list(lines))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
