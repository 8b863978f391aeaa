"""Repetitions (repetition.py) as whole-array statements."""

from __future__ import annotations

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.expression_code import ExpressionWriter
from switchml.switch_emulator.p4.expressions import Const, Expr, FieldRef, Op, walk
from switchml.switch_emulator.p4.repetition import (
    Lane,
    RegisterLane,
    Repeated,
    RunLane,
    Step,
    TempLane,
    without_mask,
)
from switchml.switch_emulator.p4.unit import Unit, comment


class RepetitionWriter:
    """Writes repetitions as operations on whole arrays."""

    def __init__(self, unit: Unit, expressions: ExpressionWriter) -> None:
        self.unit = unit
        self.out = unit.out
        self.expressions = expressions
        self._loaded: dict[Lane, str] = {}

    def write(self, repeated: Repeated, scope: ActionScope) -> None:
        """The repetition, where the action has it."""
        self._loaded = {}
        changed: dict[RunLane, str] = {}
        for step in repeated.steps:
            note = f"{repeated.rounds} x {comment(step.primitive.source) or step.primitive.op}"
            self.out.line(comment=note)
            self._step(step, repeated, scope)
            if self.unit.tracing:
                shown = f" + show_array({self._loaded[step.target]})" if step.target is not None else ""
                self.out.line(f"trace({'      ' + note!r}{shown})")
            if isinstance(step.target, RunLane):
                changed[step.target] = self._loaded[step.target]
        for lane, name in changed.items():
            slot = self._run_slot(lane)
            if lane.whole:
                self.out.line(f"f[{slot}] = {name}")
            else:
                self.out.line(f"whole = words{repeated.width}.array(f[{slot}]).copy()")
                self.out.line(f"whole[{lane.start}:{lane.start + lane.count}] = {name}")
                self.out.line(f"f[{slot}] = whole")

    def _step(self, step: Step, repeated: Repeated, scope: ActionScope) -> None:
        if step.register is None:
            assert step.target is not None
            value = self._value(step.primitive.args[1], step, repeated, scope)
            self._set(step.target, self._as_array(value, step.primitive.args[1], step, repeated))
            return
        assert step.index is not None
        index = self.expressions.data(step.index, scope)
        position, in_range = index.text, index.high is not None and index.high < step.register_size
        if not in_range and not position.isidentifier():
            self.out.line(f"i = {position}")
            position = "i"
        cells = _cells(step.register, position)
        if step.target is None:
            value = self._value(step.primitive.args[2], step, repeated, scope)
            if in_range:
                self.out.line(f"{cells} = {value}")
            else:
                with self.out.block(f"if {position} < {step.register_size}:"):
                    self.out.line(f"{cells} = {value}")
            return
        # A copy: what is read must not change when the register does.
        if in_range:
            self._set(step.target, f"{cells}.copy()")
            return
        before = self._before(step.target, repeated)
        self._set(step.target, f"{cells}.copy() if {position} < {step.register_size} else {before}")

    def _before(self, lane: Lane, repeated: Repeated) -> str:
        """What the lane holds where a register read out of range leaves it alone."""
        if lane in self._loaded:
            return self._loaded[lane]
        if isinstance(lane, TempLane):
            return f"np.zeros({repeated.rounds}, np.uint{repeated.width})"
        return self._elements(lane, repeated)

    def _set(self, lane: Lane, value: str) -> None:
        name = self._loaded.get(lane) or self._name(lane)
        self._loaded[lane] = name
        self.out.line(f"{name} = {value}")

    def _name(self, lane: Lane) -> str:
        return f"lane_{len(self._loaded)}" if isinstance(lane, TempLane) else f"array_{len(self._loaded)}"

    def _load(self, lane: Lane, repeated: Repeated) -> str:
        if lane not in self._loaded:
            if isinstance(lane, TempLane):
                raise UnsupportedProgramError("a temporary field that is read before it is written")
            name = self._name(lane)
            self.out.line(f"{name} = {self._elements(lane, repeated)}")
            self._loaded[lane] = name
        return self._loaded[lane]

    def _elements(self, lane: RunLane, repeated: Repeated) -> str:
        part = "" if lane.whole else f"[{lane.start}:{lane.start + lane.count}]"
        return f"words{repeated.width}.array(f[{self._run_slot(lane)}]){part}"

    def _run_slot(self, lane: RunLane) -> str:
        layout = self.unit.layout
        return layout.symbols[layout.base[lane.header] + lane.offset]

    def _as_array(self, text: str, value: Expr, step: Step, repeated: Repeated) -> str:
        """A value that is the same in all rounds is spread over them."""
        if any(isinstance(node, FieldRef) and node in step.lanes for node in walk(value)):
            return text
        return f"np.full({repeated.rounds}, {text}, np.uint{repeated.width})"

    def _value(self, value: Expr, step: Step, repeated: Repeated, scope: ActionScope) -> str:
        value = without_mask(value, repeated.width)
        if isinstance(value, FieldRef) and value in step.lanes:
            return self._load(step.lanes[value], repeated)
        if not any(isinstance(node, FieldRef) and node in step.lanes for node in walk(value)):
            code = self.expressions.data(value, scope)
            if code.fits(repeated.width):
                return code.text
            return f"({code.text} & {hex((1 << repeated.width) - 1)})"
        match value:
            case Op("?", (condition, one, other)):
                chosen, rest = (
                    self._as_array(self._value(part, step, repeated, scope), part, step, repeated)
                    for part in (one, other)
                )
                return f"({chosen} if {self.expressions.truth(condition, scope)} else {rest})"
            case Op("<<", (shifted, Const(by))):
                if by >= repeated.width:
                    return "0"
                return f"({self._value(shifted, step, repeated, scope)} << {by})"
            case Op("~", (inner,)):
                return f"(~{self._value(inner, step, repeated, scope)})"
            case Op(op, (left, right)):
                a, b = (self._value(part, step, repeated, scope) for part in (left, right))
                return f"({a} {op} {b})"
        raise UnsupportedProgramError(f"{type(value).__name__} on whole arrays")


def _cells(register: RegisterLane, index: str) -> str:
    if register.whole:
        return f"{register.bank}[{index}]"
    return f"{register.bank}[{index}, {register.start}:{register.start + register.count}]"
