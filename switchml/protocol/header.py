"""The packet header, declared once: `Header`.

The table `FIELDS`, the compiled functions that read and write packets, the codec, the scapy layer, the documentation's table
and the P4 programs' header are all made from it. Format: the UDP variant of SwitchML's public P4 program; network byte
order; elements follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

from switchml.protocol.jit import compiled

Bytes = npt.NDArray[np.uint8]


class Field(NamedTuple):
    """Width and meaning of a field. A reserved one is always 0."""

    bits: int
    meaning: str
    signed: bool = False
    reserved: bool = False

    def limits(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        return low, low + (1 << self.bits) - 1


class Header(NamedTuple):
    """A header in host terms: the fields in the order of the wire, highest bits first."""

    msg_type: Annotated[int, Field(4, "message type (table below)")] = 0
    reserved: Annotated[int, Field(1, "0", reserved=True)] = 0
    size: Annotated[int, Field(3, "payload size of the job (table below)")] = 0
    job_number: Annotated[int, Field(8, "job on this switch")] = 0
    tsi: Annotated[int, Field(32, "sequence number of the chunk in its stream")] = 0
    version: Annotated[int, Field(1, "which of the slot's two copies")] = 0
    unused: Annotated[int, Field(1, "0", reserved=True)] = 0
    slot: Annotated[int, Field(14, "slot, counted from the start of the job's range")] = 0
    e0: Annotated[
        int, Field(8, "exponent; the switch answers with the maximum over the workers", signed=True)
    ] = 0
    e1: Annotated[
        int, Field(8, "second exponent, treated like the first; 0 in this version", signed=True)
    ] = 0


FIELDS: dict[str, Field] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Header, include_extras=True).items()
}
HEADER_BYTES = sum(field.bits for field in FIELDS.values()) // 8


class Place(NamedTuple):
    """Where a field lies: the first byte and the length of the whole bytes that hold it, the shift inside them and the mask
    after it."""

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


def _generated(name: str, parameters: str, statements: Iterator[str] | list[str]) -> Any:
    """A function from its source: compiled code knows constants, but no table of fields."""
    source = f"def {name}({parameters}):\n" + "".join(f"    {statement}\n" for statement in statements)
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, __file__, "exec"), names)
    return compiled(names[name])


def _value(name: str) -> str:
    """Source of a field's value, in `packet[at:]`."""
    offset, width, shift, mask = PLACES[name]
    text = " | ".join(f"int(packet[at + {offset + i}]) << {8 * (width - 1 - i)}" for i in range(width - 1))
    text = f"{text} | int(packet[at + {offset + width - 1}])" if text else f"int(packet[at + {offset}])"
    if mask.bit_length() < 8 * width:
        text = f"(({text}) >> {shift}) & {mask}"
    if FIELDS[name].signed:
        half = (mask + 1) // 2
        text = f"(({text} + {half}) & {mask}) - {half}"
    return text


def _stores(values: Mapping[str, str]) -> Iterator[str]:
    """Statements that write these fields, given by their source; other bits of the same bytes become 0."""
    words: dict[tuple[int, int], list[str]] = {}
    for name, value in values.items():
        offset, width, shift, _ = PLACES[name]
        words.setdefault((offset, width), []).append(f"({value} << {shift})")
    for (offset, width), parts in words.items():
        for i in range(width):
            yield f"packet[at + {offset + i}] = (({' | '.join(parts)}) >> {8 * (width - 1 - i)}) & 0xFF"


def _reader(name: str) -> Callable[[Bytes, int], int]:
    function: Callable[[Bytes, int], int] = _generated(
        f"read_{name}", "packet, at", [f"return {_value(name)}"]
    )
    return function


# Each reads its field of the header at `packet[at:]`.
read_msg_type = _reader("msg_type")
read_size = _reader("size")
read_job = _reader("job_number")
read_tsi = _reader("tsi")
read_version = _reader("version")
read_slot = _reader("slot")
read_e0 = _reader("e0")
read_e1 = _reader("e1")

_RESERVED = [name for name, field in FIELDS.items() if field.reserved]

reserved_bits_set: Callable[[Bytes, int], bool] = _generated(
    "reserved_bits_set",
    "packet, at",
    [f"return ({' | '.join(f'({_value(name)})' for name in _RESERVED) or '0'}) != 0"],
)
"""Whether a bit that must be 0 is not, in the header at `packet[at:]`."""

pack_header: Callable[[Bytes, int, Header], None] = _generated(
    "pack_header",
    "packet, at, header",
    _stores({name: f"header.{name}" for name in FIELDS if name not in _RESERVED}),
)
"""Write a header at `packet[at:]`, reserved bits as 0. Compiled code has to name every field of the Header, by keyword."""

set_exponents: Callable[[Bytes, int, int, int], None] = _generated(
    "set_exponents", "packet, at, e0, e1", _stores({"e0": "e0", "e1": "e1"})
)
"""Overwrite the two exponents of the header at `packet[at:]`."""


def parse_header(packet: bytes | Bytes) -> Header:
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
    """The bytes of a header, reserved bits as given.

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
