"""The scapy layer and the header codec write and read the same bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol import header, messages

pytest.importorskip("scapy", reason="scapy is in the extra `scapy`")

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from switchml.protocol.scapy_layer import SwitchML

int32 = st.integers(-(2**31), 2**31 - 1)


def _values(field: header.Field) -> st.SearchStrategy[int]:
    return st.integers(*field.limits())


headers = st.builds(header.Header, *map(_values, header.FIELDS.values()))


@given(headers)
def test_scapy_writes_what_the_header_table_says(fields: header.Header) -> None:
    assert bytes(SwitchML(**fields._asdict())) == header.build_header(fields)


@given(headers, st.lists(int32, max_size=40))
def test_scapy_reads_what_the_codec_writes(fields: header.Header, elements: list[int]) -> None:
    data = header.build_header(fields) + struct.pack(f">{len(elements)}i", *elements)
    packet = SwitchML(data)
    assert header.Header(*(getattr(packet, name) for name in header.Header._fields)) == fields
    carries = {kind.code: kind.lane_bits for kind in messages.MESSAGE_TYPES}.get(fields.msg_type, 0)
    expected = (
        elements[: messages.PAYLOAD_SIZES[fields.size].payload // messages.ELEMENT_BYTES] if carries else []
    )
    assert packet.elements == expected
    assert bytes(packet) == data


@given(st.lists(int32, min_size=1, max_size=64))
def test_the_smallest_size_that_holds_the_elements_is_written(elements: list[int]) -> None:
    packet = SwitchML(bytes(SwitchML(elements=elements)))
    assert messages.PAYLOAD_SIZES[packet.size].payload == (128 if len(elements) <= 32 else 256)
    assert packet.elements == elements


def test_more_elements_than_any_payload_holds_are_refused() -> None:
    most = messages.PAYLOAD_SIZES[-1].payload // messages.ELEMENT_BYTES
    assert len(bytes(SwitchML(elements=[0] * most))) == header.HEADER_BYTES + 4 * most
    with pytest.raises(ValueError, match="fit no payload size"):
        bytes(SwitchML(elements=[0] * (most + 1)))


@pytest.mark.parametrize("port", [messages.UDP_PORT_FIRST, messages.UDP_PORT_LAST])
@pytest.mark.parametrize("side", ["sport", "dport"])
def test_packets_on_the_ports_are_recognised(side: str, port: int) -> None:
    sent = (
        IP(dst="127.0.0.1")
        / UDP(**{"sport": 1024, "dport": 1024, side: port})
        / SwitchML(tsi=5, elements=[-1, 2])
    )
    received = IP(bytes(sent))
    assert received[SwitchML].tsi == 5
    assert received[SwitchML].elements == [-1, 2]


@pytest.mark.parametrize("port", [messages.UDP_PORT_FIRST - 1, messages.UDP_PORT_LAST + 1])
def test_other_ports_are_left_alone(port: int) -> None:
    sent = IP(dst="127.0.0.1") / UDP(sport=1024, dport=port) / SwitchML(elements=[1])
    assert SwitchML not in IP(bytes(sent))


def test_the_switch_is_the_default_destination() -> None:
    assert (UDP() / SwitchML()).dport == messages.UDP_PORT_FIRST


def test_a_truncated_payload_keeps_its_whole_elements_and_the_rest_raw() -> None:
    data = bytes(SwitchML(elements=[1, 2, 3]))[:-2]
    packet = SwitchML(data)
    assert packet.elements == [1, 2]
    assert packet[Raw].load == b"\x00\x00"
    assert bytes(packet) == data


def test_an_exponent_packet_has_no_elements() -> None:
    data = bytes(SwitchML(msg_type="EXPONENTS", e0=-7, elements=[]))
    assert len(data) == header.HEADER_BYTES
    assert SwitchML(data).e0 == -7
