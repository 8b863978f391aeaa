"""P4Info as a catalogue: entities of P4Runtime by the names of the P4 program, and back.

A match on an EXACT or OPTIONAL field is an int; LPM: (value, prefix length); TERNARY: (value, mask); RANGE: (low, high).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from switchml.control.p4runtime.errors import P4RuntimeError, UnknownNameError
from switchml.p4runtime.stubs import p4info_pb2, p4runtime_pb2

MatchValue = int | tuple[int, int]


@dataclass(frozen=True)
class Action:
    """An action and its parameters by name."""

    name: str
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """An entry of a table; without an action it names the entry that has this key."""

    table: str
    key: Mapping[str, MatchValue]
    action: Action | None = None
    priority: int = 0


@dataclass(frozen=True)
class DigestMessage:
    """One message of a digest: its fields by name."""

    name: str
    values: Mapping[str, int]


def encode(value: int) -> bytes:
    """The shortest big-endian string (P4Runtime specification, section 8.4)."""
    return value.to_bytes((value.bit_length() + 7) // 8 or 1, "big")


def decode(data: bytes) -> int:
    return int.from_bytes(data, "big")


class Catalog:
    """The names in a P4Info."""

    def __init__(self, p4info: Any) -> None:
        self.p4info = p4info
        self._kinds: dict[str, dict[str, Any]] = {}
        self._names: dict[int, str] = {}
        for kind in ("tables", "actions", "counters", "direct_counters", "registers", "digests"):
            entities = getattr(p4info, kind)
            self._kinds[kind] = {entity.preamble.name: entity for entity in entities}
            self._names |= {entity.preamble.id: entity.preamble.name for entity in entities}

    def names(self, kind: str) -> tuple[str, ...]:
        """Full names of the entities of a kind: tables, actions, counters, direct_counters, registers, digests."""
        return tuple(self._kinds[kind])

    def find(self, kind: str, name: str) -> Any:
        """The P4Info of an entity. Raises UnknownNameError."""
        try:
            return self._kinds[kind][name]
        except KeyError:
            raise UnknownNameError(
                f"the switch's program has no {name} among its {kind}; load the P4 program that this controller is for",
                "NOT_FOUND",
            ) from None

    def name(self, number: int) -> str:
        return self._names[number]

    def fields(self, table: str) -> tuple[str, ...]:
        """Names of the fields of a table's key, in order."""
        return tuple(match.name for match in self.find("tables", table).match_fields)

    def parameters(self, action: str) -> Mapping[str, int]:
        """Widths in bits of an action's parameters, by name, in order."""
        return {parameter.name: parameter.bitwidth for parameter in self.find("actions", action).params}

    def entity(self, entry: Entry) -> Any:
        """The p4.v1.Entity of a table entry. Raises UnknownNameError, P4RuntimeError."""
        table = self.find("tables", entry.table)
        fields = {match.name: match for match in table.match_fields}
        message = p4runtime_pb2.Entity()
        target = message.table_entry
        target.table_id = table.preamble.id
        target.priority = entry.priority
        for name, value in entry.key.items():
            if name not in fields:
                raise UnknownNameError(
                    f"table {entry.table} has no key field {name}; its key is {', '.join(fields) or 'empty'}",
                    "NOT_FOUND",
                )
            _set_match(target.match.add(), fields[name], value, entry.table)
        if entry.action is not None:
            self._set_action(target.action.action, entry.action)
        return message

    def default_entity(self, table: str, action: Action) -> Any:
        """The p4.v1.Entity of a table's default action."""
        message = self.entity(Entry(table, {}, action))
        message.table_entry.is_default_action = True
        return message

    def entry(self, message: Any) -> Entry:
        """The inverse of `entity`."""
        table = self.find("tables", self.name(message.table_id))
        fields = {match.id: match for match in table.match_fields}
        key = {fields[match.field_id].name: _get_match(match) for match in message.match}
        action = None
        if message.HasField("action") and message.action.HasField("action"):
            action = self._get_action(message.action.action)
        return Entry(table.preamble.name, key, action, message.priority)

    def digest(self, message: Any) -> tuple[DigestMessage, ...]:
        """The messages of a p4.v1.DigestList."""
        name = self.name(message.digest_id)
        fields = self._digest_fields(name)
        return tuple(
            DigestMessage(name, dict(zip(fields, _members(data), strict=True))) for data in message.data
        )

    def _digest_fields(self, name: str) -> tuple[str, ...]:
        """A digest's type is a struct, or a tuple: then its fields have no names but their numbers."""
        spec = self.find("digests", name).type_spec
        if spec.HasField("struct"):
            members = self.p4info.type_info.structs[spec.struct.name].members
            return tuple(member.name for member in members)
        return tuple(str(index) for index in range(len(spec.tuple.members)))

    def _set_action(self, message: Any, action: Action) -> None:
        info = self.find("actions", action.name)
        message.action_id = info.preamble.id
        known = {parameter.name: parameter for parameter in info.params}
        if set(known) != set(action.parameters):
            raise UnknownNameError(
                f"action {action.name} takes {', '.join(known) or 'no parameters'}, not {', '.join(action.parameters)}",
                "INVALID_ARGUMENT",
            )
        for name, value in action.parameters.items():
            _check_width(value, known[name].bitwidth, f"parameter {name} of {action.name}")
            message.params.add(param_id=known[name].id, value=encode(value))

    def _get_action(self, message: Any) -> Action:
        info = self.find("actions", self.name(message.action_id))
        names = {parameter.id: parameter.name for parameter in info.params}
        return Action(
            info.preamble.name,
            {names[parameter.param_id]: decode(parameter.value) for parameter in message.params},
        )


