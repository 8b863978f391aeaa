"""Frames held between two interfaces: the ring on its own, and links that take time, with real sockets."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest

from switchml.testbed import LinkShape, TestbedError, why_unavailable
from switchml.testbed.delay_line import FRAME_BYTES, Lines, new_lines, oldest, put, room, take

REASON = why_unavailable()
NO_DELAY = why_unavailable(delay=True)
pytestmark = [pytest.mark.timeout(60)]

if REASON is None:
    from switchml.testbed import star as stars
    from switchml.testbed.star import Star, worker_address

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
LABEL = 16


def one_line(size: int) -> tuple[Lines, np.ndarray]:
    rings = np.zeros((1, size), np.uint8)
    return new_lines([(3, 4)], 0.5, rings), rings


def frame_at(rings: np.ndarray, at: int) -> tuple[int, int, int]:
    """Length, due time and first byte of the frame behind that label."""
    label = rings[0, at : at + LABEL + 1]
    length, due = label[:LABEL].view(np.int64)
    return int(length), int(due), int(label[LABEL])


@pytest.mark.parametrize("seed", range(5))
def test_a_ring_gives_back_what_was_put_in_until_it_is_full(seed: int) -> None:
    rng = random.Random(seed)
    lines, rings = one_line(4 * FRAME_BYTES)
    expected: deque[tuple[int, int, int]] = deque()
    full = wrapped = before = 0
    for number in range(3000):
        at = room(lines, 0)
        if at < 0:
            full += 1
            assert len(expected) > 0
        elif rng.random() < 0.6:
            assert at % 8 == 0
            assert at + LABEL + FRAME_BYTES <= rings.shape[1]
            wrapped += at < before
            before = at
            length = rng.choice((1, 60, 1500, FRAME_BYTES, rng.randrange(1, FRAME_BYTES)))
            rings[0, at + LABEL : at + LABEL + length] = number % 256
            put(lines, 0, length, number)
            expected.append((length, number, number % 256))
        if expected and (at < 0 or rng.random() < 0.4):
            assert frame_at(rings, oldest(lines, 0)) == expected.popleft()
            take(lines, 0)
        assert lines.lines[0]["frames"] == len(expected)
    assert full > 10
    assert wrapped > 10


@pytest.fixture(params=["lines", "kernel"])
def made_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Delay made by TAP interfaces and this process, or by netem where the kernel has it."""
    if NO_DELAY is not None:
        pytest.skip(f"no testbed here: {NO_DELAY}")
    if request.param == "lines":
        monkeypatch.setattr(stars, "has_netem", lambda: False)
    else:
        with Star(1) as star:
            if not star.hub.call(stars.has_netem):
                pytest.skip("this kernel has no netem")
    return str(request.param)


@pytest.fixture
def star(made_by: str) -> Iterator[Star]:
    with Star(2, LinkShape(rate=10**8, delay=0.01, queue=4 << 20)) as made:
        yield made


def udp(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
    made.bind((address, port))
    made.settimeout(5.0)
    return made


@pytest.mark.namespaces
def test_a_round_trip_takes_the_delay_of_every_link_on_the_way(star: Star) -> None:
    echo = star.workers[0].call(udp, worker_address(0), 6100)
    hub = star.hub.call(udp, star.hub_address, 6100)
    other = star.workers[1].call(udp, worker_address(1), 6100)
    for probe, least in ((hub, 0.02), (other, 0.04)):
        started = time.monotonic()
        probe.sendto(b"there", echo.getsockname())
        data, back = echo.recvfrom(10)
        assert time.monotonic() - started >= least / 2
        echo.sendto(data, back)
        assert probe.recv(10) == b"there"
        # No upper bound: who is late on a busy machine is not the line's doing.
        assert time.monotonic() - started >= least
    for made in (echo, hub, other):
        made.close()


@pytest.mark.namespaces
def test_what_is_sent_arrives_in_order_and_whole_both_ways_at_once(star: Star) -> None:
    hub = star.hub.call(udp, star.hub_address, 6101)
    worker = star.workers[0].call(udp, worker_address(0), 6101)
    sizes = [random.Random(1).randrange(4, 1400) for _ in range(1500)]
    for number, size in enumerate(sizes):
        hub.sendto(struct.pack("i", number) + bytes(size - 4), worker.getsockname())
        worker.sendto(struct.pack("i", -number) + bytes(size - 4), hub.getsockname())
    for receiver, sign in ((worker, 1), (hub, -1)):
        for number, size in enumerate(sizes):
            assert receiver.recv(2000) == struct.pack("i", sign * number) + bytes(size - 4)
        receiver.close()


@pytest.mark.namespaces
def test_a_train_stays_a_train(star: Star) -> None:
    hub = star.hub.call(udp, star.hub_address, 6102)
    worker = star.workers[1].call(udp, worker_address(1), 6102)
    hub.setsockopt(SOL_UDP, UDP_SEGMENT, 1034)
    worker.setsockopt(SOL_UDP, UDP_GRO, 1)
    train = os.urandom(1034 * 40)
    hub.sendto(train, worker.getsockname())
    got = b""
    while len(got) < len(train):
        data, control, _flags, _sender = worker.recvmsg(1 << 16, 64)
        got += data
    assert got == train
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 2):
        assert struct.unpack("i", control[0][2][:4])[0] == 1034
        assert len(data) == len(train)
    hub.close()
    worker.close()


@pytest.mark.namespaces
def test_a_bulk_flow_of_tcp_arrives_whole(star: Star) -> None:
    listener = star.hub.call(socket.create_server, (star.hub_address, 6103))
    sender = star.workers[0].call(socket.create_connection, (star.hub_address, 6103))
    receiver, _ = listener.accept()
    data = os.urandom(1 << 20)
    sender.settimeout(20.0)
    receiver.settimeout(20.0)
    sender.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE: all of it goes in at once
    sender.sendall(data)
    got = b""
    while len(got) < len(data):
        got += receiver.recv(1 << 16)
    assert got == data
    for made in (listener, sender, receiver):
        made.close()


@pytest.mark.namespaces
@pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}")
def test_without_netem_and_without_tap_interfaces_the_error_names_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(interface: str) -> int:
        raise TestbedError(f"/dev/net/tun: not for {interface}")

    monkeypatch.setattr(stars, "has_netem", lambda: False)
    monkeypatch.setattr(stars, "open_tap", refuse)
    with pytest.raises(TestbedError, match=r"sch_netem or TAP interfaces.*/dev/net/tun: not for eth0"):
        Star(1, LinkShape(delay=0.01))
