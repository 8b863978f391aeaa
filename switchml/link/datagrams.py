"""Trains of UDP datagrams from compiled code.

One system call moves up to 64 equal datagrams: UDP segmentation offload (`UDP_SEGMENT`, `UDP_GRO`) where the kernel has it,
`sendmmsg` and `recvmmsg` otherwise. A train is built in `tx_memory`, datagram after datagram, and leaves with `send_train`, to
one destination or to several from the same memory.
"""

from __future__ import annotations

import socket
from typing import Annotated, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from switchml.link import libc
from switchml.link.records import Int16, Int32, Int64, Records, UInt16, UInt32, UInt64, new_records
from switchml.protocol.jit import compiled

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

UDP_SEGMENT = 103
UDP_GRO = 104
_SOL_UDP = 17


class Iovec(TypedDict):
    """`struct iovec`."""

    base: Int64
    length: Int64


class MessageHeader(TypedDict):
    """`struct mmsghdr`, the `struct msghdr` in it spread out."""

    name: Int64
    name_length: Int32
    iov: Int64
    iov_count: Int64
    control: Int64
    control_length: Int64
    flags: Int32
    pad: Int32
    length: Int32


class SocketAddress(TypedDict):
    """`struct sockaddr_in`; port and address as they lie in memory, in network order."""

    family: UInt16
    port: UInt16
    address: UInt32
    zero: UInt64


class _Control(TypedDict):
    """A `struct cmsghdr` with one number, and room for more."""

    length: Int64
    level: Int32
    type: Int32
    value: Int32
    rest: Annotated[npt.NDArray[np.int32], (3,)]


class _Pollfd(TypedDict):
    """`struct pollfd`."""

    fd: Int32
    events: Int16
    revents: Int16


_CONTROL_SEGMENT_BYTES = 16 + 2

TRAIN_BYTES = 65507
"""Largest UDP payload over IPv4, and so the longest train."""
_TRAIN_SEGMENTS = 64
_TX_BATCH = 64
_BUFFER = 65536
_RX_TRAINS = 4
_RX_SINGLES = 64
_SEND_WAIT_NS = 20_000_000

# Registers, by index into `registers`.
FD = 0
OFFLOAD = 1
_SEGMENT = 2  # bytes of each datagram of the train being built, but for its last
_FILLED = 3  # bytes of the train being built
_SEGMENTS = 4
_CLOSED = 5  # the last datagram was shorter: the train is complete
_RX_BUFFER = 6
_REGISTERS = 8


class Datagrams(NamedTuple):
    """A UDP socket with its buffers. All arrays belong together and are made by `open_datagrams`."""

    registers: Longs
    rx_memory: Bytes
    rx_messages: Records[MessageHeader]
    rx_iov: Records[Iovec]
    rx_names: Records[SocketAddress]
    rx_control: Records[_Control]
    tx_memory: Bytes
    tx_messages: Records[MessageHeader]
    tx_iov: Records[Iovec]
    tx_control: Records[_Control]
    poll: Records[_Pollfd]
    scratch: Longs


