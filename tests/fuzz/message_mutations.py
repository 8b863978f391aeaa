"""Changes protobuf messages at random places, by a seed: fields of other values, lost, doubled, and the bytes themselves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    1023,
    16384,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.01, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "x",
    "udp",
    "shm",
    "\0",
    "\n",
    "\u0661",
    "\U0010ffff",
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "10.0.0.1 ",
    "{}",
    "x" * 300,
)
_BYTES = (b"", b"\0", b"\x01", b"\0\x01", b"\xff", bytes(4), bytes(16), b"\xff" * 17, bytes(300))
_FLOAT = (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE)
_BITS = {
    Field.CPPTYPE_INT32: 32,
    Field.CPPTYPE_UINT32: 32,
    Field.CPPTYPE_INT64: 64,
    Field.CPPTYPE_UINT64: 64,
    Field.CPPTYPE_ENUM: 32,
}
_SIGNED = (Field.CPPTYPE_INT32, Field.CPPTYPE_INT64, Field.CPPTYPE_ENUM)
_DEEPEST = 6


def _scalar(field: Any, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind == Field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind in _FLOAT:
        return rng.choice(_FLOATS)
    if kind in _BITS:
        value = rng.choice(_NUMBERS) & ((1 << _BITS[kind]) - 1)
        return value - (1 << _BITS[kind]) if kind in _SIGNED and value >> (_BITS[kind] - 1) else value
    return rng.choice(_BYTES) if field.type == Field.TYPE_BYTES else rng.choice(_TEXTS)


def _repeated(field: Any) -> bool:
    """By the name that newer versions of protobuf have for it, or by the older."""
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def fill(message: Any, rng: random.Random, depth: int = 0) -> None:
    """Give a field of the message a random value, and those of a new message inside it."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = rng.choice(fields)
    if _is_map(field):
        return
    if _repeated(field):
        items = getattr(message, field.name)
        if field.message_type is None:
            items.append(_scalar(field, rng))
        elif len(items) and rng.random() < 0.3:
            items.add().CopyFrom(rng.choice(items))
        elif depth < _DEEPEST:
            fill(items.add(), rng, depth + 1)
    elif field.message_type is None:
        setattr(message, field.name, _scalar(field, rng))
    elif depth < _DEEPEST:
        inner = getattr(message, field.name)
        inner.SetInParent()
        for _ in range(rng.choice((0, 1, 2))):
            fill(inner, rng, depth + 1)


def _inside(message: Any) -> list[Any]:
    """The message and all in it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is None or _is_map(field):
            continue
        for inner in value if _repeated(field) else (value,):
            found += _inside(inner)
    return found


def change(message: Any, rng: random.Random) -> None:
    """One to three changes, anywhere in the message."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.choice(_inside(message))
        there = place.ListFields()
        if there and rng.random() < 0.25:
            place.ClearField(rng.choice(there)[0].name)
        elif there and rng.random() < 0.5:
            field, _ = rng.choice(there)
            if field.message_type is None and not _repeated(field):
                setattr(place, field.name, _scalar(field, rng))
        else:
            fill(place, rng)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                del changed[at : at + rng.choice((1, 2, 8))]
            case 2:
                changed[at:at] = rng.randbytes(rng.choice((1, 4)))
            case _:
                del changed[at:]
    return bytes(changed)


def encoded(templates: Sequence[Any], rng: random.Random) -> bytes:
    """Bytes of a request: one of the templates as it is, changed, or with its bytes damaged."""
    message = rng.choice(templates)
    chance = rng.random()
    if chance < 0.6:
        changed = type(message)()
        changed.CopyFrom(message)
        change(changed, rng)
        message = changed
    data: bytes = message.SerializeToString()
    return damaged(data, rng) if chance > 0.8 else data
