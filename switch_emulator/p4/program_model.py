"""A loaded program: what a BMv2 JSON says, as plain objects by full name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from switchml.switch_emulator.p4.expressions import Expr, FieldRef

VALID = "$valid$"


@dataclass(frozen=True)
class FieldType:
    """A field of a header type.

    Attributes:
        width: bits; of a variable-length field the most it can have (0 = not said).
    """

    name: str
    width: int
    signed: bool = False
    saturating: bool = False
    variable: bool = False


@dataclass(frozen=True)
class HeaderType:
    """A header type, or one of metadata.

    Attributes:
        max_bytes: of the whole header, 0 unless it has a variable-length field.
    """

    name: str
    fields: tuple[FieldType, ...]
    max_bytes: int = 0

    @cached_property
    def _by_name(self) -> dict[str, FieldType]:
        return {f.name: f for f in self.fields}

    def field(self, name: str) -> FieldType:
        """The field of that name.

        Raises:
            KeyError: there is none.
        """
        if name not in self._by_name:
            raise KeyError(f"header type {self.name} has no field {name}")
        return self._by_name[name]

    @property
    def fixed_bits(self) -> int:
        """Length without the variable-length field."""
        return sum(f.width for f in self.fields if not f.variable)


@dataclass(frozen=True)
class Header:
    """A header instance, or one of metadata."""

    name: str
    type: HeaderType
    metadata: bool


@dataclass(frozen=True)
class Stack:
    """A header stack: its elements, by name."""

    name: str
    type: HeaderType
    headers: tuple[str, ...]


@dataclass(frozen=True)
class Union:
    """A header union.

    Attributes:
        members: (name within the union, name of the header instance).
    """

    name: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class UnionStack:
    """A stack of header unions, by name."""

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
        """File and line."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Primitive:
    """One operation of an action."""

    op: str
    args: tuple[Expr, ...]
    source: SourceInfo | None = None


@dataclass(frozen=True)
class ActionParam:
    """A parameter of an action; width in bits."""

    name: str
    width: int


@dataclass(frozen=True)
class Action:
    """An action with its primitives.

    Attributes:
        ident: the JSON's id: actions of several tables may share a name.
    """

    name: str
    ident: int
    params: tuple[ActionParam, ...]
    body: tuple[Primitive, ...]


@dataclass(frozen=True)
class Extract:
    """Takes a header from the packet.

    Attributes:
        kind: regular (a header), stack or union_stack (their next element).
        member: of the union.
        length: bits of the variable-length field.
    """

    kind: str
    target: str
    member: str = ""
    length: Expr | None = None


@dataclass(frozen=True)
class SetField:
    """A parser's assignment."""

    target: FieldRef
    value: Expr


@dataclass(frozen=True)
class Verify:
    """Ends parsing with `error` unless the condition holds."""

    condition: Expr
    error: Expr


@dataclass(frozen=True)
class Advance:
    """Moves on in the packet."""

    bits: Expr


ParserOp = Extract | SetField | Verify | Advance | Primitive


@dataclass(frozen=True)
class Transition:
    """A way on from a parser state; without values and value set the default one.

    Attributes:
        values: one a key field.
        masks: one a key field; None = exact.
        value_set: its name, or "".
    """

    next_state: str | None
    values: tuple[int, ...] = ()
    masks: tuple[int, ...] | None = None
    value_set: str = ""


@dataclass(frozen=True)
class ParserState:
    """What a state extracts and sets, and the way on by key."""

    name: str
    ops: tuple[ParserOp, ...]
    key: tuple[Expr, ...]
    key_widths: tuple[int, ...]
    transitions: tuple[Transition, ...]
    default: str | None


@dataclass(frozen=True)
class Parser:
    """The states by name; start None = nothing is parsed."""

    name: str
    start: str | None
    states: dict[str, ParserState]


@dataclass(frozen=True)
class Deparser:
    """Headers in the order in which they leave."""

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
    """A hash over fields."""

    name: str
    algorithm: str
    inputs: tuple[CalculationInput, ...]


@dataclass(frozen=True)
class Checksum:
    """A field that holds a calculation's value: checked after parsing, set before deparsing."""

    name: str
    target: FieldRef
    calculation: str
    update: bool
    verify: bool
    condition: Expr | None


@dataclass(frozen=True)
class Register:
    """A register array of `size` cells of `width` bits."""

    name: str
    size: int
    width: int


@dataclass(frozen=True)
class Counter:
    """A counter array, or a table's direct counter.

    Attributes:
        table: of a direct counter.
    """

    name: str
    size: int
    table: str = ""


@dataclass(frozen=True)
class Meter:
    """A meter array, or a table's direct meter.

    Attributes:
        unit: "packets" or "bytes".
        table: of a direct meter.
        result: of a direct meter.
    """

    name: str
    size: int
    unit: str
    table: str = ""
    result: FieldRef | None = None


@dataclass(frozen=True)
class KeyField:
    """A field of a table's key; width in bits.

    Attributes:
        kind: exact, lpm, ternary, range or valid (an exact match on a header's validity).
    """

    name: str
    kind: str
    target: FieldRef
    width: int
    mask: int | None = None


@dataclass(frozen=True)
class ConstEntry:
    """An entry that the program brings along.

    Attributes:
        key: one a field: (value, extra) as in runtime.Match.
        priority: smaller wins, as in the JSON.
    """

    key: tuple[tuple[int, int], ...]
    action: int
    arguments: tuple[int, ...]
    priority: int


@dataclass(frozen=True)
class Table:
    """A match-action table.

    Attributes:
        match_kind: exact, lpm, ternary or range.
        next_nodes: by action name, or by __HIT__ and __MISS__.
    """

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
    """A condition in a pipeline; None as next node = the end."""

    name: str
    expression: Expr
    true_next: str | None
    false_next: str | None
    source: SourceInfo | None = None


@dataclass(frozen=True)
class ActionCallNode:
    """An action called without a table."""

    name: str
    action: int
    next_node: str | None


Node = Table | Conditional | ActionCallNode


@dataclass(frozen=True)
class ActionProfile:
    """An action profile or selector.

    Attributes:
        selector: hash algorithm and its input; None for a plain profile.
    """

    name: str
    max_size: int
    selector: tuple[str, tuple[FieldRef, ...]] | None


@dataclass(frozen=True)
class PipelineGraph:
    """A graph of tables and conditions; first None = it does nothing."""

    name: str
    first: str | None
    nodes: dict[str, Node]


@dataclass(frozen=True)
class FieldList:
    """What a clone keeps or a digest tells.

    Attributes:
        elements: fields or constants.
        name: of a digest.
    """

    ident: int
    name: str
    elements: tuple[Expr, ...]


@dataclass
class Program:
    """A program, by full names.

    Attributes:
        source: the JSON as loaded, for a device that has to give it back.
        translations: kept by the compiler.
    """

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
        """Type of a field, of a header's validity as well."""
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
