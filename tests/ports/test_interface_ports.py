"""Packet sockets on veth pairs in namespaces of their own. Needs root; skipped with the reason elsewhere."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether

from switchml.switch_emulator.ports.interface import Frame, Ports, PortsError
from switchml.switch_emulator.ports.interfaces import InterfacePorts
from switchml.testbed import Namespace, why_unavailable

REASON = why_unavailable(rate=False)
needs_root = pytest.mark.skipif(REASON is not None, reason=f"no namespaces here: {REASON}")
pytestmark = [pytest.mark.timeout(60), pytest.mark.namespaces]

UDP_SEGMENT = 103


class Wires:
    """Stations 0 and 1 behind ports 1 and 2 of a switch; each in a namespace of its own."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute

        self.switch = Namespace("switch")
        self.stations = [Namespace("left"), Namespace("right")]

        def wire() -> None:
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            with IPRoute() as route:
                for number, station in enumerate(self.stations):
                    peer = {
                        "ifname": "eth0",
                        "net_ns_fd": station.fd,
                        "address": f"02:00:00:00:00:0{number + 1}",
                    }
                    route.link("add", ifname=f"port{number + 1}", kind="veth", peer=peer)
                    route.link("set", index=route.link_lookup(ifname=f"port{number + 1}")[0], state="up")

        def raise_station(number: int) -> None:
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
            with IPRoute() as route:
                index = route.link_lookup(ifname="eth0")[0]
                route.addr("add", index=index, address=f"10.0.0.{number + 1}", prefixlen=24)
                route.link("set", index=index, state="up")

        self.switch.call(wire)
        for number, station in enumerate(self.stations):
            station.call(raise_station, number)

    def open(self) -> InterfacePorts:
        return self.switch.call(InterfacePorts, {1: "port1", 2: "port2"})

    def close(self) -> None:
        for namespace in (*self.stations, self.switch):
            namespace.close()


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires()
    yield made
    made.close()


def collect(ports: Ports, count: int, seconds: float = 5.0) -> list[Frame]:
    """At least `count` frames that are not the kernels' ARP."""
    found: list[Frame] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += [frame for frame in ports.receive(deadline) if not Ether(frame.data).haslayer(ARP)]
    return found


def raw(station: Namespace) -> socket.socket:
    def open_() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind(("eth0", 0))
        sock.settimeout(5)
        return sock

    return station.call(open_)