def _try_offload(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(_SOL_UDP, UDP_GRO, 1)
        sock.setsockopt(_SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


# Linux's numbers (asm-generic/socket.h); the socket module has no names for them.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


def enlarge_buffers(sock: socket.socket, size: int) -> None:
    """Ask for that many bytes of receive and send buffer.

    The kernel's limits (`rmem_max`, `wmem_max`) hold, but for processes with CAP_NET_ADMIN.
    """
    for option, force in ((socket.SO_RCVBUF, _SO_RCVBUFFORCE), (socket.SO_SNDBUF, _SO_SNDBUFFORCE)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, option, size)


def open_datagrams(sock: socket.socket | None, *, offload: bool = True) -> Datagrams:
    """Buffers around a bound UDP socket, which the caller keeps open. None gives a stand-in that is never used for I/O.

    Args:
        sock: bound.
        offload: False forbids segmentation offload, to measure or test the other path.
    """
    offload = offload and sock is not None and _try_offload(sock)
    count, size = (_RX_TRAINS, _BUFFER) if offload else (_RX_SINGLES, _BUFFER // 3)
    if sock is None:
        count, size = 1, 64
    link = Datagrams(
        registers=np.zeros(_REGISTERS, np.int64),
        rx_memory=np.zeros(count * size, np.uint8),
        rx_messages=new_records(MessageHeader, count),
        rx_iov=new_records(Iovec, count),
        rx_names=new_records(SocketAddress, count),
        rx_control=new_records(_Control, count),
        tx_memory=np.zeros(_BUFFER if sock is not None else 64, np.uint8),
        tx_messages=new_records(MessageHeader, _TX_BATCH),
        tx_iov=new_records(Iovec, _TX_BATCH),
        tx_control=new_records(_Control, 1),
        poll=new_records(_Pollfd, 4),
        scratch=np.zeros(4, np.int64),
    )
    link.registers[FD] = sock.fileno() if sock is not None else -1
    link.registers[OFFLOAD] = offload
    link.registers[_RX_BUFFER] = size
    for index in range(count):
        link.rx_iov[index]["base"] = link.rx_memory.ctypes.data + index * size
        link.rx_iov[index]["length"] = size
        message = link.rx_messages[index]
        message["name"] = link.rx_names[index:].ctypes.data
        message["iov"] = link.rx_iov[index:].ctypes.data
        message["iov_count"] = 1
        message["control"] = link.rx_control[index:].ctypes.data
    control = link.tx_control[0]
    control["length"], control["level"], control["type"] = _CONTROL_SEGMENT_BYTES, _SOL_UDP, UDP_SEGMENT
    return link


def socket_address(host: str, port: int) -> Records[SocketAddress]:
    """One SocketAddress for a dotted IPv4 address and a port."""
    name = new_records(SocketAddress, 1)
    name[0]["family"] = socket.AF_INET
    name[0]["port"] = socket.htons(port)
    name[0]["address"] = np.frombuffer(socket.inet_aton(host), np.uint32)[0]
    return name


@compiled
def receive(link: Datagrams) -> int:
    """Take what has arrived, without waiting; returns the number of messages (trains or single datagrams)."""
    messages = link.rx_messages
    for index in range(messages.size):
        messages[index]["name_length"] = 16
        messages[index]["control_length"] = 32
    taken = libc.recvmmsg(link.registers[FD], messages.ctypes.data, messages.size, libc.MSG_DONTWAIT, 0)
    return int(taken) if taken > 0 else 0


@compiled
def message_start(link: Datagrams, index: int) -> int:
    """Where message `index` begins in `rx_memory`."""
    return index * int(link.registers[_RX_BUFFER])


@compiled
def message_bytes(link: Datagrams, index: int) -> int:
    """Length of a message: of a train, all its datagrams."""
    return int(link.rx_messages[index]["length"])


@compiled
def segment_bytes(link: Datagrams, index: int) -> int:
    """Length of the datagrams that message `index` was joined from; the last may be shorter."""
    length = int(link.rx_messages[index]["length"])
    if link.rx_messages[index]["control_length"] >= 20 and link.rx_control[index]["type"] == UDP_GRO:
        segment = int(link.rx_control[index]["value"])
        if 0 < segment < length:
            return segment
    return length


@compiled
def has_room(link: Datagrams, length: int) -> bool:
    """Whether a datagram of that length can join the train being built."""
    registers = link.registers
    if registers[_SEGMENTS] == 0:
        return True
    return bool(
        registers[_CLOSED] == 0
        and length <= registers[_SEGMENT]
        and registers[_SEGMENTS] < _TRAIN_SEGMENTS
        and registers[_FILLED] + length <= TRAIN_BYTES
    )


@compiled
def append(link: Datagrams, length: int) -> int:
    """Take room for a datagram at the end of the train; returns its place in `tx_memory`. First ask `has_room`."""
    registers = link.registers
    if registers[_SEGMENTS] == 0:
        registers[_SEGMENT] = length
    elif length < registers[_SEGMENT]:
        registers[_CLOSED] = 1
    at = int(registers[_FILLED])
    registers[_FILLED] += length
    registers[_SEGMENTS] += 1
    return at


@compiled
def train_segments(link: Datagrams) -> int:
    """Datagrams in the train being built."""
    return int(link.registers[_SEGMENTS])


@compiled
def train_bytes(link: Datagrams) -> int:
    """Length of the train being built."""
    return int(link.registers[_FILLED])


@compiled
def train_segment(link: Datagrams) -> int:
    """Length of each datagram in the train but the last, which may be shorter."""
    return int(link.registers[_SEGMENT])


@compiled
def clear_train(link: Datagrams) -> None:
    """Begin a train anew."""
    registers = link.registers
    registers[_FILLED] = 0
    registers[_SEGMENTS] = 0
    registers[_CLOSED] = 0


@compiled
def _wait_writable(link: Datagrams) -> None:
    link.poll[3]["fd"] = link.registers[FD]
    link.poll[3]["events"] = libc.POLLOUT
    link.scratch[0] = 0
    link.scratch[1] = _SEND_WAIT_NS
    libc.ppoll(link.poll[3:].ctypes.data, 1, link.scratch.ctypes.data, 0)


@compiled
def _submit(link: Datagrams, count: int) -> int:
    """Send the first `count` prepared messages; returns how many did not leave, or -1 when offload was refused."""
    messages = link.tx_messages
    done = 0
    waits = 0
    refusals = 0
    while done < count:
        sent = libc.sendmmsg(link.registers[FD], messages[done:].ctypes.data, count - done, libc.MSG_DONTWAIT)
        if sent > 0:
            done += sent
            continue
        error = libc.errno()
        if error == libc.EAGAIN and waits < 3:
            waits += 1
            _wait_writable(link)
        elif (error == libc.EINTR or error == libc.ECONNREFUSED) and refusals < 3:
            # ECONNREFUSED reports what became of an earlier datagram, and clears it.
            refusals += 1
        elif (error == libc.EIO or error == libc.EINVAL or error == libc.EMSGSIZE) and messages[done][
            "control_length"
        ] > 0:
            return -1
        else:
            return count - done
    return 0


@compiled
def _prepare(link: Datagrams, index: int, name: int, at: int, length: int, segmented: bool) -> None:
    message = link.tx_messages[index]
    link.tx_iov[index]["base"] = link.tx_memory.ctypes.data + at
    link.tx_iov[index]["length"] = length
    message["name"] = name
    message["name_length"] = 16 if name != 0 else 0
    message["iov"] = link.tx_iov[index:].ctypes.data
    message["iov_count"] = 1
    message["control"] = link.tx_control.ctypes.data if segmented else 0
    message["control_length"] = 24 if segmented else 0


@compiled
def _send_whole(link: Datagrams, names: int, count: int) -> int:
    segments = link.registers[_SEGMENTS]
    link.tx_control[0]["value"] = link.registers[_SEGMENT]
    failed = 0
    first = 0
    while first < count:
        batch = min(_TX_BATCH, count - first)
        for index in range(batch):
            name = names + 16 * (first + index) if names != 0 else 0
            _prepare(link, index, name, 0, int(link.registers[_FILLED]), segments > 1)
        result = _submit(link, batch)
        if result < 0:
            return -1
        failed += result * segments
        first += batch
    return int(failed)


@compiled
def _send_singly(link: Datagrams, name: int) -> int:
    segment = int(link.registers[_SEGMENT])
    filled = int(link.registers[_FILLED])
    failed = 0
    at = 0
    while at < filled:
        batch = 0
        while batch < _TX_BATCH and at < filled:
            _prepare(link, batch, name, at, min(segment, filled - at), False)
            at += segment
            batch += 1
        failed += max(0, _submit(link, batch))
    return failed


@compiled
def send_train(link: Datagrams, names: int, count: int) -> int:
    """Send the train to `count` destinations and begin a new one.

    Args:
        link: whose train it is.
        names: address of `count` SocketAddresses, or 0 (and count 1) for a connected socket.
        count: destinations.

    Returns:
        The number of datagrams that did not leave; whoever sent them finds out as with any loss on the way.
    """
    if link.registers[_SEGMENTS] == 0:
        return 0
    failed = -1
    if link.registers[OFFLOAD] != 0 or link.registers[_SEGMENTS] == 1:
        failed = _send_whole(link, names, count)
        if failed < 0:
            # The device or route refuses segmentation: from now on without.
            link.registers[OFFLOAD] = 0
    if failed < 0:
        failed = 0
        for index in range(count):
            failed += _send_singly(link, names + 16 * index if names != 0 else 0)
    clear_train(link)
    return failed


@compiled
def wait_readable(link: Datagrams, second: int, third: int, timeout_ns: int) -> None:
    """Sleep until the socket or one of two more file descriptors (-1: none) has something to read, or the time is over."""
    poll = link.poll
    poll[0]["fd"] = link.registers[FD]
    poll[1]["fd"] = second
    poll[2]["fd"] = third
    for index in range(3):
        poll[index]["events"] = libc.POLLIN
    link.scratch[0] = timeout_ns // 1_000_000_000
    link.scratch[1] = timeout_ns % 1_000_000_000
    libc.ppoll(poll.ctypes.data, 3, link.scratch.ctypes.data, 0)


@compiled
def drain_event(link: Datagrams, fd: int) -> None:
    """Reset an eventfd that is readable."""
    libc.c_read(fd, link.scratch.ctypes.data, 8)
