"""Fields of a key: `FieldMatch` messages and `Match` (P4Runtime specification, section 9.1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.bytestrings import decode, encode
from switchml.switch_emulator.p4runtime.p4info import FieldInfo
from switchml.switch_emulator.p4runtime.refusal import invalid
from switchml.switch_emulator.runtime import Match, MatchKind

_WITH_EXTRA = (MatchKind.LPM, MatchKind.TERNARY, MatchKind.RANGE)


def parse_key(fields: Mapping[int, FieldInfo], messages: Iterable[Any], what: str) -> dict[str, Match]:
    """The key of an entry. Raises INVALID_ARGUMENT for an unknown, repeated or missing field, for a match of another kind
    and for one that is not in its canonical form; OUT_OF_RANGE for a value that does not fit."""
    key: dict[str, Match] = {}
    for message in messages:
        field = fields.get(message.field_id)
        if field is None:
            raise invalid(f"{what} has no match field {message.field_id}")
        if field.name in key:
            raise invalid(f"{what}: field {field.name} is there twice")
        given = message.WhichOneof("field_match_type")
        if given != field.kind.value:
            raise invalid(f"{what}: field {field.name} is {field.kind.value}, not {given or 'unset'}")
        key[field.name] = _PARSERS[field.kind](getattr(message, given), field, f"{what}: {field.name}")
    for field in fields.values():
        if field.kind is MatchKind.EXACT and field.name not in key:
            raise invalid(f"{what}: the exact field {field.name} is missing")
    return key


def key_messages(fields: Mapping[int, FieldInfo], key: Mapping[str, Match]) -> list[Any]:
    """The messages of a key, in the order of the P4Info; fields that match anything are left out."""
    canonical = canonical_key(fields, key)
    messages = []
    for field in fields.values():
        match = canonical.get(field.name)
        if match is None:
            continue
        message = pb.FieldMatch(field_id=field.id)
        value = encode(match.value)
        if field.kind is MatchKind.EXACT:
            message.exact.value = value
        elif field.kind is MatchKind.LPM:
            message.lpm.value = value
            message.lpm.prefix_len = match.extra
        elif field.kind is MatchKind.TERNARY:
            message.ternary.value = value
            message.ternary.mask = encode(match.extra)
        elif field.kind is MatchKind.RANGE:
            message.range.low = value
            message.range.high = encode(match.extra)
        else:
            message.optional.value = value
        messages.append(message)
    return messages


def canonical_key(fields: Mapping[int, FieldInfo], key: Mapping[str, Match]) -> dict[str, Match]:
    """A runtime's key in the form that requests have. A program's own entries may spell out a match of anything, give a
    value bits that do not count, or an optional field as a ternary one."""
    canonical = {}
    for field in fields.values():
        match = key.get(field.name)
        if match is None or matches_anything(match, field.width):
            continue
        value = match.value
        if match.kind is MatchKind.TERNARY:
            value &= match.extra
        elif match.kind is MatchKind.LPM:
            value &= -1 << (field.width - match.extra)
        extra = match.extra if field.kind in _WITH_EXTRA else 0
        canonical[field.name] = Match(field.kind, value, extra)
    return canonical


def anything(field: FieldInfo) -> Match:
    """A match of everything, for a field that was left out where a runtime wants one for each."""
    if field.kind is MatchKind.RANGE:
        return Match(MatchKind.RANGE, 0, (1 << field.width) - 1)
    if field.kind is MatchKind.LPM:
        return Match(MatchKind.LPM, 0, 0)
    return Match(MatchKind.TERNARY, 0, 0)


def as_ternary(match: Match, width: int) -> Match:
    """A prefix as value and mask, for value sets, which know no prefixes."""
    if match.kind is not MatchKind.LPM:
        return match
    mask = ((1 << match.extra) - 1) << (width - match.extra)
    return Match(MatchKind.TERNARY, match.value, mask)


def matches_anything(match: Match, width: int) -> bool:
    if match.kind is MatchKind.RANGE:
        return match.value == 0 and match.extra == (1 << width) - 1
    return match.kind in (MatchKind.LPM, MatchKind.TERNARY) and match.extra == 0


def _exact(message: Any, field: FieldInfo, what: str) -> Match:
    return Match(field.kind, decode(message.value, field.width, what))


def _lpm(message: Any, field: FieldInfo, what: str) -> Match:
    value = decode(message.value, field.width, what)
    length = message.prefix_len
    if not 0 < length <= field.width:
        raise invalid(
            f"{what}: a prefix length of {length} for {field.width} bits; leave the field out to match all"
        )
    if value & ((1 << (field.width - length)) - 1):
        raise invalid(f"{what}: {value:#x} has bits behind its prefix of {length}")
    return Match(MatchKind.LPM, value, length)


def _ternary(message: Any, field: FieldInfo, what: str) -> Match:
    value = decode(message.value, field.width, what)
    mask = decode(message.mask, field.width, f"{what}: mask")
    if mask == 0:
        raise invalid(f"{what}: the mask is 0; leave the field out to match all")
    if value & ~mask:
        raise invalid(f"{what}: {value:#x} has bits outside its mask {mask:#x}")
    return Match(MatchKind.TERNARY, value, mask)


def _range(message: Any, field: FieldInfo, what: str) -> Match:
    low = decode(message.low, field.width, f"{what}: low")
    high = decode(message.high, field.width, f"{what}: high")
    if low > high:
        raise invalid(f"{what}: {low:#x} is above {high:#x}")
    match = Match(MatchKind.RANGE, low, high)
    if matches_anything(match, field.width):
        raise invalid(f"{what}: all values; leave the field out to match all")
    return match


_PARSERS: dict[MatchKind, Callable[[Any, FieldInfo, str], Match]] = {
    MatchKind.EXACT: _exact,
    MatchKind.OPTIONAL: _exact,
    MatchKind.LPM: _lpm,
    MatchKind.TERNARY: _ternary,
    MatchKind.RANGE: _range,
}
