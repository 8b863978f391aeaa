"""What is in a frame, if it is a SwitchML packet. The Wireshark dissector (dissector.py) goes by the same rules."""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from switchml.packets.ethernet import datagram_in, mac_bytes, source_of
from switchml.packets.made_macs import SWITCH_MAC, rank_of
from switchml.packets.pcap import Record, read_pcap
from switchml.protocol.header import HEADER_BYTES, Header, parse_header
from switchml.protocol.messages import LANE_BITS, MESSAGE_TYPES, UDP_PORT_FIRST, UDP_PORT_LAST

MESSAGES = {message.code: message.name for message in MESSAGE_TYPES}
_SWITCH_MAC = mac_bytes(SWITCH_MAC)
_LANES = {8: "b", 16: "h", 32: "i"}

End = tuple[str, int]
"""Dotted address and UDP port."""


class Packet(NamedTuple):
    """A packet of a file.

    Attributes:
        number: of the frame in its file, from 1.
        time: nanoseconds since 1970.
        to_switch: whether a worker sent it.
        rank: the worker's, where the frame tells it.
        everyone: whether it is a result for all workers.
        header: as it was sent.
        payload: what follows the header.
    """

    number: int
    time: int
    source: End
    destination: End
    to_switch: bool
    rank: int | None
    everyone: bool
    header: Header
    payload: bytes

    @property
    def worker(self) -> End:
        """The end that is no switch; of a result for all workers, where they get it."""
        return self.source if self.to_switch else self.destination

    @property
    def switch(self) -> End:
        """The other end."""
        return self.destination if self.to_switch else self.source

    @property
    def kind(self) -> str:
        """Name of the message type."""
        return MESSAGES.get(self.header.msg_type, f"message {self.header.msg_type}")

    @property
    def elements(self) -> int:
        """How many it carries."""
        return 8 * len(self.payload) // self._lane_bits

    @property
    def values(self) -> list[int]:
        """The elements."""
        bits = self._lane_bits
        return list(
            struct.unpack(f">{self.elements}{_LANES[bits]}", self.payload[: self.elements * bits // 8])
        )

    @property
    def _lane_bits(self) -> int:
        bits = LANE_BITS[self.header.msg_type]
        return bits if bits > 0 else 32


class Capture(NamedTuple):
    """A file.

    Attributes:
        packets: in order.
        cut: numbers of frames of ours that are too short for a header.
        others: how many frames are none of ours.
    """

    packets: list[Packet]
    cut: list[int]
    others: int


def _in_range(port: int) -> bool:
    return UDP_PORT_FIRST <= port <= UDP_PORT_LAST


class _Datagram(NamedTuple):
    number: int
    record: Record
    source: End
    destination: End
    payload: bytes

    @property
    def by_mac(self) -> bool | None:
        """Whether it goes to a switch, as far as the MAC addresses tell."""
        if self.record.data[:6] == _SWITCH_MAC:
            return True
        return False if self.record.data[6:12] == _SWITCH_MAC else None


def _datagrams(records: Iterable[Record]) -> Iterator[_Datagram | None]:
    """For each frame: the datagram in it, or None where it is none of ours."""
    for number, record in enumerate(records, 1):
        found = datagram_in(record.data)
        if found is None:
            yield None
            continue
        destination = (found.address, found.port)
        datagram = _Datagram(number, record, source_of(record.data), destination, found.payload)
        ours = _in_range(datagram.source[1]) or _in_range(datagram.destination[1])
        yield datagram if ours or datagram.by_mac is not None else None


def _goes_to_switch(datagram: _Datagram, seen: Counter[End]) -> bool:
    """Whether a worker sent it.

    A switch has a made-up MAC address, or a port of ours where the other end has none, or takes part in more packets.
    """
    if datagram.by_mac is not None:
        return datagram.by_mac
    source, destination = datagram.source, datagram.destination
    if _in_range(source[1]) != _in_range(destination[1]):
        return _in_range(destination[1])
    return not is_group(destination) and seen[destination] >= seen[source]


def is_group(end: End) -> bool:
    """Whether the address is a multicast one."""
    return socket.inet_aton(end[0])[0] >> 4 == 0xE


def decode(records: Iterable[Record]) -> Capture:
    """All packets among frames."""
    found = list(_datagrams(records))
    ours = [datagram for datagram in found if datagram is not None]
    seen: Counter[End] = Counter()
    for datagram in ours:
        seen.update((datagram.source, datagram.destination))
    capture = Capture([], [], len(found) - len(ours))
    for datagram in ours:
        if len(datagram.payload) < HEADER_BYTES:
            capture.cut.append(datagram.number)
            continue
        to_switch = _goes_to_switch(datagram, seen)
        frame = datagram.record.data
        capture.packets.append(
            Packet(
                number=datagram.number,
                time=datagram.record.time,
                source=datagram.source,
                destination=datagram.destination,
                to_switch=to_switch,
                rank=rank_of(frame[6:12] if to_switch else frame[:6]),
                everyone=not to_switch and is_group(datagram.destination),
                header=parse_header(datagram.payload),
                payload=datagram.payload[HEADER_BYTES:],
            )
        )
    return capture


def read_capture(path: str | os.PathLike[str]) -> Capture:
    """The packets of a pcap file.

    Raises:
        PcapError: see `read_pcap`.
    """
    return decode(read_pcap(path))
