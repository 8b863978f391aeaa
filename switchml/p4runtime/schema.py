"""The objects of a P4Info by id and by name, with what requests are checked against (P4Runtime specification, section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError

from switchml.p4runtime.data_types import DataType, data_type
from switchml.p4runtime.declarations import ActionInfo, FieldInfo, ParameterInfo
from switchml.p4runtime.entries import ActionCall, MatchKind
from switchml.p4runtime.refusals import invalid, not_found, unimplemented
from switchml.p4runtime.stubs import p4info_pb2

_KINDS = {
    p4info_pb2.MatchField.EXACT: MatchKind.EXACT,
    p4info_pb2.MatchField.LPM: MatchKind.LPM,
    p4info_pb2.MatchField.TERNARY: MatchKind.TERNARY,
    p4info_pb2.MatchField.RANGE: MatchKind.RANGE,
    p4info_pb2.MatchField.OPTIONAL: MatchKind.OPTIONAL,
}
NEED_PRIORITY = frozenset({MatchKind.TERNARY, MatchKind.RANGE, MatchKind.OPTIONAL})


@dataclass(frozen=True)
class ProfileInfo:
    """An action profile, or a selector.

    Attributes:
        size: members, 0 = no limit.
        max_group_size: 0 = no limit; of weights, or of members when `sums_members`.
    """

    id: int
    name: str
    selector: bool
    table_ids: tuple[int, ...]
    size: int
    max_group_size: int
    sums_members: bool
    max_member_weight: int
    weights_disallowed: bool


@dataclass(frozen=True)
class TableInfo:
    """A table.

    Attributes:
        actions: by id, with the place they may stand (`TABLE_AND_DEFAULT`, `TABLE_ONLY`, `DEFAULT_ONLY`).
        default: the program's own default action.
    """

    id: int
    name: str
    fields: Mapping[int, FieldInfo]
    actions: Mapping[int, tuple[ActionInfo, str]]
    const_default: bool
    profile: ProfileInfo | None
    counter: int  # id of the direct counter, 0 = none
    meter: int  # id of the direct meter, 0 = none
    idle_timeout: bool
    const: bool
    size: int
    default: ActionCall

    @property
    def needs_priority(self) -> bool:
        """Whether keys may overlap, so that entries need a priority above 0."""
        return any(field.kind in NEED_PRIORITY for field in self.fields.values())


@dataclass(frozen=True)
class ArrayInfo:
    """A counter or a meter.

    Attributes:
        kind: the meter's type by name, "" for counters.
    """

    id: int
    name: str
    size: int
    kind: str = ""


@dataclass(frozen=True)
class RegisterInfo:
    """An array of registers."""

    id: int
    name: str
    size: int
    type: DataType


@dataclass(frozen=True)
class ValueSetInfo:
    """A parser's value set; size: the members it may have."""

    id: int
    name: str
    size: int
    fields: Mapping[int, FieldInfo]


@dataclass(frozen=True)
class DigestInfo:
    """A digest.

    Attributes:
        fields: names of a struct's fields; those of a tuple are their numbers.
    """

    id: int
    name: str
    type: DataType
    fields: tuple[str, ...]


