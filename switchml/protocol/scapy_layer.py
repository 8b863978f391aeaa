"""The packet format as a scapy layer, made from the header table. The only module that imports scapy.

docs/packets.md has examples. Use it to look at packets on an interface:

    from scapy.all import sniff
    import switchml.protocol.scapy_layer
    sniff(iface="lo", filter="udp portrange 48864-48879", prn=lambda packet: packet.show())
"""

from __future__ import annotations

import struct
from itertools import starmap
from typing import Any

from scapy.fields import BitEnumField, BitField, FieldListField, SignedByteField, SignedIntField
from scapy.layers.inet import UDP
from scapy.packet import Packet, bind_bottom_up, bind_top_down
from typing_extensions import override

from switchml.protocol import header, messages
from switchml.protocol.header import Field

PORTS = range(messages.UDP_PORT_FIRST, messages.UDP_PORT_LAST + 1)

_WITH_PAYLOAD = {kind.code for kind in messages.MESSAGE_TYPES if kind.lane_bits}
_PAYLOADS = {size.code: size.payload for size in messages.PAYLOAD_SIZES}


class Elements(FieldListField):
    """The int32 elements, or the words that narrow lanes lie in: as many as `size` says and the packet has."""

    @override
    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[int]]:
        announced = _PAYLOADS[pkt.size] if pkt.msg_type in _WITH_PAYLOAD else 0
        count = min(announced, len(s)) // messages.ELEMENT_BYTES
        end = count * messages.ELEMENT_BYTES
        return s[end:], list(struct.unpack(f">{count}i", s[:end]))


def _scapy_field(name: str, field: Field) -> Any:
    if name == "msg_type":
        return BitEnumField(
            name, messages.SUM, field.bits, {kind.code: kind.name for kind in messages.MESSAGE_TYPES}
        )
    if name == "size":
        return BitField(name, None, field.bits)
    if not field.signed:
        return BitField(name, 0, field.bits)
    if field.bits != 8:
        raise AssertionError(f"no scapy field for {field.bits} signed bits: {name}")
    return SignedByteField(name, 0)


class SwitchML(Packet):
    """A SwitchML packet. Without a `size`, the smallest one that holds the elements is written.

    >>> bytes(SwitchML(tsi=7, elements=[1, -1]))[:10].hex()
    '10000000000700000000'
    """

    name = "SwitchML"
    fields_desc = [  # noqa: RUF012
        *starmap(_scapy_field, header.FIELDS.items()),
        Elements("elements", [], SignedIntField("element", 0)),
    ]

    @override
    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        if self.size is None:
            needed = messages.ELEMENT_BYTES * len(self.elements)
            codes = [code for code, payload in _PAYLOADS.items() if payload >= needed]
            if not codes:
                raise ValueError(f"{needed} bytes of elements fit no payload size")
            place = header.PLACES["size"]
            pkt = bytes([pkt[place.offset] | min(codes) << place.shift]) + pkt[place.offset + 1 :]
        return pkt + pay


for _port in PORTS:
    bind_bottom_up(UDP, SwitchML, dport=_port)
    bind_bottom_up(UDP, SwitchML, sport=_port)
bind_top_down(UDP, SwitchML, dport=PORTS[0])