def _check_width(value: int, width: int, what: str) -> None:
    if value < 0 or (width and value.bit_length() > width):
        raise P4RuntimeError(f"{what}: {value} does not fit bit<{width}>", "OUT_OF_RANGE")


def _set_match(message: Any, info: Any, value: MatchValue, table: str) -> None:
    kind = p4info_pb2.MatchField.MatchType.Name(info.match_type)
    message.field_id = info.id
    pair = value if isinstance(value, tuple) else (value, 0)
    if (kind in ("LPM", "TERNARY", "RANGE")) != isinstance(value, tuple):
        raise P4RuntimeError(
            f"field {info.name} of {table} is {kind}: give {'a pair' if kind in ('LPM', 'TERNARY', 'RANGE') else 'a number'}",
            "INVALID_ARGUMENT",
        )
    _check_width(pair[0], info.bitwidth, f"field {info.name} of {table}")
    first = encode(pair[0])
    match kind:
        case "EXACT":
            message.exact.value = first
        case "OPTIONAL":
            message.optional.value = first
        case "LPM":
            message.lpm.value, message.lpm.prefix_len = first, pair[1]
        case "TERNARY":
            message.ternary.value, message.ternary.mask = first, encode(pair[1])
        case "RANGE":
            message.range.low, message.range.high = first, encode(pair[1])


def _get_match(message: Any) -> MatchValue:
    match message.WhichOneof("field_match_type"):
        case "exact":
            return decode(message.exact.value)
        case "optional":
            return decode(message.optional.value)
        case "lpm":
            return decode(message.lpm.value), message.lpm.prefix_len
        case "ternary":
            return decode(message.ternary.value), decode(message.ternary.mask)
        case "range":
            return decode(message.range.low), decode(message.range.high)
        case kind:
            raise P4RuntimeError(f"the switch sent a match of an unknown kind ({kind})", "UNIMPLEMENTED")


def _members(data: Any) -> Iterable[int]:
    kind = data.WhichOneof("data")
    if kind == "bitstring":  # a digest of a single field may come bare
        return [decode(data.bitstring)]
    members = data.struct.members if kind == "struct" else data.tuple.members
    return [decode(member.bitstring) for member in members]
