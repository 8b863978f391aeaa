"""Expressions as Python source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    BoolConst,
    Const,
    Element,
    Expr,
    FieldRef,
    HeaderRef,
    LastField,
    Lookahead,
    MemberField,
    MemberHeader,
    Op,
    Param,
    RegisterRef,
    StackRef,
    UnionLastField,
    UnionRef,
    UnionStackRef,
)
from switchml.switch_emulator.p4.layout import Cell, TypeLayout
from switchml.switch_emulator.p4.program_model import VALID, ActionParam
from switchml.switch_emulator.p4.unit import Unit
from switchml.switch_emulator.p4.value_code import LONGEST_SHIFT, Code, arithmetic, field_bounds, least, most

# No stack is as long.
LONGEST_INDEX = 0xFFFFFFFF


@dataclass(frozen=True)
class Place:
    """A header in a packet's slots.

    Attributes:
        slot: where it begins, None if only known at run time.
        base: the same as source.
        siblings: validity of the other headers of its union, as source.
    """

    types: TypeLayout
    base: str
    slot: int | None
    siblings: tuple[str, ...] = ()


class Scope(Protocol):
    """What depends on the function an expression stands in."""

    params: tuple[ActionParam, ...]

    def param_name(self, index: int) -> str:
        """Name of an action's parameter in the generated source."""

    def run_item(self, slot: str, width: int, position: int) -> str:
        """Source of one element of a run."""

    def lookahead(self, offset: int, width: int) -> str:
        """Source of bits not parsed yet."""


class PlainScope(Scope):
    """Outside of actions and parser states: no parameters, nothing to look ahead to."""

    params: tuple[ActionParam, ...] = ()

    @override
    def param_name(self, index: int) -> str:
        raise UnsupportedProgramError("an action's parameter outside of an action")

    @override
    def run_item(self, slot: str, width: int, position: int) -> str:
        return f"words{width}.item(f[{slot}], {position})"

    @override
    def lookahead(self, offset: int, width: int) -> str:
        raise UnsupportedProgramError("lookahead outside of the parser")