@needs_root
def test_frames_come_in_by_their_port_and_leave_by_theirs(wires: Wires) -> None:
    frame = bytes(Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01", type=0x1234) / (b"payload" * 9))
    with wires.open() as ports, raw(wires.stations[0]) as left, raw(wires.stations[1]) as right:
        left.send(frame)
        (come,) = collect(ports, 1)
        assert (come.port, come.data) == (1, frame)
        ports.send(2, come.data)
        assert right.recv(2000) == frame
        right.send(frame[::-1])
        (come,) = collect(ports, 1)
        assert (come.port, come.data) == (2, frame[::-1])
        # What the switch sends does not come back to it.
        assert collect(ports, 1, 0.1) == []


@needs_root
def test_a_train_arrives_as_the_packets_of_a_wire(wires: Wires) -> None:
    def send_train() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(17, UDP_SEGMENT, 1000)
            sock.sendto(bytes(range(250)) * 4 * 9 + b"last", ("10.0.0.2", 48864))

    with wires.open() as ports:
        wires.stations[0].run(
            ["ip", "neigh", "add", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0"]
        )
        wires.stations[0].call(send_train)
        frames = collect(ports, 10)
    assert [len(Ether(frame.data)[UDP].payload) for frame in frames] == [1000] * 9 + [4]
    assert len({Ether(frame.data)[IP].id for frame in frames}) in (1, 10)
    for frame in frames:
        assert_checksums(frame.data, UDP)


@needs_root
def test_tcp_between_two_stations_passes_a_switch_that_looks_at_every_segment(wires: Wires) -> None:
    """The stations' kernels leave checksums and cutting to a card that is not there."""
    data = bytes(range(256)) * 800

    def listen() -> socket.socket:
        return socket.create_server(("10.0.0.2", 5000))

    received = bytearray()
    with wires.open() as ports, wires.stations[1].call(listen) as server:
        client = wires.stations[0].popen(
            ["python3", "-c", "import socket,sys;s=socket.create_connection(('10.0.0.2',5000),20);"
             "s.sendall(bytes(range(256))*800);s.shutdown(1);s.recv(1)"]
        )  # fmt: skip
        server.settimeout(0)
        link: socket.socket | None = None
        largest = 0
        deadline = time.monotonic() + 30
        while client.poll() is None and time.monotonic() < deadline:
            for frame in ports.receive(time.monotonic() + 0.01):
                largest = max(largest, len(frame.data))
                if Ether(frame.data).haslayer(TCP):
                    assert_checksums(frame.data, TCP)
                ports.send(3 - frame.port, frame.data)
            try:
                if link is None:
                    link, _ = server.accept()
                    link.setblocking(False)
                while chunk := link.recv(1 << 20):
                    received += chunk
                link.close()
            except (BlockingIOError, OSError):
                pass
        assert client.poll() == 0
    assert bytes(received) == data
    assert largest <= 1514


@needs_root
def test_vlan_tags_stay_in_the_frame(wires: Wires) -> None:
    frame = bytes(
        Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
        / Dot1Q(vlan=5, prio=3, type=0x1234)
        / bytes(50)
    )
    with wires.open() as ports, raw(wires.stations[0]) as left, raw(wires.stations[1]) as right:
        left.send(frame)
        (come,) = collect(ports, 1)
        assert come.data == frame
        ports.send(2, frame)
        assert right.recv(2000)[-52:] == frame[-52:]


def _numbered(count: int) -> list[bytes]:
    addresses = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01", type=0x1234)
    return [bytes(addresses) + number.to_bytes(2, "big") + bytes(50 + number) for number in range(count)]


def _read(sock: socket.socket, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        found += [frame for frame in [sock.recv(2000)] if frame[12:14] == b"\x12\x34"]
    return found


@needs_root
def test_many_frames_come_and_leave_in_order(wires: Wires) -> None:
    """More of them, and of more lengths, than one system call takes."""
    frames = _numbered(100)
    with wires.open() as ports, raw(wires.stations[0]) as left, raw(wires.stations[1]) as right:
        for frame in frames:
            left.send(frame)
        come = collect(ports, len(frames))
        assert [(frame.port, frame.data) for frame in come] == [(1, frame) for frame in frames]
        ports.send_all([(port, frame.data) for frame in come for port in (1, 2, 77)])  # 77: no such port
        for station in (left, right):
            assert _read(station, len(frames)) == frames
        assert set(ports.counters().values()) == {0}


@needs_root
def test_a_frame_that_cannot_leave_holds_no_other_up(wires: Wires) -> None:
    frames = _numbered(70)
    too_long = bytes(Ether(dst="02:00:00:00:00:02", type=0x1234)) + bytes(5000)
    with wires.open() as ports, raw(wires.stations[1]) as right:
        ports.send_all((2, frame) for frame in [too_long, *frames[:66], too_long, too_long, *frames[66:]])
        assert _read(right, len(frames)) == frames
        assert ports.counters()["dropped_too_long"] == 3
        wires.switch.run(["ip", "link", "set", "port2", "down"])
        ports.send_all((2, frame) for frame in frames)
        assert ports.counters()["dropped_port_full"] == len(frames)


@needs_root
def test_what_a_port_cannot_take_is_dropped_and_counted(wires: Wires) -> None:
    with wires.open() as ports:
        ports.send(1, bytes(5000))
        assert ports.counters()["dropped_too_long"] == 1
        ports.send(77, bytes(60))  # no such port
        subprocess.run(["true"], check=True)
        wires.switch.run(["ip", "link", "set", "port1", "down"])
        ports.send(1, bytes(60))
        assert ports.counters()["dropped_port_full"] == 1
        collect(ports, 1, 0.05)  # an interface that goes down does not end the switch


def test_an_unknown_interface_is_named() -> None:
    with pytest.raises(PortsError, match=r"interface nosuch0|need root"):
        InterfacePorts({1: "nosuch0"})


def assert_checksums(data: bytes, layer: type) -> None:
    packet = Ether(data)
    del packet[IP].chksum, packet[layer].chksum
    assert bytes(packet) == data
