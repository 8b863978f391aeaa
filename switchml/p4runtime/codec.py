"""Messages and values: keys, actions, table entries, digests (P4Runtime specification, sections 8 and 9.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from switchml.p4runtime.bytestrings import check_width, decode, encode
from switchml.p4runtime.declarations import ActionInfo, FieldInfo
from switchml.p4runtime.entries import (
    ActionCall,
    GroupRef,
    Match,
    MatchKind,
    MemberRef,
    TableAction,
    TableEntry,
)
from switchml.p4runtime.refusals import denied, invalid, not_found, unimplemented
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4runtime_pb2 as pb

_WITH_EXTRA = (MatchKind.LPM, MatchKind.TERNARY, MatchKind.RANGE)


def parse_key(fields: Mapping[int, FieldInfo], messages: Iterable[Any], what: str) -> dict[str, Match]:
    """The key of an entry. Raises INVALID_ARGUMENT for an unknown, repeated or missing field, for a match of another kind
    and for one that is not in its canonical form; OUT_OF_RANGE for a value that does not fit.
    """
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
    value bits that do not count, or an optional field as a ternary one.
    """
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
    """Whether the match spells out what an omitted field says."""
    if match.kind is MatchKind.RANGE:
        return match.value == 0 and match.extra == (1 << width) - 1
    return match.kind in (MatchKind.LPM, MatchKind.TERNARY) and match.extra == 0


def parse_action(
    actions: Mapping[int, tuple[ActionInfo, str]], message: Any, what: str, *, default: bool = False
) -> ActionCall:
    """An action of a table or profile. Raises INVALID_ARGUMENT for an action or parameter it has not, or that is missing;
    PERMISSION_DENIED for one out of its place (`default`: the default entry); OUT_OF_RANGE for a value that does not fit.
    """
    known = actions.get(message.action_id)
    if known is None:
        raise invalid(f"{what} has no action {message.action_id:#x}")
    action, scope = known
    if scope not in ("TABLE_AND_DEFAULT", "DEFAULT_ONLY" if default else "TABLE_ONLY"):
        raise denied(f"{what}: action {action.name} is {scope}")
    values: dict[int, bytes] = {}
    for parameter in message.params:
        if parameter.param_id in values:
            raise invalid(f"{what}: {action.name}: parameter {parameter.param_id} is there twice")
        values[parameter.param_id] = parameter.value
    arguments = []
    for wanted in action.parameters:
        where = f"{what}: {action.name}: {wanted.name}"
        if wanted.id not in values:
            raise invalid(f"{where} is missing")
        arguments.append(decode(values.pop(wanted.id), wanted.width, where))
    if values:
        raise invalid(f"{what}: {action.name} has no parameter {', '.join(map(str, values))}")
    return ActionCall(action.name, tuple(arguments))


def action_message(schema: Schema, call: ActionCall) -> Any:
    """The message of an action; None for one that is not in the P4Info (the NoAction of a program that does not name it)."""
    action = schema.actions.by_name.get(call.name)
    if action is None:
        return None
    message = pb.Action(action_id=action.id)
    for parameter, value in zip(action.parameters, call.arguments, strict=True):
        message.params.add(param_id=parameter.id, value=encode(value))
    return message


def entry_entity(schema: Schema, table: str, entry: TableEntry) -> Any:
    """The Entity of an entry with an action of its own, as a controller writes it.

    Raises:
        RuntimeRequestError: NOT_FOUND for a table, field or action there is not, INVALID_ARGUMENT for a match of another kind,
            OUT_OF_RANGE for a value that does not fit.
    """
    entity = key_entity(schema, table, entry.key, entry.priority)
    assert isinstance(entry.action, ActionCall)
    action = schema.actions.named(entry.action.name)
    for parameter, value in zip(action.parameters, entry.action.arguments, strict=True):
        check_width(value, parameter.width, f"parameter {parameter.name} of {action.name}")
    entity.table_entry.action.action.CopyFrom(action_message(schema, entry.action))
    return entity


def key_entity(schema: Schema, table: str, key: Mapping[str, Match], priority: int = 0) -> Any:
    """The Entity that names an entry. Raises as `entry_entity`."""
    info = schema.tables.named(table)
    fields = {field.name: field for field in info.fields.values()}
    for name, match in key.items():
        if name not in fields:
            raise not_found(
                f"table {table} has no key field {name}; its key is {', '.join(fields) or 'empty'}"
            )
        what = f"field {name} of {table}"
        if match.kind is not fields[name].kind:
            raise invalid(f"{what} is {fields[name].kind.value}, not {match.kind.value}")
        check_width(match.value, fields[name].width, what)
    messages = key_messages(info.fields, key)
    return pb.Entity(table_entry=pb.TableEntry(table_id=info.id, match=messages, priority=priority))


def parse_entry(schema: Schema, message: Any) -> tuple[str, TableEntry]:
    """A table and its entry, as a controller reads them. Raises as `parse_key` and `parse_action`."""
    table = schema.tables.get(message.table_id)
    what = f"table {table.name}"
    key = parse_key(table.fields, message.match, what)
    kind = message.action.WhichOneof("type")
    if kind == "action_profile_member_id":
        action: TableAction = MemberRef(message.action.action_profile_member_id)
    elif kind == "action_profile_group_id":
        action = GroupRef(message.action.action_profile_group_id)
    elif kind == "action":
        action = parse_action(table.actions, message.action.action, what)
    else:
        raise unimplemented(f"{what}: an entry with {kind or 'no action'}")
    return table.name, TableEntry(key, action, message.priority)


def parse_digests(schema: Schema, message: Any) -> list[tuple[str, dict[str, int]]]:
    """The messages of a DigestList: the digest's name, and the values by field. Raises as `DataType.decode`."""
    digest = schema.digests.get(message.digest_id)
    found = []
    for data in message.data:
        if data.WhichOneof("data") == "bitstring":  # a digest of a single field may come bare
            values = [int.from_bytes(data.bitstring, "big")]
        else:
            values = digest.type.decode(data, f"digest {digest.name}")
        found.append((digest.name, dict(zip(digest.fields, values, strict=True))))
    return found


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
