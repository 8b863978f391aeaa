"""The packet header, as one table.

The numpy dtype, the compiled pack and parse functions, the scapy layer and the format table of the documentation are all
made from `FIELDS`. Format: the UDP variant of SwitchML's public P4 program; network byte order; elements follow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.protocol.jit import compiled

Bytes = npt.NDArray[np.uint8]


class Field(NamedTuple):
    name: str
    bits: int
    signed: bool
    word: str
    """The whole bytes the field lies in; fields of one word stand next to each other, highest bits first."""
    meaning: str


FIELDS: tuple[Field, ...] = (
    Field("msg_type", 4, False, "kind", "message type (table below)"),
    Field("reserved", 1, False, "kind", "0"),
    Field("size", 3, False, "kind", "payload size of the job (table below)"),
    Field("job_number", 8, False, "job_number", "job on this switch"),
    Field("tsi", 32, False, "tsi", "sequence number of the chunk in its stream"),
    Field("version", 1, False, "pool_index", "which of the slot's two copies"),
    Field("unused", 1, False, "pool_index", "0"),
    Field("slot", 14, False, "pool_index", "slot, counted from the start of the job's range"),
    Field("e0", 8, True, "e0", "exponent; the switch answers with the maximum over the workers"),
    Field("e1", 8, True, "e1", "second exponent, treated like the first; 0 in this version"),
)


class Place(NamedTuple):
    """Where a field lies: the word's first byte and length in bytes, the shift inside it and the mask after it."""

    offset: int
    width: int
    shift: int
    mask: int


