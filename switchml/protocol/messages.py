"""Message types and payload sizes: the two tables that give meaning to the first byte of a packet."""

from __future__ import annotations

from typing import NamedTuple

ELEMENT_BYTES = 4

UDP_PORT_FIRST = 0xBEE0
UDP_PORT_LAST = 0xBEEF


class MessageType(NamedTuple):
    """A message type.

    Attributes:
        has_payload: its packets carry elements.
    """

    name: str
    code: int
    has_payload: bool
    meaning: str


MESSAGE_TYPES: tuple[MessageType, ...] = (
    MessageType("SUM", 1, True, "int32 elements to be added; the answer carries the sums"),
    MessageType("EXPONENTS", 2, False, "no elements: only the maximum of the exponents is wanted"),
    MessageType("PROBE", 3, False, "the switch answers a worker it knows, by unicast and, where the job has a"
                " multicast group, by multicast: which of the two paths work?"),
    MessageType("ABSENT", 4, False, "this worker's elements of a `SUM` chunk are all 0; as an answer: all are, or, with `to_one`,"
                " another worker gets them"),
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


def _code(name: str) -> int:
    return next(message.code for message in MESSAGE_TYPES if message.name == name)


SUM = _code("SUM")
EXPONENTS = _code("EXPONENTS")
PROBE = _code("PROBE")
ABSENT = _code("ABSENT")


def size_code(payload: int) -> int:
    """The `size` field for a payload of that many bytes.

    Raises:
        ValueError: no size code stands for that payload.
    """
    for size in PAYLOAD_SIZES:
        if size.payload == payload:
            return size.code
    raise ValueError(f"a payload of {payload} bytes is none of {', '.join(map(str, PAYLOADS))}")
