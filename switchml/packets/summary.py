"""What a frame is, in one line."""

from __future__ import annotations

import socket
import struct

from switchml.packets.ethernet import (
    ETHERNET_BYTES,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    ICMP,
    IPV4_BYTES,
    TCP,
    UDP,
    UDP_BYTES,
    mac_text,
)
from switchml.protocol.header import HEADER_BYTES, parse_header
from switchml.protocol.messages import LANE_BITS, MESSAGE_TYPES, UDP_PORT_FIRST, UDP_PORT_LAST

_MESSAGES = {message.code: message.name for message in MESSAGE_TYPES}
_ICMP_TYPES = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_ARP_BYTES = 28


def summary(frame: bytes) -> str:
    """Never raises, whatever the frame holds."""
    if len(frame) < ETHERNET_BYTES:
        return f"{len(frame)} bytes, too short for Ethernet"
    at, tags = ETHERNET_BYTES, ""
    ethertype = int.from_bytes(frame[12:14], "big")
    while ethertype == ETHERTYPE_VLAN and len(frame) >= at + 4:
        tags += f"VLAN {int.from_bytes(frame[at : at + 2], 'big') & 0xFFF} "
        ethertype = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    return tags + _network(ethertype, frame, at)


def _network(ethertype: int, frame: bytes, at: int) -> str:
    if ethertype == ETHERTYPE_IPV4 and len(frame) >= at + IPV4_BYTES:
        return _ipv4(frame[at:])
    if ethertype == ETHERTYPE_ARP and len(frame) >= at + _ARP_BYTES:
        return _arp(frame[at:])
    kind = "IPv6" if ethertype == ETHERTYPE_IPV6 else f"type 0x{ethertype:04x}"
    return f"{mac_text(frame[6:12])} > {mac_text(frame[:6])} {kind}, {len(frame)} bytes"


def _arp(packet: bytes) -> str:
    (operation,) = struct.unpack_from("!H", packet, 6)
    sender, target = socket.inet_ntoa(packet[14:18]), socket.inet_ntoa(packet[24:28])
    if operation == 1:
        return f"ARP who has {target}? tell {sender}"
    return f"ARP {sender} is at {mac_text(packet[8:14])}"


def _ipv4(packet: bytes) -> str:
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    header, length = (packet[0] & 0xF) * 4, int.from_bytes(packet[2:4], "big")
    protocol, body = packet[9], packet[header:length]
    if int.from_bytes(packet[6:8], "big") & 0x1FFF:
        return f"{source} > {destination} fragment, {len(body)} bytes"
    if protocol in (UDP, TCP) and len(body) >= UDP_BYTES:
        ports = struct.unpack_from("!HH", body)
        ends = f"{source}:{ports[0]} > {destination}:{ports[1]}"
        if protocol == TCP:
            return f"{ends} TCP, {len(body)} bytes"
        if any(UDP_PORT_FIRST <= port <= UDP_PORT_LAST for port in ports):
            return f"{ends} {_switchml(body[UDP_BYTES:])}"
        return f"{ends} UDP, {len(body) - UDP_BYTES} bytes"
    if protocol == ICMP and body:
        return f"{source} > {destination} ICMP {_ICMP_TYPES.get(body[0], f'type {body[0]}')}"
    return f"{source} > {destination} protocol {protocol}, {len(body)} bytes"


def _switchml(payload: bytes) -> str:
    if len(payload) < HEADER_BYTES:
        return f"SwitchML, cut off after {len(payload)} bytes"
    header = parse_header(payload)
    kind = _MESSAGES.get(header.msg_type, f"message {header.msg_type}")
    lanes = LANE_BITS[header.msg_type]
    elements = 8 * (len(payload) - HEADER_BYTES) // (lanes if lanes > 0 else 32)
    return (
        f"SwitchML {kind} job {header.job_number} tsi {header.tsi} slot {header.slot} version {header.version} "
        f"exponents {header.e0},{header.e1}, {elements} elements"
    )
