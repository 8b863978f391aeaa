"""Frames around datagrams, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from switchml.errors import PortInUseError, UsageError
from switchml.packets.ethernet import UdpHeaders, datagram_in, mac_bytes
from switchml.packets.made_macs import SWITCH_MAC
from switchml.switch_emulator.ports.interface import Frame
from switchml.switch_emulator.ports.udp import UdpPorts, station_mac


@pytest.fixture
def ports() -> Iterator[UdpPorts]:
    with UdpPorts("127.0.0.1", max_stations=3) as opened:
        yield opened


@pytest.fixture
def workers(ports: UdpPorts) -> Iterator[list[socket.socket]]:
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(5)]
    for sock in made:
        sock.settimeout(5)
        sock.connect(ports.address)
    yield made
    for sock in made:
        sock.close()


def one(ports: UdpPorts) -> Frame:
    (frame,) = ports.receive(time.monotonic() + 5)
    return frame


def test_a_datagram_becomes_a_frame(ports: UdpPorts, workers: list[socket.socket]) -> None:
    before = time.time_ns()
    workers[0].send(b"hello")
    frame = one(ports)
    assert frame.port == 1
    assert before <= frame.time <= time.time_ns()
    packet = Ether(frame.data)
    assert (packet.src, packet.dst) == ("02:01:00:00:00:01", SWITCH_MAC)
    assert (packet[IP].src, packet[IP].dst, packet[IP].len) == ("127.0.0.1", "127.0.0.1", 33)
    assert (packet[UDP].sport, packet[UDP].dport) == (workers[0].getsockname()[1], ports.address[1])
    assert packet[UDP].len == 13
    assert packet[UDP].chksum == 0
    assert bytes(packet[UDP].payload) == b"hello"
    del packet[IP].chksum
    assert bytes(packet) == frame.data, "the header's checksum is right"


def test_every_sender_has_its_port_and_keeps_it(ports: UdpPorts, workers: list[socket.socket]) -> None:
    seen = []
    for index in (0, 1, 0, 2, 1):
        workers[index].send(b"x")
        frame = one(ports)
        assert frame.data[6:12] == station_mac(frame.port)
        seen.append(frame.port)
    assert seen == [1, 2, 1, 3, 2]


def test_a_newcomer_takes_the_port_of_the_longest_silent(
    ports: UdpPorts, workers: list[socket.socket]
) -> None:
    for index in (0, 1, 2, 0):
        workers[index].send(b"x")
        one(ports)
    workers[3].send(b"new")
    assert one(ports).port == 2
    workers[0].send(b"old")
    assert one(ports).port == 1


def test_a_frame_goes_where_its_headers_say(ports: UdpPorts, workers: list[socket.socket]) -> None:
    workers[0].send(b"question")
    one(ports)
    local = socket.inet_aton("127.0.0.1")
    answer = UdpHeaders(
        *(mac_bytes(SWITCH_MAC), station_mac(1), local, local),
        *(ports.address[1], workers[0].getsockname()[1]),
    )
    ports.send(1, answer.build(6) + b"answer" + b"padding")
    assert workers[0].recv(100) == b"answer"
    assert set(ports.counters().values()) == {0}


def test_what_fits_no_datagram_is_counted(ports: UdpPorts) -> None:
    ports.send(1, b"\xff" * 60)
    ports.send(1, b"")
    assert ports.counters()["dropped_not_udp"] == 2


def test_a_datagram_of_any_prefix_is_none_or_whole() -> None:
    frame = UdpHeaders(bytes(6), bytes(6), bytes(4), bytes(4), 1, 2).build(3) + b"abc"
    for length in range(len(frame)):
        assert datagram_in(frame[:length]) is None
    assert datagram_in(frame) == ("0.0.0.0", 2, b"abc")
    fragment = frame[:20] + b"\x20\x00" + frame[22:]
    assert datagram_in(fragment) is None


def test_the_largest_datagram_passes(ports: UdpPorts, workers: list[socket.socket]) -> None:
    workers[0].send(bytes(16394))
    assert len(one(ports).data) == 42 + 16394


def test_nothing_comes_before_the_deadline(ports: UdpPorts) -> None:
    assert ports.receive(time.monotonic() + 0.01) == []


def test_addresses_that_cannot_serve_are_refused(ports: UdpPorts) -> None:
    with pytest.raises(UsageError, match="--host"):
        UdpPorts("0.0.0.0")
    with pytest.raises(PortInUseError):
        UdpPorts(*ports.address)


def test_strangers_take_no_joined_workers_station(ports: UdpPorts, workers: list[socket.socket]) -> None:
    workers[0].send(b"joined")
    assert one(ports).port == 1
    ports.keep([workers[0].getsockname()])
    # With 520 datagrams of 520 ports it was the same: three stations are enough to see it.
    for stranger in workers[1:]:
        stranger.send(b"stranger")
        assert one(ports).port != 1
    workers[0].send(b"again")
    assert one(ports).port == 1


def test_when_joined_workers_have_all_stations_strangers_are_dropped(
    ports: UdpPorts, workers: list[socket.socket]
) -> None:
    ports.keep([worker.getsockname() for worker in workers[:3]])
    for sender in (workers[3], *workers[:3], workers[4]):
        sender.send(b"x")
    seen = [frame.port for _ in range(4) for frame in ports.receive(time.monotonic() + 0.2)]
    assert sorted(seen) == [1, 1, 2, 3]
    assert ports.counters()["dropped_no_station"] == 1
    ports.keep([])
    workers[4].send(b"x")
    assert one(ports).port in (1, 2, 3)
