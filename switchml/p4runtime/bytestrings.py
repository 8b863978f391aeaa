"""Binary strings of P4Runtime (specification section 8.4): big-endian, shortest form sent, any form that fits taken."""

from __future__ import annotations

from switchml.p4runtime.refusals import RuntimeRequestError


def encode(value: int) -> bytes:
    """The shortest string of an unsigned value; zero takes one byte."""
    return value.to_bytes((value.bit_length() + 7) // 8 or 1, "big")


def decode(data: bytes, width: int, what: str) -> int:
    """The value of a `bit<width>`. Raises OUT_OF_RANGE when the string is empty or its value needs more bits."""
    if not data:
        raise RuntimeRequestError("OUT_OF_RANGE", f"{what}: the value is an empty string")
    return check_width(int.from_bytes(data, "big"), width, what)


def check_width(value: int, width: int, what: str) -> int:
    """The value. Raises OUT_OF_RANGE when it is no `bit<width>`."""
    if value < 0 or value.bit_length() > width:
        raise RuntimeRequestError("OUT_OF_RANGE", f"{what}: {value:#x} does not fit bit<{width}>")
    return value


def encode_signed(value: int, width: int) -> bytes:
    """The shortest two's complement string of the `int<width>` whose bits, taken as unsigned, are `value`."""
    if value >> (width - 1):
        value -= 1 << width
    bits = (value if value >= 0 else ~value).bit_length() + 1
    return value.to_bytes((bits + 7) // 8, "big", signed=True)


def decode_signed(data: bytes, width: int, what: str) -> int:
    """The bits of an `int<width>`, as an unsigned value. Raises OUT_OF_RANGE as `decode` does."""
    if not data:
        raise RuntimeRequestError("OUT_OF_RANGE", f"{what}: the value is an empty string")
    value = int.from_bytes(data, "big", signed=True)
    if not -(1 << (width - 1)) <= value < 1 << (width - 1):
        raise RuntimeRequestError("OUT_OF_RANGE", f"{what}: {value} does not fit int<{width}>")
    return value & ((1 << width) - 1)
