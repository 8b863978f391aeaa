"""Primitives on whole headers, unions and stacks, as Python source."""

from __future__ import annotations

from collections.abc import Callable

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.expression_code import ExpressionWriter, Place
from switchml.switch_emulator.p4.expressions import Expr, StackRef, UnionStackRef
from switchml.switch_emulator.p4.header_code import length_source, types_variable
from switchml.switch_emulator.p4.unit import Unit

WritePrimitive = Callable[[tuple[Expr, ...], ActionScope], None]


class HeaderPrimitives:
    """Primitives on headers, stacks and unions.

    Attributes:
        writers: by the primitive's name.
    """

    def __init__(self, unit: Unit, expressions: ExpressionWriter) -> None:
        self.unit = unit
        self.out = unit.out
        self.expressions = expressions
        self.writers: dict[str, WritePrimitive] = {
            "assign_header": self._assign_header,
            "copy_header": self._assign_header,
            "assign_union": self._assign_union,
            "assign_header_stack": self._assign_stack,
            "assign_union_stack": self._assign_stack,
            "add_header": self._add_header,
            "add_header_fast": self._add_header_fast,
            "remove_header": self._remove_header,
            "push": self._push,
            "pop": self._pop,
        }

    def _valid(self, place: Place) -> str:
        return f"f[{self.expressions.slot(place, place.types.valid)}]"

    def _assign_header(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        target, source = (self.expressions.header(arg, scope) for arg in args)
        size = target.types.slots
        with self.out.block(f"if {self._valid(source)}:"):
            self.out.line(
                f"f[{target.base}:{target.base} + {size}] = f[{source.base}:{source.base} + {size}]"
            )
            for sibling in target.siblings:
                self.out.line(f"f[{sibling}] = 0")
        with self.out.block("else:"):
            self.out.line(f"{self._valid(target)} = 0")

    def _assign_union(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        target, source = (self.expressions.member(arg, 0, scope).base for arg in args)
        sizes = {self._union_slots(arg, scope) for arg in args}
        if len(sizes) != 1:
            raise UnsupportedProgramError("assign_union of unions of different types")
        size = sizes.pop()
        self.out.line(f"f[{target}:{target} + {size}] = f[{source}:{source} + {size}]")

    def _union_slots(self, union: Expr, scope: ActionScope) -> int:
        count = len(self.expressions.union_members(union))
        return sum(self.expressions.member(union, i, scope).types.slots for i in range(count))

    def _union_extent(self, union: str) -> tuple[str, int]:
        layout, program = self.unit.layout, self.unit.program
        members = [header for _, header in program.unions[union].members]
        size = sum(layout.of(program, header).slots for header in members)
        return layout.symbols[layout.union_base[union]], size

    def _stack_extent(self, stack: Expr) -> tuple[str, int, int, str]:
        """First slot, slots an element, elements, slot of the number in use."""
        layout, program = self.unit.layout, self.unit.program
        match stack:
            case StackRef(name):
                info = program.stacks[name]
                first = layout.symbols[layout.base[info.headers[0]]]
                stride, size = layout.types[info.type.name].slots, len(info.headers)
            case UnionStackRef(name):
                unions = program.union_stacks[name].unions
                first, stride = self._union_extent(unions[0])
                size = len(unions)
            case _:
                raise UnsupportedProgramError(f"{type(stack).__name__} where a stack must stand")
        return first, stride, size, layout.symbols[layout.next_slot[name]]

    def _assign_stack(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        (target, stride, size, following), (source, _, _, source_following) = map(self._stack_extent, args)
        extent = stride * size
        self.out.line(f"f[{target}:{target} + {extent}] = f[{source}:{source} + {extent}]")
        self.out.line(f"f[{following}] = f[{source_following}]")

    def _add_header(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        place = self.expressions.header(args[0], scope)
        with self.out.block(f"if not {self._valid(place)}:"):
            self._reset(place)
            self.out.line(f"{self._valid(place)} = 1")
            for sibling in place.siblings:
                self.out.line(f"f[{sibling}] = 0")
            self.out.line(f"p.length += {length_source(self.unit, place)}")

    def _reset(self, place: Place) -> None:
        """Zero in every field."""
        layout, types = self.unit.layout, place.types
        if types.valid == 0:
            return
        end = self.expressions.slot(place, types.valid)
        if place.slot is not None and not types.runs and not types_variable(types):
            self.out.line(f"f[{place.base}:{end}] = {(0,) * types.valid}")
            return
        sample = next(h for h in self.unit.program.headers.values() if h.type is types.type)
        base = layout.symbols[layout.base[sample.name]]
        self.out.line(f"f[{place.base}:{end}] = fresh[{base}:{base} + {types.valid}]")

    def _add_header_fast(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        place = self.expressions.header(args[0], scope)
        self.out.line(f"{self._valid(place)} = 1")
        for sibling in place.siblings:
            self.out.line(f"f[{sibling}] = 0")

    def _remove_header(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        place = self.expressions.header(args[0], scope)
        with self.out.block(f"if {self._valid(place)}:"):
            self.out.line(f"p.length -= {length_source(self.unit, place)}")
            self.out.line(f"{self._valid(place)} = 0")

    def _push(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self._shift("push_front", args, scope)

    def _pop(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self._shift("pop_front", args, scope)

    def _shift(self, function: str, args: tuple[Expr, ...], scope: ActionScope) -> None:
        first, stride, size, following = self._stack_extent(args[0])
        count = self.expressions.data(args[1], scope).text
        self.out.line(f"{function}(f, fresh, {first}, {stride}, {size}, {following}, {count})")
