"""Bodies of actions as Python source: one or a few lines a primitive."""

from __future__ import annotations

from collections.abc import Callable

from switchml.errors import MalformedProgramError, UnsupportedProgramError
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.expression_code import ExpressionWriter
from switchml.switch_emulator.p4.expressions import (
    Const,
    Expr,
    ObjectRef,
    Op,
    RegisterRef,
    Text,
    Vector,
    full_name,
)
from switchml.switch_emulator.p4.header_primitives import HeaderPrimitives, WritePrimitive
from switchml.switch_emulator.p4.jump_code import Body, write_body
from switchml.switch_emulator.p4.program_model import Primitive
from switchml.switch_emulator.p4.repetition import Repeated
from switchml.switch_emulator.p4.repetition_code import RepetitionWriter
from switchml.switch_emulator.p4.unit import Unit, comment
from switchml.switch_emulator.p4.value_code import Code, is_ones, stored

# Works on single fields: a run that is open as a list can stay open.
_ELEMENTWISE = frozenset(
    {
        "assign", "modify_field", "add_to_field", "subtract_from_field", "add", "subtract", "bit_xor", "bit_or", "bit_and",
        "shift_left", "shift_right", "register_read", "register_write", "count", "execute_meter", "mark_to_drop", "drop",
        "modify_field_rng_uniform", "no_op", "log_msg", "exit", "truncate",
    }
)  # fmt: skip
# Those that store one value, and which argument says where.
_STORES = {
    "assign": 0, "modify_field": 0, "add_to_field": 0, "subtract_from_field": 0, "register_read": 0, "execute_meter": 2,
    "modify_field_with_hash_based_offset": 0, "modify_field_rng_uniform": 0,
}  # fmt: skip
_BINARY = {
    "add": "+",
    "subtract": "-",
    "bit_xor": "^",
    "bit_or": "|",
    "bit_and": "&",
    "shift_left": "<<",
    "shift_right": ">>",
}


