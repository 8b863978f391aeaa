"""Frames of the conformance scripts: who is where, and Ethernet, ARP, IPv4, ICMP and UDP around what they say."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from switchml.packets.ethernet import checksum
from switchml.protocol.header import Header, build_header
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.protocol.slots import TSI_MASK

SWITCH_MAC = bytes.fromhex("02534d4c0001")
SWITCH_IP = bytes([10, 0, 0, 254])
SWITCH_PORT = UDP_PORT_FIRST
_TTL = 64


@dataclass(frozen=True)
class Station:
    """A host on a port of the switch."""

    port: int
    mac: bytes
    ip: bytes
    udp_port: int = 0xC000


def worker(job: int, rank: int, first_port: int = 1) -> Station:
    """Where the rank of a job is."""
    mac = bytes([2, 1, 0, 0, job, rank])
    return Station(first_port + rank, mac, bytes([10, 0, job, rank + 1]), 0xC000 + rank)


def ethernet(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + struct.pack(">H", kind) + payload


def ipv4(
    source: bytes, destination: bytes, protocol: int, payload: bytes, identification: int, ttl: int = 64
) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), identification, 0x4000, ttl, protocol, 0)
    head += source + destination
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def to_switch(sender: Station, datagram: bytes, identification: int = 1) -> bytes:
    """A frame with a datagram from a host to the switch's aggregation port."""
    packet = ipv4(sender.ip, SWITCH_IP, 17, udp(sender.udp_port, SWITCH_PORT, datagram), identification)
    return ethernet(SWITCH_MAC, sender.mac, 0x0800, packet)


def from_switch(receiver: Station, datagram: bytes, identification: int = 1) -> bytes:
    """A frame with a datagram of the switch to a host. identification: of the IPv4 packet that brought the answer about."""
    packet = ipv4(
        SWITCH_IP, receiver.ip, 17, udp(SWITCH_PORT, receiver.udp_port, datagram), identification, _TTL
    )
    return ethernet(receiver.mac, SWITCH_MAC, 0x0800, packet)


def switchml(
    kind: int,
    size: int,
    job: int,
    tsi: int,
    slot: int,
    version: int,
    e0: int = -128,
    e1: int = -128,
    values: Sequence[int] = (),
    **others: int,
) -> bytes:
    """A packet of the protocol (docs/protocol.md); values: int32 or uint32; others: fields of the header."""
    header = Header(
        kind, size=size, job_number=job, tsi=tsi & TSI_MASK, version=version, slot=slot, e0=e0, e1=e1
    )
    return build_header(header._replace(**others)) + struct.pack(
        f">{len(values)}I", *(value & 0xFFFFFFFF for value in values)
    )


def arp(operation: int, sender: tuple[bytes, bytes], target: tuple[bytes, bytes]) -> bytes:
    """An ARP message; sender and target: (MAC, IP)."""
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + b"".join([*sender, *target])


def echo(kind: int, data: bytes) -> bytes:
    """ICMP echo request (8) or reply (0)."""
    rest = struct.pack(">HH", 7, 1) + data
    return struct.pack(">BBH", kind, 0, checksum(struct.pack(">BBH", kind, 0, 0) + rest)) + rest
