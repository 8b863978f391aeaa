"""Trains of datagrams over real sockets, with segmentation offload and without."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from switchml.link import datagrams
from switchml.link.datagrams import Datagrams, append, has_room, open_datagrams, send_train, socket_address


def _bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    datagrams.enlarge_buffers(sock, 4 << 20)
    return sock


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    opened = [_bound() for _ in range(4)]
    yield opened
    for sock in opened:
        sock.close()


offload_or_not = pytest.mark.parametrize("offload", [True, False], ids=["offload", "mmsg"])
receiving = pytest.mark.parametrize("gro", [True, False], ids=["gro", "singly"])


def _fill(link: Datagrams, packets: list[bytes]) -> None:
    for packet in packets:
        assert has_room(link, len(packet))
        at = append(link, len(packet))
        link.tx_memory[at : at + len(packet)] = np.frombuffer(packet, np.uint8)


def _names(*sockets: socket.socket) -> np.ndarray:
    return np.concatenate([socket_address(*sock.getsockname()) for sock in sockets])


def _received(link: Datagrams, count: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    """`count` datagrams, and where they came from; fails when they do not come."""
    packets: list[bytes] = []
    senders = []
    deadline = time.monotonic() + 5
    while len(packets) < count:
        assert time.monotonic() < deadline, f"only {len(packets)} of {count} datagrams came"
        datagrams.wait_readable(link, -1, -1, 10_000_000)
        for message in range(datagrams.receive(link)):
            at = datagrams.message_start(link, message)
            end = at + datagrams.message_bytes(link, message)
            segment = datagrams.segment_bytes(link, message)
            name = link.rx_names[message]
            while at < end:
                packets.append(link.rx_memory[at : min(at + segment, end)].tobytes())
                senders.append((int(name["address"]), int(name["port"])))
                at += segment
    return packets, senders


def _packets(count: int, length: int) -> list[bytes]:
    rng = np.random.default_rng(count * length)
    return [rng.bytes(length) for _ in range(count)]


@offload_or_not
@receiving
@pytest.mark.parametrize(("count", "length"), [(1, 10), (2, 138), (63, 1034), (64, 1000), (3, 16394)])
def test_a_train_arrives_datagram_by_datagram(
    sockets: list[socket.socket], offload: bool, gro: bool, count: int, length: int
) -> None:
    sender, receiver = open_datagrams(sockets[0], offload=offload), open_datagrams(sockets[1], offload=gro)
    packets = _packets(count, length)
    _fill(sender, packets)
    assert (datagrams.train_segments(sender), datagrams.train_bytes(sender)) == (count, count * length)
    names = _names(sockets[1])
    assert send_train(sender, names.ctypes.data, 1) == 0
    assert datagrams.train_segments(sender) == 0
    got, senders = _received(receiver, count)
    assert got == packets
    origin = _names(sockets[0])[0]
    assert set(senders) == {(int(origin["address"]), int(origin["port"]))}


@offload_or_not
def test_a_connected_socket_needs_no_name(sockets: list[socket.socket], offload: bool) -> None:
    sockets[0].connect(sockets[1].getsockname())
    sender, receiver = (
        open_datagrams(sockets[0], offload=offload),
        open_datagrams(sockets[1], offload=offload),
    )
    packets = _packets(20, 500)
    _fill(sender, packets)
    assert send_train(sender, 0, 1) == 0
    assert _received(receiver, 20)[0] == packets


@offload_or_not
def test_a_train_to_several_destinations(sockets: list[socket.socket], offload: bool) -> None:
    sender = open_datagrams(sockets[0], offload=offload)
    receivers = [open_datagrams(sock, offload=offload) for sock in sockets[1:]]
    packets = _packets(40, 266)
    _fill(sender, packets)
    names = _names(*sockets[1:])
    assert send_train(sender, names.ctypes.data, 3) == 0
    for receiver in receivers:
        assert _received(receiver, 40)[0] == packets


@offload_or_not
def test_more_destinations_than_one_call_takes(sockets: list[socket.socket], offload: bool) -> None:
    sender, receiver = (
        open_datagrams(sockets[0], offload=offload),
        open_datagrams(sockets[1], offload=offload),
    )
    packets = _packets(2, 20)
    _fill(sender, packets)
    names = _names(*[sockets[1]] * 150)
    assert send_train(sender, names.ctypes.data, 150) == 0
    got = _received(receiver, 300)[0]
    assert sorted(got) == sorted(packets * 150)


@offload_or_not
def test_only_the_last_datagram_of_a_train_may_be_shorter(
    sockets: list[socket.socket], offload: bool
) -> None:
    sender, receiver = open_datagrams(sockets[0], offload=offload), open_datagrams(sockets[1], offload=True)
    packets = [*_packets(5, 138), b"0123456789"]
    _fill(sender, packets)
    assert not has_room(sender, 10), "the train is complete"
    assert not has_room(sender, 138)
    assert send_train(sender, _names(sockets[1]).ctypes.data, 1) == 0
    assert _received(receiver, 6)[0] == packets
    assert has_room(sender, 138)


def test_what_has_no_room(sockets: list[socket.socket]) -> None:
    link = open_datagrams(sockets[0])
    _fill(link, [b"x" * 100])
    assert not has_room(link, 101), "longer than the first"
    _fill(link, [b"x" * 100] * 63)
    assert not has_room(link, 100), "64 are the most the kernel takes"
    datagrams.clear_train(link)
    assert has_room(link, 16394)
    _fill(link, [b"x" * 16394] * 3)
    assert not has_room(link, 16394), "more than a UDP datagram holds"


def test_an_empty_train_is_not_sent(sockets: list[socket.socket]) -> None:
    link, receiver = open_datagrams(sockets[0]), open_datagrams(sockets[1])
    assert send_train(link, _names(sockets[1]).ctypes.data, 1) == 0
    assert datagrams.receive(receiver) == 0


@offload_or_not
def test_nobody_listening_is_a_loss_like_any_other(sockets: list[socket.socket], offload: bool) -> None:
    gone = _bound()
    name = gone.getsockname()
    gone.close()
    sockets[0].connect(name)
    link = open_datagrams(sockets[0], offload=offload)
    for _ in range(4):
        _fill(link, _packets(3, 50))
        assert send_train(link, 0, 1) in (0, 3)
        assert datagrams.train_segments(link) == 0


def test_an_address_that_refuses_counts_every_datagram(sockets: list[socket.socket]) -> None:
    link = open_datagrams(sockets[0], offload=False)
    _fill(link, _packets(3, 50))
    broadcast = socket_address("255.255.255.255", 9)
    assert send_train(link, broadcast.ctypes.data, 1) == 3, (
        "the kernel refuses broadcasts that were not asked for"
    )


def test_offload_is_given_up_where_a_path_refuses_it(sockets: list[socket.socket]) -> None:
    link, receiver = open_datagrams(sockets[0]), open_datagrams(sockets[1], offload=False)
    if link.registers[datagrams.OFFLOAD] == 0:
        pytest.skip("this kernel has no UDP segmentation offload")
    # A checksum that is left out keeps the kernel from cutting a train.
    sockets[0].setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
    packets = _packets(5, 200)
    _fill(link, packets)
    assert send_train(link, _names(sockets[1]).ctypes.data, 1) == 0
    assert link.registers[datagrams.OFFLOAD] == 0
    assert _received(receiver, 5)[0] == packets


def test_a_wait_ends_with_an_event_or_the_time(sockets: list[socket.socket]) -> None:
    import os

    link = open_datagrams(sockets[0])
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        before = time.monotonic()
        datagrams.wait_readable(link, event, -1, 20_000_000)
        assert time.monotonic() - before >= 0.02
        os.eventfd_write(event, 1)
        before = time.monotonic()
        datagrams.wait_readable(link, event, -1, 30_000_000_000)
        datagrams.wait_readable(link, -1, event, 30_000_000_000)
        assert time.monotonic() - before < 20, "only the event can have ended it"
        datagrams.drain_event(link, event)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(event)
    finally:
        os.close(event)


def test_socket_addresses_lie_in_network_order() -> None:
    assert socket_address("127.1.2.3", 0xBEE0).tobytes()[:8] == b"\x02\x00\xbe\xe0\x7f\x01\x02\x03"
