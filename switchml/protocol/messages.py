"""Message types and payload sizes: the two tables that give meaning to the first byte of a packet."""

from __future__ import annotations

from typing import NamedTuple

ELEMENT_BYTES = 4

UDP_PORT_FIRST = 0xBEE0
UDP_PORT_LAST = 0xBEEF


class MessageType(NamedTuple):
    """A message type.

    Attributes:
        lane_bits: of an element in its packets; 0 where they carry none.
        wire: name of the wire whose floating point sums travel so; "" for none.
    """

    name: str
    code: int
    lane_bits: int
    meaning: str
    wire: str = ""


MESSAGE_TYPES: tuple[MessageType, ...] = (
    MessageType("SUM", 1, 32, "int32 elements to be added; the answer carries the sums", "float32"),
    MessageType("EXPONENTS", 2, 0, "no elements: only the maximum of the exponents is wanted"),
    MessageType("PROBE", 3, 0, "the switch answers a worker it knows, by unicast and, where the job has a"
                " multicast group, by multicast: which of the two paths work? Whose address is not proven yet is sent a"
                " challenge (below)"),
    MessageType("ABSENT", 4, 0, "this worker's elements of the chunk are all 0; as an answer: all are, or, with `to_one`"
                " or `but_one`, others get them"),
    MessageType("ASK", 5, 0, "has this worker's packet of the chunk come? Where the chunk is complete the answer is its result,"
                " as to a packet sent again, with all bits of `size` turned; else the question itself, `e0` = 1 for yes, else 0"),
    MessageType("SUM16", 6, 16, "int16 lanes, added up as int32; the answer carries the sums shifted back into lanes, and in `e1`"
                " by how many bits", "int16"),
    MessageType("SUM8", 7, 8, "the same with int8 lanes", "int8"),
)  # fmt: skip


class PayloadSize(NamedTuple):
    """A size that a job's packets may have."""

    code: int
    payload: int
    """Bytes of elements in a packet."""
    hardware: bool
    """True where a hardware switch may take it; the others are for software switches."""


PAYLOAD_SIZES: tuple[PayloadSize, ...] = tuple(PayloadSize(code, 128 << code, code < 4) for code in range(8))
PAYLOADS = tuple(size.payload for size in PAYLOAD_SIZES)
MAX_PAYLOAD = max(PAYLOADS)
ASKED = len(PAYLOAD_SIZES) - 1
"""Bits of the `size` field: they are turned in a result that answers an ASK, so that the worker knows it from all others."""


def _code(name: str) -> int:
    return next(message.code for message in MESSAGE_TYPES if message.name == name)


SUM = _code("SUM")
EXPONENTS = _code("EXPONENTS")
PROBE = _code("PROBE")
ABSENT = _code("ABSENT")
ASK = _code("ASK")
SUM16 = _code("SUM16")
SUM8 = _code("SUM8")

UNKNOWN_TYPE = -1
LANE_BITS: tuple[int, ...] = tuple(
    next((message.lane_bits for message in MESSAGE_TYPES if message.code == code), UNKNOWN_TYPE)
    for code in range(16)
)
"""By message type: bits of an element, 0 for none, UNKNOWN_TYPE where there is no such type."""

FLOAT32 = "float32"
WIRES = {message.wire: message for message in MESSAGE_TYPES if message.wire}
"""What floating point sums may travel as, by name: the message type of their elements. FLOAT32 is the default."""


def wire_lanes(wire: str) -> int:
    """How many elements of a wire take the place of an int32."""
    return 8 * ELEMENT_BYTES // WIRES[wire].lane_bits


def size_code(payload: int) -> int:
    """The `size` field for a payload of that many bytes.

    Raises:
        ValueError: no size code stands for that payload.
    """
    for size in PAYLOAD_SIZES:
        if size.payload == payload:
            return size.code
    raise ValueError(f"a payload of {payload} bytes is none of {', '.join(map(str, PAYLOADS))}")
