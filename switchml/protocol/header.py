"""The packet header, declared once: `Header`.

The table `FIELDS`, the codec, the compiled functions that read and write packets (header_access.py), the scapy layer, the
documentation's table and the P4 programs' header are all made from it. Format: the UDP variant of SwitchML's public P4
program; network byte order; elements follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, get_type_hints

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Field(NamedTuple):
    """Width and meaning of a field."""

    bits: int
    meaning: str
    signed: bool = False

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        return low, low + (1 << self.bits) - 1


class Header(NamedTuple):
    """A header in host terms: the fields in the order of the wire, highest bits first."""

    msg_type: Annotated[int, Field(4, "message type (table below)")] = 0
    to_one: Annotated[
        int, Field(1, "1: only the worker whose rank `e1` is wants the elements, all others the header alone")
    ] = 0
    size: Annotated[int, Field(3, "payload size of the job (table below)")] = 0
    job_number: Annotated[int, Field(8, "job on this switch")] = 0
    tsi: Annotated[int, Field(32, "sequence number of the chunk in its stream")] = 0
    version: Annotated[int, Field(1, "which of the slot's two copies")] = 0
    but_one: Annotated[
        int,
        Field(1, "1: the worker whose rank `e1` is wants no more than the header, all others the elements"),
    ] = 0
    slot: Annotated[int, Field(14, "slot, counted from the start of the job's range")] = 0
    e0: Annotated[
        int, Field(8, "exponent; the switch answers with the maximum over the workers", signed=True)
    ] = 0
    e1: Annotated[
        int,
        Field(
            8,
            "second exponent, treated like the first; with `to_one` or `but_one` a rank, as uint8; in a result of narrow lanes:"
            " bits they are shifted by",
            signed=True,
        ),
    ] = 0


FIELDS: dict[str, Field] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Header, include_extras=True).items()
}
HEADER_BYTES = sum(field.bits for field in FIELDS.values()) // 8


class Place(NamedTuple):
    """Where a field lies: the first byte and the length of the whole bytes that hold it, the shift inside them and the mask
    after it.
    """

    offset: int
    width: int
    shift: int
    mask: int


def _places() -> dict[str, Place]:
    places: dict[str, Place] = {}
    word: list[str] = []
    offset = 0
    for name in FIELDS:
        word.append(name)
        left = sum(FIELDS[other].bits for other in word)
        if left % 8 == 0:
            width = left // 8
            for other in word:
                left -= FIELDS[other].bits
                places[other] = Place(offset, width, left, (1 << FIELDS[other].bits) - 1)
            offset += width
            word = []
    if word:
        raise AssertionError(f"the header ends within a byte: {', '.join(word)}")
    return places


PLACES = _places()
MAX_WINDOW = PLACES["slot"].mask + 1
MAX_JOB_NUMBER = PLACES["job_number"].mask


def parse_header(packet: bytes | npt.NDArray[np.uint8]) -> Header:
    """The header at the start of a packet.

    Raises:
        ValueError: fewer bytes than a header.
    """
    data = bytes(packet[:HEADER_BYTES])
    if len(data) < HEADER_BYTES:
        raise ValueError(f"{len(data)} bytes are no header: it has {HEADER_BYTES}")
    rest = int.from_bytes(data, "big")
    values: dict[str, int] = {}
    for name, field in reversed(FIELDS.items()):
        value = rest & PLACES[name].mask
        values[name] = value - (1 << field.bits) if value > field.limits()[1] else value
        rest >>= field.bits
    return Header(**values)


def build_header(header: Header) -> bytes:
    """The bytes of a header.

    Raises:
        ValueError: a value that does not fit its field.
    """
    number = 0
    for (name, field), value in zip(FIELDS.items(), header, strict=True):
        low, high = field.limits()
        if not low <= value <= high:
            raise ValueError(f"{name} = {value} does not fit {field.bits} bits")
        number = number << field.bits | value & PLACES[name].mask
    return number.to_bytes(HEADER_BYTES, "big")
