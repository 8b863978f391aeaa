"""A loaded program: what a BMv2 JSON says, as plain objects by full name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from switchml.switch_emulator.p4.expressions import Expr, FieldRef

VALID = "$valid$"


@dataclass(frozen=True)
class FieldType:
    """width: bits; of a variable-length field the most it can have (0 = not said)."""

    name: str
    width: int
    signed: bool = False
    saturating: bool = False
    variable: bool = False


@dataclass(frozen=True)
class HeaderType:
    """max_bytes: of the whole header, 0 unless it has a variable-length field."""

    name: str
    fields: tuple[FieldType, ...]
    max_bytes: int = 0

    @cached_property
    def _by_name(self) -> dict[str, FieldType]:
        return {f.name: f for f in self.fields}

    def field(self, name: str) -> FieldType:
        if name not in self._by_name:
            raise KeyError(f"header type {self.name} has no field {name}")
        return self._by_name[name]

    @property
    def fixed_bits(self) -> int:
        return sum(f.width for f in self.fields if not f.variable)


@dataclass(frozen=True)
class Header:
    name: str
    type: HeaderType
    metadata: bool


@dataclass(frozen=True)
class Stack:
    name: str
    type: HeaderType
    headers: tuple[str, ...]


@dataclass(frozen=True)
class Union:
    """members: (name within the union, name of the header instance)."""

    name: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class UnionStack:
    name: str
    unions: tuple[str, ...]


@dataclass(frozen=True)
class SourceInfo:
    """Where in the P4 program, and what it says there."""

    file: str
    line: int
    fragment: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Primitive:
    op: str
    args: tuple[Expr, ...]
    source: SourceInfo | None = None


@dataclass(frozen=True)
class ActionParam:
    name: str
    width: int


@dataclass(frozen=True)
class Action:
    """ident: the JSON's id: actions of several tables may share a name."""

    name: str
    ident: int
    params: tuple[ActionParam, ...]
    body: tuple[Primitive, ...]


@dataclass(frozen=True)
class Extract:
    """kind: regular (a header), stack or union_stack (their next element). member: of the union. length: bits of
    the variable-length field."""

    kind: str
    target: str
    member: str = ""
    length: Expr | None = None


@dataclass(frozen=True)
class SetField:
    target: FieldRef
    value: Expr


@dataclass(frozen=True)
class Verify:
    condition: Expr
    error: Expr


@dataclass(frozen=True)
class Advance:
    bits: Expr


ParserOp = Extract | SetField | Verify | Advance | Primitive


@dataclass(frozen=True)
class Transition:
    """values and masks: one a key field; mask None = exact. value_set: its name, or "". Both empty: default."""

    next_state: str | None
    values: tuple[int, ...] = ()
    masks: tuple[int, ...] | None = None
    value_set: str = ""


@dataclass(frozen=True)
class ParserState:
    name: str
    ops: tuple[ParserOp, ...]
    key: tuple[Expr, ...]
    key_widths: tuple[int, ...]
    transitions: tuple[Transition, ...]
    default: str | None


@dataclass(frozen=True)
class Parser:
    name: str
    start: str | None
    states: dict[str, ParserState]


@dataclass(frozen=True)
class Deparser:
    name: str
    order: tuple[str, ...]
    primitives: tuple[Primitive, ...]


@dataclass(frozen=True)
class CalculationInput:
    """Exactly one of: a field, a header's name, a constant (value, bits), the payload."""

    field: FieldRef | None = None
    header: str = ""
    constant: tuple[int, int] | None = None
    payload: bool = False


@dataclass(frozen=True)
class Calculation:
    name: str
    algorithm: str
    inputs: tuple[CalculationInput, ...]


@dataclass(frozen=True)
class Checksum:
    name: str
    target: FieldRef
    calculation: str
    update: bool
    verify: bool
    condition: Expr | None


@dataclass(frozen=True)
class Register:
    name: str
    size: int
    width: int


@dataclass(frozen=True)
class Counter:
    """table: of a direct counter."""

    name: str
    size: int
    table: str = ""


