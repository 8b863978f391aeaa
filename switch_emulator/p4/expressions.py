"""Expressions of a program and the arguments of its primitives, as read from the JSON ("type value objects")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.places import MOST_BITS, number


@dataclass(frozen=True)
class Const:
    """A number."""

    value: int


@dataclass(frozen=True)
class BoolConst:
    """True or false."""

    value: bool


@dataclass(frozen=True)
class FieldRef:
    """A field of a header instance."""

    header: str
    field: str


@dataclass(frozen=True)
class LastField:
    """A field of the last valid element of a stack."""

    stack: str
    field: str


@dataclass(frozen=True)
class UnionLastField:
    """A field of one member of the last union of a stack of unions."""

    stack: str
    member: str
    field: str


@dataclass(frozen=True)
class Param:
    """A parameter of the action, by position."""

    index: int


@dataclass(frozen=True)
class RegisterRef:
    """A cell of a register array."""

    array: str
    index: Expr


@dataclass(frozen=True)
class HeaderRef:
    """A header instance."""

    name: str


@dataclass(frozen=True)
class StackRef:
    """A header stack."""

    name: str


@dataclass(frozen=True)
class UnionRef:
    """A header union."""

    name: str


@dataclass(frozen=True)
class UnionStackRef:
    """A stack of header unions."""

    name: str


@dataclass(frozen=True)
class Lookahead:
    """Bits of the packet that are not extracted yet: offset from the cursor, width."""

    offset: int
    width: int


@dataclass(frozen=True)
class Element:
    """An element of a stack (a header) or of a stack of unions (a union), by an index known only at run time."""

    stack: StackRef | UnionStackRef
    index: Expr


@dataclass(frozen=True)
class MemberField:
    """The field at a position of a header that is known only at run time."""

    header: Expr
    index: int


@dataclass(frozen=True)
class MemberHeader:
    """The header at a position of a union that is known only at run time."""

    union: Expr
    index: int


@dataclass(frozen=True)
class Op:
    """An operator of BMv2 with its operands."""

    op: str
    args: tuple[Expr, ...]


@dataclass(frozen=True)
class ObjectRef:
    """A stateful object or calculation that a primitive takes; kind as in the JSON ("register_array", ...)."""

    kind: str
    name: str


@dataclass(frozen=True)
class Text:
    """A string, as log_msg has it."""

    value: str


@dataclass(frozen=True)
class Vector:
    """Several arguments as one: log_msg's values."""

    items: tuple[Expr, ...]


Expr = (
    Const
    | BoolConst
    | FieldRef
    | LastField
    | UnionLastField
    | Param
    | RegisterRef
    | HeaderRef
    | StackRef
    | UnionRef
    | UnionStackRef
    | Lookahead
    | Element
    | MemberField
    | MemberHeader
    | Op
    | ObjectRef
    | Text
    | Vector
)

UNARY = frozenset({"~", "not", "valid", "valid_union", "d2b", "b2d", "last_stack_index", "size_stack"})
BINARY = frozenset("+ - * / % << >> & | ^ == != < <= > >= and or two_comp_mod usat_cast sat_cast".split())  # noqa: SIM905
OBJECTS = frozenset({"calculation", "meter_array", "counter_array", "register_array"})


def read_hex(text: str) -> int:
    """A `hexstr`: hexadecimal with an optional sign and an optional 0x."""
    return int(text, 16)


def read_expression(json: Mapping[str, Any] | None) -> Expr | None:
    """None for a JSON null (the missing side of a unary operation)."""
    if json is None:
        return None
    kind: Any = json["type"]
    value: Any = json.get("value")
    match kind:
        case "expression":
            # An expression used as a primitive's argument is wrapped twice.
            return read_expression(value) if "type" in value else _read_operation(value)
        case "hexstr":
            return Const(read_hex(value))
        case "bool":
            return BoolConst(bool(value))
        case "field":
            return FieldRef(*_texts(value, 2))
        case "stack_field":
            return LastField(*_texts(value, 2))
        case "union_stack_field":
            return UnionLastField(*_texts(value, 3))
        case "local" | "runtime_data":
            return Param(_position(value))
        case "register":
            return RegisterRef(_text(value[0]), _need(value[1]))
        case "header":
            return HeaderRef(_text(value))
        case "header_stack":
            return StackRef(_text(value))
        case "header_union":
            return UnionRef(_text(value))
        case "header_union_stack":
            return UnionStackRef(_text(value))
        case "lookahead":
            return Lookahead(
                number(value[0], "offset of a lookahead", 0, MOST_BITS),
                number(value[1], "width of a lookahead", 1, MOST_BITS),
            )
        case "string":
            return Text(_text(value))
        case "parameters_vector":
            return Vector(tuple(_need(item) for item in value))
    if isinstance(kind, str) and kind in OBJECTS:
        return ObjectRef(kind, _text(value))
    raise UnsupportedProgramError(f"this target knows no expression or argument of type {kind!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} for a name")
    return value


def _texts(value: Any, count: int) -> list[str]:
    if not isinstance(value, list | tuple) or len(value) != count:
        raise TypeError(f"not {count} names")
    return [_text(item) for item in value]


def _position(value: Any) -> int:
    return number(value, "position", 0, MOST_BITS)


def need_expression(json: Mapping[str, Any]) -> Expr:
    """The expression that an item of the JSON means.

    Raises:
        UnsupportedProgramError: there is none, or it is of an unknown kind.
    """
    return _need(json)


def _need(json: Mapping[str, Any] | None) -> Expr:
    expression = read_expression(json)
    if expression is None:
        raise UnsupportedProgramError("an expression lacks an operand")
    return expression


def _read_operation(json: Mapping[str, Any]) -> Expr:
    op = json["op"]
    left, right = json.get("left"), json.get("right")
    match op:
        case "?":
            return Op("?", (_need(json["cond"]), _need(left), _need(right)))
        case "access_field":
            return MemberField(_need(left), _position(right))
        case "access_union_header":
            return MemberHeader(_need(left), _position(right))
        case "dereference_stack" | "dereference_header_stack" | "dereference_union_stack":
            stack = _need(left)
            if not isinstance(stack, StackRef | UnionStackRef):
                raise UnsupportedProgramError(f"{op} of something that is no stack")
            return Element(stack, _need(right))
        case "+" | "-" if left is None:
            return Op(op, (Const(0), _need(right)))
    if not isinstance(op, str):
        raise TypeError(f"a {type(op).__name__} for an operation")
    if op in UNARY:
        return Op(op, (_need(right if right is not None else left),))
    if op in BINARY:
        return Op(op, (_need(left), _need(right)))
    raise UnsupportedProgramError(f"this target knows no operation {op!r}")


def full_name(field: Expr) -> str:
    """Of something that holds a value, for people."""
    match field:
        case FieldRef(header, name):
            return f"{header}.{name}"
        case LastField(stack, name):
            return f"{stack}.last.{name}"
        case UnionLastField(stack, member, name):
            return f"{stack}.last.{member}.{name}"
        case RegisterRef(array, _):
            return f"register {array}"
        case MemberField(Element(stack, _), index):
            return f"{stack.name}[...] field {index}"
    return ""


def walk(expression: Expr) -> Iterator[Expr]:
    """The expression and everything inside it."""
    yield expression
    match expression:
        case Op(_, args) | Vector(args):
            for arg in args:
                yield from walk(arg)
        case RegisterRef(_, index):
            yield from walk(index)
        case Element(stack, index):
            yield stack
            yield from walk(index)
        case MemberField(inner, _) | MemberHeader(inner, _):
            yield from walk(inner)
