"""Packets of compiled loops into a pcap file: frames are put around them, as if they had come over a wire.

A loop notes each packet that it takes or sends, and writes what it has noted once a turn. Without a file a note is a comparison.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NamedTuple, TypedDict, cast

import numpy as np
import numpy.typing as npt

from switchml.closing import Closing
from switchml.link import libc
from switchml.link.memory import copy_bytes
from switchml.link.records import Int64, Records, new_records
from switchml.packets.ethernet import (
    ETHERNET_BYTES,
    HEADERS_BYTES,
    IPV4_BYTES,
    UDP_BYTES,
    UdpHeaders,
)
from switchml.packets.pcap import PcapWriter
from switchml.protocol.jit import compiled
from switchml.protocol.messages import MAX_PAYLOAD

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

_MEMORY = 1 << 20
_RECORD_BYTES = 16
_MOST = _RECORD_BYTES + HEADERS_BYTES + MAX_PAYLOAD + 1024
_CHECKSUM_AT = ETHERNET_BYTES + 10
_LITTLE = sys.byteorder == "little"
_SECOND = 1_000_000_000
_GIVEN_UP = -2  # in the place of a file
_log = logging.getLogger(__name__)

# Typed, because a function is compiled once more for every literal it is called with.
LOOPBACK = cast(int, np.int64(0x7F000001))
ALL_HOSTS = cast(int, np.int64(0xE0000001))
RING_PORT = 0xC000
"""Of rank 0 where packets go through shared memory and have no addresses; other ranks follow."""


class TapeRecord(TypedDict):
    """Where a tape stands."""

    fd: Int64  # of the file; below 0: nothing is noted
    filled: Int64  # bytes noted and not written


class Tape(NamedTuple):
    """State of a tape; made by `TapeFile`, or `no_tape`.

    Attributes:
        memory: what is noted.
        headers: what is put around packets, without addresses, lengths and checksum.
    """

    state: Records[TapeRecord]
    memory: Bytes
    headers: Bytes
    scratch: Longs


def _tape(fd: int, size: int) -> Tape:
    headers = np.frombuffer(
        UdpHeaders(bytes(6), bytes(6), bytes(4), bytes(4), 0, 0).build(0), np.uint8
    ).copy()
    headers[_CHECKSUM_AT : _CHECKSUM_AT + 2] = 0
    tape = Tape(new_records(TapeRecord, 1), np.zeros(size, np.uint8), headers, np.zeros(4, np.int64))
    tape.state[0]["fd"] = fd
    return tape


def no_tape() -> Tape:
    """A stand-in."""
    return _tape(-1, 8)


class TapeFile(Closing):
    """A pcap file for the packets of one loop.

    Attributes:
        tape: what the loop writes with. It must have stopped before `close`.

    Raises:
        PcapError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._writer = PcapWriter(path)
        self._path = os.fspath(path)
        self.tape = _tape(self._writer.fileno(), _MEMORY)

    def close(self) -> None:
        """Close the file. Idempotent."""
        state = self.tape.state[0]
        if state["fd"] == _GIVEN_UP:
            _log.warning("%s took no more packets and is not complete: is the disk full?", self._path)
        state["fd"] = -1
        self._writer.close()


@compiled
def from_network(value: int, width: int) -> int:
    """A number of `width` bytes that was read from memory in which it lies in network order."""
    if not _LITTLE:
        return value
    turned = 0
    for index in range(width):
        turned = turned << 8 | (value >> (8 * index)) & 0xFF
    return turned


@compiled
def group_mac(address: int) -> int:
    """The MAC address of an IPv4 multicast group (RFC 1112)."""
    return 0x01005E000000 | (address & 0x7FFFFF)


@compiled
def _put(memory: Bytes, at: int, value: int, width: int) -> None:
    for index in range(width):
        memory[at + index] = (value >> (8 * (width - 1 - index))) & 0xFF


@compiled
def _put_native(memory: Bytes, at: int, value: int) -> None:
    for index in range(4):
        shift = 8 * index if _LITTLE else 8 * (3 - index)
        memory[at + index] = (value >> shift) & 0xFF


@compiled
def _put_checksum(memory: Bytes, at: int) -> None:
    """Of the IPv4 header there, in which it is still 0."""
    total = 0
    for index in range(0, IPV4_BYTES, 2):
        total += int(memory[at + index]) << 8 | int(memory[at + index + 1])
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    _put(memory, at + 10, 0xFFFF - total, 2)


@compiled
def note(
    tape: Tape,
    source_mac: int,
    source: int,
    source_port: int,
    mac: int,
    address: int,
    port: int,
    memory: Bytes,
    at: int,
    length: int,
) -> None:
    """Note the packet `memory[at : at + length]`; ends are MAC and IPv4 addresses and UDP ports, as numbers."""
    state, tape_memory = tape.state[0], tape.memory
    length = min(length, MAX_PAYLOAD + 512)
    if state["filled"] + _MOST > tape_memory.size:
        write(tape)
    if state["fd"] < 0:
        return
    now = libc.realtime_ns(tape.scratch)
    place = int(state["filled"])
    frame = HEADERS_BYTES + length
    _put_native(tape_memory, place, now // _SECOND)
    _put_native(tape_memory, place + 4, now % _SECOND)
    _put_native(tape_memory, place + 8, frame)
    _put_native(tape_memory, place + 12, frame)
    place += _RECORD_BYTES
    copy_bytes(tape.headers, tape_memory[place : place + HEADERS_BYTES])
    _put(tape_memory, place, mac, 6)
    _put(tape_memory, place + 6, source_mac, 6)
    place += ETHERNET_BYTES
    _put(tape_memory, place + 2, IPV4_BYTES + UDP_BYTES + length, 2)
    _put(tape_memory, place + 12, source, 4)
    _put(tape_memory, place + 16, address, 4)
    _put_checksum(tape_memory, place)
    place += IPV4_BYTES
    _put(tape_memory, place, source_port, 2)
    _put(tape_memory, place + 2, port, 2)
    _put(tape_memory, place + 4, UDP_BYTES + length, 2)
    place += UDP_BYTES
    copy_bytes(memory[at : at + length], tape_memory[place : place + length])
    state["filled"] = place + length


@compiled
def write(tape: Tape) -> None:
    """Write what has been noted. A file that takes no more, as on a full disk, is given up, which its end tells."""
    state = tape.state[0]
    filled = int(state["filled"])
    at = 0
    while at < filled:
        written = libc.c_write(state["fd"], tape.memory.ctypes.data + at, filled - at)
        if written > 0:
            at += written
        elif libc.errno() != libc.EINTR:
            state["fd"] = _GIVEN_UP
            break
    state["filled"] = 0