@dataclass(frozen=True)
class Meter:
    """unit: "packets" or "bytes". table, result: of a direct meter."""

    name: str
    size: int
    unit: str
    table: str = ""
    result: FieldRef | None = None


@dataclass(frozen=True)
class KeyField:
    """kind: exact, lpm, ternary, range or valid (an exact match on a header's validity)."""

    name: str
    kind: str
    target: FieldRef
    width: int
    mask: int | None = None


@dataclass(frozen=True)
class ConstEntry:
    """key: one a field: (value, extra) as in runtime.Match. priority: smaller wins, as in the JSON."""

    key: tuple[tuple[int, int], ...]
    action: int
    arguments: tuple[int, ...]
    priority: int


@dataclass(frozen=True)
class Table:
    """match_kind: exact, lpm, ternary or range. next_nodes: by action name, or by __HIT__ and __MISS__."""

    name: str
    match_kind: str
    key: tuple[KeyField, ...]
    actions: dict[str, int]
    profile: str
    max_size: int
    counters: bool
    timeout: bool
    direct_meter: str
    default_action: int | None
    default_arguments: tuple[int, ...]
    default_const: bool
    entries: tuple[ConstEntry, ...]
    has_const_entries: bool
    next_nodes: dict[str, str | None]
    miss_next: str | None


@dataclass(frozen=True)
class Conditional:
    name: str
    expression: Expr
    true_next: str | None
    false_next: str | None
    source: SourceInfo | None = None


@dataclass(frozen=True)
class ActionCallNode:
    name: str
    action: int
    next_node: str | None


Node = Table | Conditional | ActionCallNode


@dataclass(frozen=True)
class ActionProfile:
    """selector: hash algorithm and its input; None for a plain profile."""

    name: str
    max_size: int
    selector: tuple[str, tuple[FieldRef, ...]] | None


@dataclass(frozen=True)
class PipelineGraph:
    name: str
    first: str | None
    nodes: dict[str, Node]


@dataclass(frozen=True)
class FieldList:
    """elements: fields or constants. name: of a digest."""

    ident: int
    name: str
    elements: tuple[Expr, ...]


@dataclass
class Program:
    """source: the JSON as loaded, for a device that has to give it back. translations: kept by the compiler."""

    source: bytes
    header_types: dict[str, HeaderType] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)
    stacks: dict[str, Stack] = field(default_factory=dict)
    unions: dict[str, Union] = field(default_factory=dict)
    union_stacks: dict[str, UnionStack] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    parser: Parser = field(default_factory=lambda: Parser("parser", None, {}))
    deparser: Deparser = field(default_factory=lambda: Deparser("deparser", (), ()))
    value_sets: dict[str, int] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    action_by_id: dict[int, Action] = field(default_factory=dict)
    ingress: PipelineGraph = field(default_factory=lambda: PipelineGraph("ingress", None, {}))
    egress: PipelineGraph = field(default_factory=lambda: PipelineGraph("egress", None, {}))
    tables: dict[str, Table] = field(default_factory=dict)
    profiles: dict[str, ActionProfile] = field(default_factory=dict)
    registers: dict[str, Register] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    calculations: dict[str, Calculation] = field(default_factory=dict)
    checksums: tuple[Checksum, ...] = ()
    field_lists: dict[int, FieldList] = field(default_factory=dict)
    digests: dict[int, FieldList] = field(default_factory=dict)
    aliases: dict[str, FieldRef] = field(default_factory=dict)
    translations: dict[tuple[int, bool], Any] = field(default_factory=dict, repr=False, compare=False)

    def field_type(self, ref: FieldRef) -> FieldType:
        if ref.field == VALID:
            return FieldType(VALID, 1)
        return self.headers[ref.header].type.field(ref.field)

    def standard(self, name: str) -> FieldRef | None:
        """The field that a program uses as simple_switch's `name` ("intrinsic_metadata.mcast_grp"), if it has it."""
        if name in self.aliases:
            return self.aliases[name]
        header, _, member = name.partition(".")
        declared = self.headers.get(header)
        if declared is None or all(f.name != member for f in declared.type.fields):
            return None
        return FieldRef(header, member)