class _Object(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


_T = TypeVar("_T", bound=_Object)


class Objects(Generic[_T]):
    """The objects of one kind, by id and by name.

    Args:
        kind: as it is called in messages.
    """

    def __init__(self, kind: str, objects: Iterable[_T]) -> None:
        self.kind = kind
        self.by_id: dict[int, _T] = {}
        self.by_name: dict[str, _T] = {}
        for found in objects:
            if found.id == 0 or found.id in self.by_id or found.name in self.by_name:
                raise invalid(f"P4Info: {kind} {found.name!r} with id {found.id:#x}: no id, or a second one")
            self.by_id[found.id] = found
            self.by_name[found.name] = found

    def get(self, object_id: int) -> _T:
        """Raises NOT_FOUND; INVALID_ARGUMENT for 0, which is no id."""
        if object_id == 0:
            raise invalid(f"the {self.kind} id is not set")
        try:
            return self.by_id[object_id]
        except KeyError:
            raise not_found(f"there is no {self.kind} with id {object_id:#x} in the P4Info") from None

    def named(self, name: str) -> _T:
        """Raises NOT_FOUND."""
        try:
            return self.by_name[name]
        except KeyError:
            raise not_found(
                f"the switch's program has no {self.kind} {name}: is it the one that this controller is for?"
            ) from None

    def select(self, object_id: int) -> list[_T]:
        """One object; all for 0, as wildcard reads have it."""
        return list(self.by_id.values()) if object_id == 0 else [self.get(object_id)]


class Schema:
    """All of a P4Info. Raises RuntimeRequestError INVALID_ARGUMENT when it contradicts itself, UNIMPLEMENTED for
    types that are not supported: values translated to strings (`@p4runtime_translation(..., string)`).
    """

    def __init__(self, info: Any) -> None:
        self.message = info
        self.actions = Objects("action", map(_action, info.actions))
        self.profiles = Objects("action profile", map(_profile, info.action_profiles))
        self._direct_counters = {counter.preamble.id: counter for counter in info.direct_counters}
        self._direct_meters = {meter.preamble.id: meter for meter in info.direct_meters}
        self.tables = Objects("table", map(self._table, info.tables))
        self.counters = Objects(
            "counter", (ArrayInfo(c.preamble.id, c.preamble.name, c.size) for c in info.counters)
        )
        self.meters = Objects(
            "meter", (ArrayInfo(m.preamble.id, m.preamble.name, m.size, meter_kind(m)) for m in info.meters)
        )
        self.registers = Objects(
            "register",
            (
                RegisterInfo(r.preamble.id, r.preamble.name, r.size, data_type(r.type_spec, info.type_info))
                for r in info.registers
            ),
        )
        self.value_sets = Objects(
            "value set",
            (
                ValueSetInfo(v.preamble.id, v.preamble.name, v.size, _fields(v.match, v.preamble.name))
                for v in info.value_sets
            ),
        )
        self.digests = Objects(
            "digest",
            (
                DigestInfo(
                    d.preamble.id,
                    d.preamble.name,
                    data_type(d.type_spec, info.type_info),
                    _digest_fields(d.type_spec, info.type_info),
                )
                for d in info.digests
            ),
        )
        headers = {header.preamble.name: header for header in info.controller_packet_metadata}
        self.packet_in = _metadata(headers.get("packet_in"))
        self.packet_out = _metadata(headers.get("packet_out"))

    @classmethod
    def parse(cls, serialised: bytes) -> Schema:
        """The schema of a serialised P4Info. Raises INVALID_ARGUMENT when it is none, and as the class."""
        try:
            info = p4info_pb2.P4Info.FromString(serialised)
        except DecodeError as error:
            raise invalid(f"that is no serialised P4Info: {error}") from error
        return cls(info)

    def meter_kind_of(self, table: TableInfo) -> str:
        """The type of a table's direct meter, by name."""
        return meter_kind(self._direct_meters[table.meter])

    def _table(self, table: Any) -> TableInfo:
        name = table.preamble.name
        resources = list(table.direct_resource_ids)
        profile = None
        if table.implementation_id:
            profile = self.profiles.by_id.get(table.implementation_id)
            if profile is None:
                raise invalid(f"P4Info: table {name}: no action profile {table.implementation_id:#x}")
        actions = {}
        for reference in table.action_refs:
            action = self.actions.by_id.get(reference.id)
            if action is None:
                raise invalid(f"P4Info: table {name}: no action {reference.id:#x}")
            actions[reference.id] = (
                action,
                _named(p4info_pb2.ActionRef.Scope, reference.scope, f"table {name}"),
            )
        return TableInfo(
            id=table.preamble.id,
            name=name,
            fields=_fields(table.match_fields, name),
            actions=actions,
            const_default=table.const_default_action_id != 0,
            profile=profile,
            counter=next((key for key in resources if key in self._direct_counters), 0),
            meter=next((key for key in resources if key in self._direct_meters), 0),
            idle_timeout=table.idle_timeout_behavior == p4info_pb2.Table.NOTIFY_CONTROL,
            const=table.is_const_table,
            size=table.size,
            default=self._default(table),
        )

    def _default(self, table: Any) -> ActionCall:
        """Where the P4Info does not say: NoAction, or else the last of the table's actions."""
        if table.HasField("initial_default_action"):
            initial = table.initial_default_action
            arguments = tuple(int.from_bytes(argument.value, "big") for argument in initial.arguments)
            return ActionCall(self.actions.get(initial.action_id).name, arguments)
        names = [self.actions.get(reference.id).name for reference in table.action_refs]
        return ActionCall("NoAction" if "NoAction" in names or not names else names[-1])


def meter_kind(meter: Any) -> str:
    """The type by name: TWO_RATE_THREE_COLOR or another."""
    return _named(p4info_pb2.MeterSpec.Type, meter.spec.type, f"meter {meter.preamble.name}")


def _named(enum: Any, number: int, where: str) -> str:
    """The name of a number in an enumeration."""
    if number not in enum.values():
        raise invalid(f"P4Info: {where}: {number} is none of {', '.join(enum.keys())}")
    return str(enum.Name(number))


def _digest_fields(spec: Any, type_info: Any) -> tuple[str, ...]:
    if spec.HasField("struct"):
        return tuple(member.name for member in type_info.structs[spec.struct.name].members)
    return tuple(str(index) for index in range(len(spec.tuple.members) or 1))


def _action(action: Any) -> ActionInfo:
    name = action.preamble.name
    return ActionInfo(
        action.preamble.id,
        name,
        tuple(ParameterInfo(p.id, p.name, _width(p, f"action {name}")) for p in action.params),
    )


def _profile(profile: Any) -> ProfileInfo:
    sums_members = profile.HasField("sum_of_members")
    return ProfileInfo(
        id=profile.preamble.id,
        name=profile.preamble.name,
        selector=profile.with_selector,
        table_ids=tuple(profile.table_ids),
        size=profile.size,
        max_group_size=profile.max_group_size,
        sums_members=sums_members,
        max_member_weight=profile.sum_of_members.max_member_weight if sums_members else 0,
        weights_disallowed=profile.weights_disallowed,
    )


def _fields(fields: Any, owner: str) -> dict[int, FieldInfo]:
    found = {}
    for each in fields:
        kind = _KINDS.get(each.match_type)
        if kind is None:
            raise unimplemented(f"P4Info: {owner}: field {each.name} has a match kind that is not supported")
        found[each.id] = FieldInfo(each.id, each.name, _width(each, owner), kind)
    return found


def _metadata(header: Any) -> tuple[FieldInfo, ...]:
    if header is None:
        return ()
    return tuple(FieldInfo(m.id, m.name, _width(m, header.preamble.name)) for m in header.metadata)


def _width(field: Any, owner: str) -> int:
    """Bits; a translated type's are those that it has towards the control plane."""
    if field.bitwidth <= 0:
        raise unimplemented(
            f"P4Info: {owner}: {field.name} has no bit width: values translated to strings are not supported"
        )
    return int(field.bitwidth)
