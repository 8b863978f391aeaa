"""Ethernet, IPv4 and UDP headers around a payload, and the internet checksum (RFC 1071)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

ETHERNET_BYTES = 14
IPV4_BYTES = 20
UDP_BYTES = 8
HEADERS_BYTES = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_VLAN = 0x8100

ICMP, TCP, UDP = 1, 6, 17

_DONT_FRAGMENT = 0x4000
_TTL = 64
_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")


def checksum(data: bytes, start: int = 0) -> int:
    """The internet checksum; `start` is a sum of 16-bit words to begin with.

    Adding with end-around carry is arithmetic modulo 65535, where 2^16 is 1.
    """
    total = start + int.from_bytes(data + b"\0" if len(data) % 2 else data, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Sum of the words that UDP and TCP checksums start from; addresses of IPv4 or IPv6."""
    words = struct.unpack(f"!{len(source)}H", source + destination)
    return int(sum(words)) + protocol + length


def mac_bytes(text: str) -> bytes:
    """Six bytes from text like "02:53:4d:4c:00:01"."""
    return bytes.fromhex(text.replace(":", ""))


def mac_text(data: bytes) -> str:
    """Six bytes as "02:53:4d:4c:00:01"; the other way round."""
    return data.hex(":")


class UdpHeaders(NamedTuple):
    """What is put around a UDP payload. Addresses: 6 and 4 bytes."""

    source_mac: bytes
    destination_mac: bytes
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int

    def build(self, length: int) -> bytes:
        """The 42 bytes in front of a payload of `length` bytes; no UDP checksum (0 says so)."""
        ipv4 = (
            *(0x45, 0, IPV4_BYTES + UDP_BYTES + length, 0, _DONT_FRAGMENT, _TTL, UDP),
            *(0, self.source, self.destination),
        )
        bare = _IPV4.pack(*ipv4)
        return (
            _ETHERNET.pack(self.destination_mac, self.source_mac, ETHERTYPE_IPV4)
            + bare[:10]
            + checksum(bare).to_bytes(2, "big")
            + bare[12:]
            + _UDP.pack(self.source_port, self.destination_port, UDP_BYTES + length, 0)
        )


class Datagram(NamedTuple):
    """The UDP datagram in a frame.

    Attributes:
        address: where it goes to, dotted.
    """

    address: str
    port: int
    payload: bytes


def _udp_at(frame: bytes) -> int:
    """Where the UDP header of a frame is; 0 when it is no whole, unfragmented UDP datagram over IPv4."""
    if len(frame) < HEADERS_BYTES or int.from_bytes(frame[12:14], "big") != ETHERTYPE_IPV4:
        return 0
    header = (frame[14] & 0xF) * 4
    fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
    if frame[14] >> 4 != 4 or header < IPV4_BYTES or frame[23] != UDP or fragment:
        return 0
    at = ETHERNET_BYTES + header
    if len(frame) < at + UDP_BYTES:
        return 0
    length = int.from_bytes(frame[at + 4 : at + 6], "big")
    return at if UDP_BYTES <= length <= len(frame) - at else 0


def datagram_in(frame: bytes) -> Datagram | None:
    """None when the frame is no whole, unfragmented UDP datagram over IPv4."""
    at = _udp_at(frame)
    if not at:
        return None
    _, port, length, _ = _UDP.unpack_from(frame, at)
    return Datagram(socket.inet_ntoa(frame[30:34]), port, frame[at + UDP_BYTES : at + length])


def source_of(frame: bytes) -> tuple[str, int]:
    """Dotted address and port that a frame with a datagram came from."""
    return socket.inet_ntoa(frame[26:30]), int.from_bytes(frame[_udp_at(frame) :][:2], "big")