class PrimitiveWriter:
    """Writes the primitives of actions and parser states."""

    def __init__(self, unit: Unit, expressions: ExpressionWriter) -> None:
        self.unit = unit
        self.out = unit.out
        self.expressions = expressions
        self.repetitions = RepetitionWriter(unit, expressions)
        self._writers: dict[str, WritePrimitive] = {
            "assign": self._assign,
            "modify_field": self._assign,
            "assign_VL": self._assign_variable,
            **HeaderPrimitives(unit, expressions).writers,
            "add_to_field": self._add_to_field,
            "subtract_from_field": self._subtract_from_field,
            "register_read": self._register_read,
            "register_write": self._register_write,
            "count": self._count,
            "execute_meter": self._execute_meter,
            "modify_field_with_hash_based_offset": self._hash,
            "modify_field_rng_uniform": self._random,
            "generate_digest": self._digest,
            "clone_ingress_pkt_to_egress": self._clone,
            "clone_egress_pkt_to_egress": self._clone,
            "resubmit": self._resubmit,
            "recirculate": self._recirculate,
            "mark_to_drop": self._mark_to_drop,
            "drop": self._drop,
            "truncate": self._truncate,
            "exit": self._exit,
            "no_op": self._no_op,
            "assert": self._assert,
            "assume": self._assert,
            "log_msg": self._log,
        }

    def body(self, body: Body, scope: ActionScope) -> None:
        """An action's body."""
        write_body(body, scope, self.unit.out, self.expressions, self.statement)

    def statement(self, item: Primitive | Repeated, scope: ActionScope) -> None:
        """One primitive, or a repetition of one."""
        if isinstance(item, Repeated):
            scope.close()
            self.repetitions.write(item, scope)
            return
        if item.source is not None:
            self.out.line(comment=comment(item.source))
        if item.op not in _ELEMENTWISE:
            scope.close()
        if item.op in _BINARY:
            target, left, right = item.args
            self._assign((target, Op(_BINARY[item.op], (left, right))), scope)
        elif item.op in self._writers:
            self._writers[item.op](item.args, scope)
        else:
            raise UnsupportedProgramError(f"primitive {item.op!r}")
        if self.unit.tracing and item.op != "log_msg":
            self._trace(item, scope)

    def _trace(self, item: Primitive, scope: ActionScope) -> None:
        """What was stored, or what the program says."""
        line = f"{item.source.place}: " if item.source is not None else ""
        name, value = "", ""
        if item.op in _STORES or item.op in _BINARY:
            target = item.args[_STORES.get(item.op, 0)]
            name, value = full_name(target), self.expressions.data(target, scope).text
        if not name:
            self.out.line(f"trace({'      ' + (comment(item.source) or item.op)!r})")
            return
        origin = next((f" (register {arg.name})" for arg in item.args if isinstance(arg, ObjectRef)), "")
        shown = f"{f'      {line}{name} = '!r} + hex({value})"
        self.out.line(f"trace({shown} + {origin!r})" if item.op == "register_read" else f"trace({shown})")

    # Fields

    def store(self, target: Expr, scope: ActionScope) -> Callable[[Code], str]:
        """How to put a value into `target`: a function that makes the statement."""
        if isinstance(target, RegisterRef):
            return self._register_store(target.array, self.expressions.data(target.index, scope).text)
        found = self.expressions.place_of(target, scope)
        if found is None:
            raise UnsupportedProgramError(f"{type(target).__name__} as the target of an assignment")
        place, cell = found
        slot = self.expressions.slot(place, cell.offset)
        if cell.position >= 0:
            width, position = cell.type.width, cell.position
            # Opens the run now: the statement may come to stand under a condition.
            scope.set_run_item(slot, width, position, "0")
            return lambda code: scope.set_run_item(slot, width, position, stored(code, cell.type))
        if cell.bits >= 0:
            bits = f"f[{self.expressions.slot(place, cell.bits)}]"
            return lambda code: f"f[{slot}] = {stored(code, cell.type, variable_width=bits)}"
        return lambda code: f"f[{slot}] = {stored(code, cell.type)}"

    def _assign(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        target, value = args
        code = self.expressions.data(value, scope)
        self.out.line(self.store(target, scope)(code))

    def _assign_variable(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        (target, target_bits), (source, source_bits) = (self._variable(arg, scope) for arg in args)
        self.out.line(f"f[{target}], f[{target_bits}] = f[{source}], f[{source_bits}]")

    def _variable(self, field: Expr, scope: ActionScope) -> tuple[str, str]:
        found = self.expressions.place_of(field, scope)
        if found is None or found[1].bits < 0:
            raise UnsupportedProgramError("assign_VL of something that is no variable-length field")
        place, cell = found
        return self.expressions.slot(place, cell.offset), self.expressions.slot(place, cell.bits)

    def _add_to_field(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self._assign((args[0], Op("+", args)), scope)

    def _subtract_from_field(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self._assign((args[0], Op("-", args)), scope)

    # Stateful objects

    def _bounded(self, index: Code, size: int) -> tuple[str, str]:
        """Source of the index and of the condition that it is in range, "" if it always is."""
        text = index.text
        if index.high is not None and index.high < size:
            return text, ""
        if not text.isidentifier() and not (text.startswith("f[") and text.count("[") == 1):
            self.out.line(f"i = {text}")
            text = "i"
        return text, f"if {text} < {size}:"

    def _guarded(self, condition: str, line: str) -> None:
        if not condition:
            self.out.line(line)
            return
        with self.out.block(condition):
            self.out.line(line)

    def _register_store(self, array: str, index: str) -> Callable[[Code], str]:
        register = self.unit.program.registers[array]
        column = self.unit.columns.get(array)
        item = (
            f"{column.bank}[{index}, {column.column}]"
            if column is not None
            else f"{self.unit.object('register', array)}[{index}]"
        )
        mask = hex((1 << register.width) - 1)
        return lambda code: f"{item} = {code.text if code.fits(register.width) else f'{code.text} & {mask}'}"

    def _register_read(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        target, array, index = args
        name = _object(array, "register_array")
        register = self.unit.program.registers[name]
        position, condition = self._bounded(self.expressions.data(index, scope), register.size)
        store = self.store(target, scope)
        value = Code(self.expressions.register_item(name, position), 0, (1 << register.width) - 1)
        self._guarded(condition, store(value))

    def _register_write(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        array, index, value = args
        name = _object(array, "register_array")
        code = self.expressions.data(value, scope)
        position, condition = self._bounded(
            self.expressions.data(index, scope), self.unit.program.registers[name].size
        )
        self._guarded(condition, self._register_store(name, position)(code))

    def _count(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        array, index = args
        name = _object(array, "counter_array")
        packets = self.unit.object("counter packets", f"{name} packets")
        octets = self.unit.object("counter bytes", f"{name} bytes")
        counter = self.unit.program.counters[name]
        _need_array(name, counter.table)
        position, condition = self._bounded(self.expressions.data(index, scope), counter.size)
        self._guarded(condition, f"{packets}[{position}] += 1; {octets}[{position}] += p.ingress_length")

    def _execute_meter(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        array, index, target = args
        name = _object(array, "meter_array")
        meter = self.unit.program.meters[name]
        _need_array(name, meter.table)
        position, condition = self._bounded(self.expressions.data(index, scope), meter.size)
        call = f"{self.unit.object('meter', name)}.execute({position}, p.ingress_length)"
        self._guarded(condition, self.store(target, scope)(Code(call, 0, 2)))

    def _hash(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        target, base, calculation, size = args
        start, extent = self.expressions.data(base, scope), self.expressions.data(size, scope)
        known = self.unit.program.calculations[_object(calculation, "calculation")]
        name = self.unit.object("calculation", known.name)
        modulus = extent.text if extent.low is not None and extent.low > 0 else f"max({extent.text}, 1)"
        high = None if extent.high is None or start.high is None else start.high + max(extent.high - 1, 0)
        code = Code(f"({name}(p, f) % {modulus} + {start.text})", start.low, high)
        self.out.line(self.store(target, scope)(code))

    def _random(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        target, low, high = args
        lowest, highest = self.expressions.data(low, scope), self.expressions.data(high, scope)
        store = self.store(target, scope)
        if isinstance(low, Const) and isinstance(high, Const) and low.value == 0 and is_ones(high.value):
            self.out.line(store(Code(f"getrandbits({high.value.bit_length()})", 0, high.value)))
            return
        with self.out.block(f"if {lowest.text} <= {highest.text}:"):
            self.out.line(store(Code(f"randint({lowest.text}, {highest.text})", lowest.low, highest.high)))

    # What happens to the packet

    def _digest(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self.out.line(f"p.digest = {self.expressions.data(args[1], scope).text}")

    def _clone(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        session, fields = (self.expressions.data(arg, scope).text for arg in args)
        self.out.line(f"p.clone = ({session} & 0x7FFF) + 1")
        self.out.line(f"p.clone_list = {fields}")

    def _resubmit(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self.out.line(f"p.resubmit = {self.expressions.data(args[0], scope).text}")

    def _recirculate(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self.out.line(f"p.recirculate = {self.expressions.data(args[0], scope).text}")

    def _drop(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        layout, program = self.unit.layout, self.unit.program
        for name, value in (
            ("standard_metadata.egress_spec", self.unit.drop_port),
            ("intrinsic_metadata.mcast_grp", 0),
        ):
            field = program.standard(name)
            if field is not None:
                slot = layout.symbols[layout.slot(program, field.header, field.field)]
                self.out.line(f"f[{slot}] = {value & ((1 << program.field_type(field).width) - 1)}")

    def _mark_to_drop(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        """The header is standard metadata or, for a parameter of that type, a copy of it."""
        place = self.expressions.header(args[0], scope)
        if "egress_spec" not in place.types.cells:
            raise UnsupportedProgramError("mark_to_drop of a header that has no egress_spec")
        for name, value in (("egress_spec", self.unit.drop_port), ("mcast_grp", 0)):
            cell = place.types.cells.get(name)
            if cell is not None:
                slot = self.expressions.slot(place, cell.offset)
                self.out.line(f"f[{slot}] = {value & ((1 << cell.type.width) - 1)}")

    def _truncate(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self.out.line(f"p.truncated = min(p.truncated, {self.expressions.data(args[0], scope).text})")

    def _exit(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self.out.line("p.exited = True")

    def _no_op(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        pass

    def _assert(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        self.out.line(
            f"check({self.expressions.truth(args[0], scope)}, {'a condition the program asserts'!r})"
        )

    def _log(self, args: tuple[Expr, ...], scope: ActionScope) -> None:
        text, values = args
        if not isinstance(text, Text) or not isinstance(values, Vector):
            raise UnsupportedProgramError("log_msg without a constant text")
        shown = ", ".join(self.expressions.data(value, scope).text for value in values.items)
        call = f"log_message({text.value!r}, [{shown}])"
        self.out.line(f"trace('      log: ' + {call})" if self.unit.tracing else call)


def _need_array(name: str, table: str) -> None:
    if table:
        raise MalformedProgramError(f"{name} belongs to table {table}")


def _object(expression: Expr, kind: str) -> str:
    if not isinstance(expression, ObjectRef) or expression.kind != kind:
        raise UnsupportedProgramError(f"{type(expression).__name__} where a {kind} must stand")
    return expression.name