def _places() -> dict[str, Place]:
    words: dict[str, int] = {}
    for field in FIELDS:
        words[field.word] = words.get(field.word, 0) + field.bits
    places: dict[str, Place] = {}
    offset = 0
    for word, bits in words.items():
        if bits % 8:
            raise AssertionError(f"header word {word} is not whole bytes")
        shift = bits
        for field in FIELDS:
            if field.word == word:
                shift -= field.bits
                places[field.name] = Place(offset, bits // 8, shift, (1 << field.bits) - 1)
        offset += bits // 8
    return places


PLACES = _places()
HEADER_BYTES = sum(field.bits for field in FIELDS) // 8


def _dtype() -> np.dtype[Any]:
    kinds: dict[str, str] = {}
    for field in FIELDS:
        width = PLACES[field.name].width
        kinds[field.word] = f">{'i' if field.signed else 'u'}{width}"
    return np.dtype(list(kinds.items()))


HEADER_DTYPE = _dtype()

_KIND_AT = PLACES["msg_type"].offset
_TYPE_SHIFT, _TYPE_MASK = PLACES["msg_type"].shift, PLACES["msg_type"].mask
_SIZE_SHIFT, _SIZE_MASK = PLACES["size"].shift, PLACES["size"].mask
_RESERVED_SHIFT, _RESERVED_MASK = PLACES["reserved"].shift, PLACES["reserved"].mask
_JOB_AT = PLACES["job_number"].offset
_TSI_AT = PLACES["tsi"].offset
_POOL_AT = PLACES["slot"].offset
_VERSION_SHIFT, _VERSION_MASK = PLACES["version"].shift, PLACES["version"].mask
_UNUSED_SHIFT, _UNUSED_MASK = PLACES["unused"].shift, PLACES["unused"].mask
_SLOT_SHIFT, _SLOT_MASK = PLACES["slot"].shift, PLACES["slot"].mask
_E0_AT = PLACES["e0"].offset
_E1_AT = PLACES["e1"].offset

MAX_WINDOW = PLACES["slot"].mask + 1


class Header(NamedTuple):
    """A header in host terms, one value per field of `FIELDS`."""

    msg_type: int
    reserved: int
    size: int
    job_number: int
    tsi: int
    version: int
    unused: int
    slot: int
    e0: int
    e1: int


@compiled
def pack_header(
    packet: Bytes,
    at: int,
    msg_type: int,
    size: int,
    job: int,
    tsi: int,
    version: int,
    slot: int,
    e0: int,
    e1: int,
) -> None:
    """Write a header at `packet[at:]`; reserved bits are 0."""
    packet[at + _KIND_AT] = (msg_type << _TYPE_SHIFT) | (size << _SIZE_SHIFT)
    packet[at + _JOB_AT] = job
    packet[at + _TSI_AT] = (tsi >> 24) & 0xFF
    packet[at + _TSI_AT + 1] = (tsi >> 16) & 0xFF
    packet[at + _TSI_AT + 2] = (tsi >> 8) & 0xFF
    packet[at + _TSI_AT + 3] = tsi & 0xFF
    pool = (version << _VERSION_SHIFT) | (slot << _SLOT_SHIFT)
    packet[at + _POOL_AT] = pool >> 8
    packet[at + _POOL_AT + 1] = pool & 0xFF
    packet[at + _E0_AT] = e0 & 0xFF
    packet[at + _E1_AT] = e1 & 0xFF


@compiled
def set_exponents(packet: Bytes, at: int, e0: int, e1: int) -> None:
    """Overwrite the two exponents of the header at `packet[at:]`."""
    packet[at + _E0_AT] = e0 & 0xFF
    packet[at + _E1_AT] = e1 & 0xFF


@compiled
def read_msg_type(packet: Bytes, at: int) -> int:
    return (int(packet[at + _KIND_AT]) >> _TYPE_SHIFT) & _TYPE_MASK


@compiled
def read_size(packet: Bytes, at: int) -> int:
    return (int(packet[at + _KIND_AT]) >> _SIZE_SHIFT) & _SIZE_MASK


@compiled
def reserved_bits_set(packet: Bytes, at: int) -> bool:
    """True when a bit that must be 0 is not."""
    first = (int(packet[at + _KIND_AT]) >> _RESERVED_SHIFT) & _RESERVED_MASK
    second = (
        ((int(packet[at + _POOL_AT]) << 8) | int(packet[at + _POOL_AT + 1])) >> _UNUSED_SHIFT
    ) & _UNUSED_MASK
    return (first | second) != 0


@compiled
def read_job(packet: Bytes, at: int) -> int:
    return int(packet[at + _JOB_AT])


@compiled
def read_tsi(packet: Bytes, at: int) -> int:
    return (
        (int(packet[at + _TSI_AT]) << 24)
        | (int(packet[at + _TSI_AT + 1]) << 16)
        | (int(packet[at + _TSI_AT + 2]) << 8)
        | int(packet[at + _TSI_AT + 3])
    )


@compiled
def read_version(packet: Bytes, at: int) -> int:
    return (
        ((int(packet[at + _POOL_AT]) << 8) | int(packet[at + _POOL_AT + 1])) >> _VERSION_SHIFT
    ) & _VERSION_MASK


@compiled
def read_slot(packet: Bytes, at: int) -> int:
    return (((int(packet[at + _POOL_AT]) << 8) | int(packet[at + _POOL_AT + 1])) >> _SLOT_SHIFT) & _SLOT_MASK


@compiled
def read_e0(packet: Bytes, at: int) -> int:
    return ((int(packet[at + _E0_AT]) + 128) & 0xFF) - 128


@compiled
def read_e1(packet: Bytes, at: int) -> int:
    return ((int(packet[at + _E1_AT]) + 128) & 0xFF) - 128


def parse_header(packet: bytes | Bytes) -> Header:
    """The header at the start of a packet.

    Raises:
        ValueError: fewer bytes than a header.
    """
    data = bytes(packet[:HEADER_BYTES])
    if len(data) < HEADER_BYTES:
        raise ValueError(f"{len(data)} bytes are no header: it has {HEADER_BYTES}")
    values: dict[str, int] = {}
    for field in FIELDS:
        place = PLACES[field.name]
        word = int.from_bytes(data[place.offset : place.offset + place.width], "big")
        value = (word >> place.shift) & place.mask
        values[field.name] = (
            value - (1 << field.bits) if field.signed and value >> (field.bits - 1) else value
        )
    return Header(**values)


def build_header(header: Header) -> bytes:
    """The bytes of a header, reserved bits as given.

    Raises:
        ValueError: a value that does not fit its field.
    """
    words = bytearray(HEADER_BYTES)
    for field, value in zip(FIELDS, header, strict=True):
        low, high = (
            (-(1 << (field.bits - 1)), (1 << (field.bits - 1)) - 1)
            if field.signed
            else (0, (1 << field.bits) - 1)
        )
        if not low <= value <= high:
            raise ValueError(f"{field.name} = {value} does not fit {field.bits} bits")
        place = PLACES[field.name]
        word = int.from_bytes(words[place.offset : place.offset + place.width], "big")
        word |= (value & place.mask) << place.shift
        words[place.offset : place.offset + place.width] = word.to_bytes(place.width, "big")
    return bytes(words)