class ExpressionWriter:
    """Writes expressions as Python source, with the bounds of their values."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit

    # Headers

    def header(self, expression: Expr, scope: Scope) -> Place:
        """Where the header that the expression names is."""
        unit = self.unit
        match expression:
            case HeaderRef(name):
                return self.named(name)
            case Element(StackRef(stack), index):
                info = unit.program.stacks[stack]
                types = unit.layout.types[info.type.name]
                return self._element(
                    types, unit.layout.base[info.headers[0]], self._index(index, len(info.headers), scope)
                )
            case MemberHeader(union, position):
                return self.member(union, position, scope)
        raise UnsupportedProgramError(f"{type(expression).__name__} where a header must stand")

    def named(self, name: str) -> Place:
        """Where the header instance is."""
        layout, program = self.unit.layout, self.unit.program
        base = layout.base[name]
        siblings = tuple(
            layout.symbols[layout.slot(program, other, VALID)] for other in layout.siblings.get(name, ())
        )
        return Place(layout.of(program, name), layout.symbols[base], base, siblings)

    def last_element(self, stack: str) -> Place:
        """The last element in use of a stack; in the source, StackOutOfBoundsError if there is none."""
        info = self.unit.program.stacks[stack]
        layout = self.unit.layout
        following = layout.symbols[layout.next_slot[stack]]
        types = layout.types[info.type.name]
        return self._element(types, layout.base[info.headers[0]], f"last_index(f[{following}])")

    def next_element(self, stack: str, index: str) -> Place:
        """The element at `index`, given as source, of a stack."""
        info = self.unit.program.stacks[stack]
        layout = self.unit.layout
        return self._element(layout.types[info.type.name], layout.base[info.headers[0]], index)

    def union_element(self, stack: str, member: str, index: str) -> Place:
        """The named member of the union at `index` of a stack of unions."""
        program = self.unit.program
        union = program.unions[program.union_stacks[stack].unions[0]]
        position = [name for name, _ in union.members].index(member)
        return self._union_member(stack, position, index)

    def _union_member(self, stack: str, position: int, index: str) -> Place:
        program, layout = self.unit.program, self.unit.layout
        unions = program.union_stacks[stack].unions
        members = [header for _, header in program.unions[unions[0]].members]
        stride = sum(layout.of(program, header).slots for header in members)
        base = f"({layout.symbols[layout.base[members[position]]]} + {stride} * {index})"
        siblings = tuple(
            f"{layout.symbols[layout.slot(program, header, VALID)]} + {stride} * {index}"
            for i, header in enumerate(members)
            if i != position
        )
        return Place(layout.of(program, members[position]), base, None, siblings)

    def member(self, union: Expr, position: int, scope: Scope) -> Place:
        """A union's header by position; the first begins where the union does."""
        program = self.unit.program
        match union:
            case UnionRef(name):
                return self.named(program.unions[name].members[position][1])
            case Element(UnionStackRef(stack), index):
                size = len(program.union_stacks[stack].unions)
                return self._union_member(stack, position, self._index(index, size, scope))
        raise UnsupportedProgramError(f"{type(union).__name__} where a header union must stand")

    def _element(self, types: TypeLayout, first: int, index: str) -> Place:
        return Place(types, f"({self.unit.layout.symbols[first]} + {types.slots} * {index})", None)

    def _index(self, index: Expr, size: int, scope: Scope) -> str:
        """An index past the end, or a negative one, means the spare element."""
        if isinstance(index, Const):
            return str(index.value if 0 <= index.value < size else size)
        code = self.data(index, scope)
        if code.fits(size.bit_length() - 1):
            return code.text
        text = code.text if code.low is not None and code.low >= 0 else f"{code.text} & {LONGEST_INDEX}"
        return f"min({text}, {size})"

    def slot(self, place: Place, offset: int) -> str:
        """Source of the number of a slot."""
        if place.slot is not None:
            return self.unit.layout.symbols[place.slot + offset]
        return f"{place.base} + {offset}" if offset else place.base

    def field(self, place: Place, cell: Cell, scope: Scope) -> Code:
        """A field's value, as it stands in the slots."""
        slot = self.slot(place, cell.offset)
        low, high = field_bounds(cell.type)
        if cell.position >= 0:
            return Code(scope.run_item(slot, cell.type.width, cell.position), low, high)
        return Code(f"f[{slot}]", low, high)

    def place_of(self, expression: Expr, scope: Scope) -> tuple[Place, Cell] | None:
        """Where an expression that names a field has it."""
        match expression:
            case FieldRef(header, name):
                place = self.named(header)
                return place, place.types.cells[name]
            case LastField(stack, name):
                place = self.last_element(stack)
                return place, place.types.cells[name]
            case UnionLastField(stack, member, name):
                layout = self.unit.layout
                following = layout.symbols[layout.next_slot[stack]]
                place = self.union_element(stack, member, f"last_index(f[{following}])")
                return place, place.types.cells[name]
            case MemberField(header, position):
                place = self.header(header, scope)
                names = [f.name for f in place.types.type.fields] + [VALID]
                return place, place.types.cells[names[position]]
        return None

    # Values

    def truth(self, expression: Expr, scope: Scope) -> str:
        """Source that is true where the expression is."""
        if isinstance(expression, Op) and expression.op == "b2d":
            return self.truth(expression.args[0], scope)
        code = self.value(expression, scope)
        return code.text if code.truth else f"({code.text} != 0)"

    def data(self, expression: Expr, scope: Scope) -> Code:
        """The expression as a number; a condition is 0 or 1."""
        code = self.value(expression, scope)
        return Code(f"int({code.text})", 0, 1) if code.truth else code

    def value(self, expression: Expr, scope: Scope) -> Code:
        """The expression as it is, number or condition."""
        found = self.place_of(expression, scope)
        if found is not None:
            return self.field(*found, scope)
        match expression:
            case Const(value):
                text = str(value) if -10 < value < 256 else hex(value)
                return Code(text if value >= 0 else f"({text})", value, value)
            case BoolConst(value):
                return Code(str(value), 0, 1, True)
            case Param(index):
                width = scope.params[index].width
                return Code(scope.param_name(index), 0, (1 << width) - 1)
            case RegisterRef(array, index):
                return self._register(array, index, scope)
            case Lookahead(offset, width):
                return Code(scope.lookahead(offset, width), 0, (1 << width) - 1)
            case Op(op, args):
                return self._operation(op, args, scope)
        raise UnsupportedProgramError(f"{type(expression).__name__} where a value must stand")

    def _register(self, array: str, index: Expr, scope: Scope) -> Code:
        register = self.unit.program.registers[array]
        code = self.data(index, scope)
        position = f"min({code.text}, {register.size - 1})"
        return Code(self.register_item(array, position), 0, (1 << register.width) - 1)

    def register_item(self, array: str, index: str) -> str:
        """Source of a cell of a register array; `index` is source, within bounds."""
        column = self.unit.columns.get(array)
        if column is not None:
            return f"int({column.bank}[{index}, {column.column}])"
        return f"{self.unit.object('register', array)}[{index}]"

    def _operation(self, op: str, args: tuple[Expr, ...], scope: Scope) -> Code:
        match op:
            case "?":
                condition = self.truth(args[0], scope)
                one, other = self.value(args[1], scope), self.value(args[2], scope)
                text = f"({one.text} if {condition} else {other.text})"
                return Code(text, least(one.low, other.low), most(one.high, other.high), one.truth)
            case "and" | "or":
                left, right = (self.truth(arg, scope) for arg in args)
                return Code(f"({left} {op} {right})", 0, 1, True)
            case "not":
                return Code(f"(not {self.truth(args[0], scope)})", 0, 1, True)
            case "d2b":
                return Code(f"({self.data(args[0], scope).text} != 0)", 0, 1, True)
            case "b2d":
                return Code(f"int({self.truth(args[0], scope)})", 0, 1)
            case "valid":
                place = self.header(args[0], scope)
                return Code(f"(f[{self.slot(place, place.types.valid)}] != 0)", 0, 1, True)
            case "valid_union":
                return Code(self._valid_union(args[0], scope), 0, 1, True)
            case "size_stack" | "last_stack_index":
                following = f"f[{self._next_of(args[0])}]"
                return Code(following if op == "size_stack" else f"({following} - 1)", -1, LONGEST_SHIFT)
            case "==" | "!=":
                return self._equality(op, args, scope)
            case "<" | "<=" | ">" | ">=":
                a, b = (self.data(arg, scope) for arg in args)
                return Code(f"({a.text} {op} {b.text})", 0, 1, True)
            case "two_comp_mod" | "usat_cast" | "sat_cast":
                return self._cast(op, args, scope)
        return arithmetic(op, *(self.data(arg, scope) for arg in args))

    def _next_of(self, stack: Expr) -> str:
        if isinstance(stack, StackRef | UnionStackRef):
            return self.unit.layout.symbols[self.unit.layout.next_slot[stack.name]]
        raise UnsupportedProgramError(f"{type(stack).__name__} where a header stack must stand")

    def _valid_union(self, union: Expr, scope: Scope) -> str:
        count = len(self.union_members(union))
        places = [self.member(union, position, scope) for position in range(count)]
        valid = (f"f[{self.slot(place, place.types.valid)}] != 0" for place in places)
        return "(" + " or ".join(valid) + ")"

    def union_members(self, union: Expr) -> tuple[tuple[str, str], ...]:
        """Members of a header union: (name within the union, name of the header)."""
        program = self.unit.program
        match union:
            case UnionRef(name):
                return program.unions[name].members
            case Element(UnionStackRef(stack), _):
                return program.unions[program.union_stacks[stack].unions[0]].members
        raise UnsupportedProgramError(f"{type(union).__name__} where a header union must stand")

    def _equality(self, op: str, args: tuple[Expr, ...], scope: Scope) -> Code:
        left, right = args
        if isinstance(left, HeaderRef | MemberHeader) or (
            isinstance(left, Element) and isinstance(left.stack, StackRef)
        ):
            text = self._same_header(self.header(left, scope), self.header(right, scope))
        elif isinstance(left, UnionRef | Element):
            pairs = [
                self._same_header(self.member(left, i, scope), self.member(right, i, scope))
                for i in range(len(self.union_members(left)))
            ]
            text = "(" + " or ".join(pairs) + ")"
        else:
            a, b = self.value(left, scope), self.value(right, scope)
            return Code(f"({a.text} {op} {b.text})", 0, 1, True)
        return Code(text if op == "==" else f"(not {text})", 0, 1, True)

    def _same_header(self, left: Place, right: Place) -> str:
        """Both valid and equal in every field."""
        if left.types is not right.types:
            return "False"
        runs = tuple((run.offset, run.width) for run in left.types.runs)
        return f"same_header(f, {left.base}, {right.base}, {left.types.valid}, {runs})"

    def _cast(self, op: str, args: tuple[Expr, ...], scope: Scope) -> Code:
        value = self.data(args[0], scope)
        if not isinstance(args[1], Const):
            raise UnsupportedProgramError(f"{op} to a width that is not constant")
        width = args[1].value
        half = 1 << (width - 1)
        if op == "usat_cast":
            high = (1 << width) - 1
            return Code(f"min(max({value.text}, 0), {hex(high)})", 0, high)
        if value.low is not None and value.high is not None and -half <= value.low and value.high < half:
            return value
        if op == "sat_cast":
            return Code(f"min(max({value.text}, {-half}), {half - 1})", -half, half - 1)
        return Code(f"((({value.text} + {hex(half)}) & {hex(2 * half - 1)}) - {hex(half)})", -half, half - 1)
