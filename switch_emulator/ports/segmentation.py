"""What a network card would have done: checksums left undone and trains left uncut by segmentation offload.

Between two interfaces of one machine the kernel skips both, since no wire is there. A packet socket with PACKET_VNET_HDR says so
in front of each frame (`struct virtio_net_hdr`; virtio specification, section 5.1.6), and `wire_frames` does the work, so that a
pipeline sees what a switch would have seen.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from switchml.packets.ethernet import (
    ETHERNET_BYTES,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    IPV4_BYTES,
    TCP,
    UDP,
    UDP_BYTES,
    checksum,
    pseudo_header,
)

VNET_HEADER = struct.Struct("=BBHHHH")
"""flags, kind of train, bytes of its headers, bytes of a segment, where the checksum starts, where it goes from there."""

NO_OFFLOAD = bytes(VNET_HEADER.size)
"""In front of a frame that is sent: nothing is left to do."""

NEEDS_CHECKSUM = 1
_ECN = 0x80
NOT_A_TRAIN = 0
_TCP_TRAINS = (1, 4)
_UDP_TRAIN = 5
_IPV6_BYTES = 40
_FIN_PUSH = 0x09
_CONGESTION_REDUCED = 0x80


class _Layers(NamedTuple):
    """Where the headers of a train begin."""

    network: int
    transport: int
    payload: int
    version: int
    protocol: int


def wire_frames(header: bytes, frame: bytes) -> list[bytes]:
    """The frames that would have been on the wire; empty when the train is of a kind that cannot be cut here."""
    flags, kind, _, segment, start, offset = VNET_HEADER.unpack_from(header)
    kind &= ~_ECN
    if kind == NOT_A_TRAIN:
        if flags & NEEDS_CHECKSUM:
            return [_with_checksum(frame, start, start + offset)]
        return [frame]
    layers = _layers(frame)
    wanted = TCP if kind in _TCP_TRAINS else UDP if kind == _UDP_TRAIN else None
    if layers is None or layers.protocol != wanted or segment == 0:
        return []
    return _cut(frame, layers, segment)


def _with_checksum(frame: bytes, start: int, at: int) -> bytes:
    """The field already holds the sum of the pseudo header."""
    if at + 2 > len(frame):
        return frame
    value = checksum(frame[start:]) or 0xFFFF
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]


def _layers(frame: bytes) -> _Layers | None:
    at = ETHERNET_BYTES
    ethertype = int.from_bytes(frame[12:14], "big")
    while ethertype == ETHERTYPE_VLAN and len(frame) >= at + 4:
        ethertype = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    if ethertype == ETHERTYPE_IPV4 and len(frame) >= at + IPV4_BYTES:
        version, protocol, transport = 4, frame[at + 9], at + (frame[at] & 0xF) * 4
    elif ethertype == ETHERTYPE_IPV6 and len(frame) >= at + _IPV6_BYTES:
        version, protocol, transport = 6, frame[at + 6], at + _IPV6_BYTES
    else:
        return None
    if protocol == UDP:
        payload = transport + UDP_BYTES
    elif protocol == TCP and len(frame) > transport + 12:
        payload = transport + (frame[transport + 12] >> 4) * 4
    else:
        return None
    return _Layers(at, transport, payload, version, protocol) if payload <= len(frame) else None


def _cut(frame: bytes, layers: _Layers, segment: int) -> list[bytes]:
    frames = []
    places = range(layers.payload, len(frame), segment)
    for number, at in enumerate(places):
        payload = frame[at : at + segment]
        headers = bytearray(frame[: layers.payload])
        _set_network_header(headers, layers, number, len(payload))
        if layers.protocol == TCP:
            _set_tcp_header(headers, layers, at - layers.payload, number == 0, at == places[-1])
        else:
            length = UDP_BYTES + len(payload)
            headers[layers.transport + 4 : layers.transport + 6] = length.to_bytes(2, "big")
        frames.append(bytes(_finished(headers, layers, payload)))
    return frames


def _set_network_header(headers: bytearray, layers: _Layers, number: int, payload: int) -> None:
    at = layers.network
    total = layers.payload - at + payload
    if layers.version == 6:
        headers[at + 4 : at + 6] = (total - _IPV6_BYTES).to_bytes(2, "big")
        return
    headers[at + 2 : at + 4] = total.to_bytes(2, "big")
    identification = int.from_bytes(headers[at + 4 : at + 6], "big") + number
    headers[at + 4 : at + 6] = (identification & 0xFFFF).to_bytes(2, "big")
    headers[at + 10 : at + 12] = b"\0\0"
    headers[at + 10 : at + 12] = checksum(bytes(headers[at : layers.transport])).to_bytes(2, "big")


def _set_tcp_header(headers: bytearray, layers: _Layers, offset: int, first: bool, last: bool) -> None:
    at = layers.transport
    sequence = int.from_bytes(headers[at + 4 : at + 8], "big") + offset
    headers[at + 4 : at + 8] = (sequence & 0xFFFF_FFFF).to_bytes(4, "big")
    if not last:
        headers[at + 13] &= ~_FIN_PUSH & 0xFF
    if not first:
        headers[at + 13] &= ~_CONGESTION_REDUCED & 0xFF


def _finished(headers: bytearray, layers: _Layers, payload: bytes) -> bytearray:
    """With its transport checksum."""
    field = layers.transport + (16 if layers.protocol == TCP else 6)
    headers[field : field + 2] = b"\0\0"
    first, width = (layers.network + 12, 4) if layers.version == 4 else (layers.network + 8, 16)
    start = pseudo_header(
        bytes(headers[first : first + width]),
        bytes(headers[first + width : first + 2 * width]),
        layers.protocol,
        layers.payload - layers.transport + len(payload),
    )
    value = checksum(bytes(headers[layers.transport :]) + payload, start) or 0xFFFF
    headers[field : field + 2] = value.to_bytes(2, "big")
    return headers + payload
