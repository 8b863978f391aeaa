"""Captures made by hand: frames between ranks and a switch, a tenth of a millisecond apart."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from switchml.packets.ethernet import UdpHeaders, mac_bytes
from switchml.packets.made_macs import SWITCH_MAC, rank_mac
from switchml.packets.pcap import PcapWriter, Record
from switchml.protocol.header import Header, build_header
from switchml.protocol.messages import LANE_BITS

LOOPBACK = socket.inet_aton("127.0.0.1")
SWITCH_PORT = 40000  # none of ours: the MAC addresses tell
STEP = 100_000
START = 1_700_000_000_000_000_000
_LANES = {8: "b", 16: "h", 32: "i"}


class MadePackets:
    """Attributes: records, the frames so far."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def frame(self, headers: UdpHeaders, payload: bytes) -> None:
        """Any datagram."""
        at = START + STEP * len(self.records)
        self.records.append(Record(at, headers.build(len(payload)) + payload))

    def up(self, rank: int, header: Header, elements: Sequence[int] = ()) -> None:
        """From a rank to the switch."""
        worker = rank_mac(header.job_number, rank).to_bytes(6, "big")
        ends = (worker, mac_bytes(SWITCH_MAC), LOOPBACK, LOOPBACK, 50000 + rank, SWITCH_PORT)
        self.frame(UdpHeaders(*ends), _payload(header, elements))

    def down(self, rank: int, header: Header, elements: Sequence[int] = ()) -> None:
        """From the switch to a rank."""
        worker = rank_mac(header.job_number, rank).to_bytes(6, "big")
        ends = (mac_bytes(SWITCH_MAC), worker, LOOPBACK, LOOPBACK, SWITCH_PORT, 50000 + rank)
        self.frame(UdpHeaders(*ends), _payload(header, elements))

    def write(self, path: Path) -> Path:
        """As a pcap file."""
        with PcapWriter(path) as writer:
            for record in self.records:
                writer.write(record.time, record.data)
        return path


def _payload(header: Header, elements: Sequence[int]) -> bytes:
    lane = _LANES.get(LANE_BITS[header.msg_type], "i")
    return build_header(header) + struct.pack(f">{len(elements)}{lane}", *elements)
