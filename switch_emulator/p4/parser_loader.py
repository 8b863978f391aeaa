"""Reads the parser of a BMv2 JSON."""

from __future__ import annotations

from switchml.errors import MalformedProgramError, UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    Const,
    Expr,
    FieldRef,
    LastField,
    Lookahead,
    UnionLastField,
    need_expression,
    read_hex,
)
from switchml.switch_emulator.p4.json_items import Json, read_field, read_primitive
from switchml.switch_emulator.p4.places import MOST_BITS, at, listed, number, text
from switchml.switch_emulator.p4.program_model import (
    Advance,
    Extract,
    Parser,
    ParserOp,
    ParserState,
    Program,
    SetField,
    Transition,
    Verify,
)


class ParserLoader:
    """Reads parsers.

    Args:
        program: its headers are there already.
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def load(self, item: Json) -> Parser:
        """A parser as the JSON has it.

        Raises:
            UnsupportedProgramError: something that this target has not got.
        """
        states: dict[str, ParserState] = {}
        for place, entry in listed(item, "parse_states", needed=True):
            with at(place):
                state = self._state(entry)
                if state.name in states:
                    raise MalformedProgramError("there are two of this name")
                states[state.name] = state
        for state in states.values():
            with at(f"parser state {state.name}"):
                for following in (*(t.next_state for t in state.transitions), state.default):
                    if following is not None and following not in states:
                        raise MalformedProgramError(f"there is no state {following!r} to go on with")
        start = item.get("init_state")
        if start is not None and start not in states:
            raise MalformedProgramError(f"there is no state {start!r} to begin with")
        return Parser(text(item, "name"), start, states)

    def _state(self, item: Json) -> ParserState:
        key = tuple(need_expression(entry) for entry in item.get("transition_key", ()))
        widths = tuple(self._key_width(entry) for entry in key)
        transitions = []
        default = None
        for _, entry in listed(item, "transitions"):
            kind = entry.get("type", "hexstr")
            following = entry.get("next_state")
            if kind == "default" or entry.get("value") in (None, "default"):
                default = following
                continue
            mask = entry.get("mask")
            masks = None if mask is None else _split(mask, widths)
            if kind == "parse_vset":
                self.program.value_sets[entry["value"]]  # a KeyError where there is none
                transitions.append(Transition(following, (), masks, entry["value"]))
            else:
                transitions.append(Transition(following, _split(entry["value"], widths), masks))
        if not key:
            transitions = []
        ops = []
        for place, op in listed(item, "parser_ops"):
            with at(place):
                ops.append(self._checked(_parser_op(op)))
        return ParserState(
            text(item, "name"),
            tuple(ops),
            key,
            widths,
            tuple(transitions),
            default,
        )

    def _checked(self, op: ParserOp) -> ParserOp:
        """Its header is there."""
        program = self.program
        if isinstance(op, Extract):
            match op.kind:
                case "regular":
                    program.headers[op.target]
                case "stack":
                    program.stacks[op.target]
                case "union_stack":
                    union = program.unions[program.union_stacks[op.target].unions[0]]
                    dict(union.members)[op.member]
        return op

    def _key_width(self, key: Expr) -> int:
        program = self.program
        match key:
            case FieldRef():
                return program.field_type(key).width
            case LastField(stack, field):
                return program.stacks[stack].type.field(field).width
            case UnionLastField(stack, member, field):
                union = program.unions[program.union_stacks[stack].unions[0]]
                return program.headers[dict(union.members)[member]].type.field(field).width
            case Lookahead(_, width):
                return width
        raise UnsupportedProgramError(f"parser key of type {type(key).__name__}")


def _parser_op(item: Json) -> ParserOp:
    op, params = item["op"], item["parameters"]
    match op:
        case "extract" | "extract_VL":
            target, length = params[0], None
            if op == "extract_VL":
                length = need_expression(params[1])
            if target["type"] == "union_stack":
                return Extract("union_stack", target["value"][0], target["value"][1], length)
            if target["type"] not in ("regular", "stack"):
                raise UnsupportedProgramError(f"extract to {target['type']}")
            return Extract(target["type"], target["value"], "", length)
        case "set":
            return SetField(read_field(params[0]), need_expression(params[1]))
        case "verify":
            error = Const(params[1]) if isinstance(params[1], int) else need_expression(params[1])
            return Verify(need_expression(params[0]), error)
        case "shift":
            return Advance(Const(8 * number(params[0], "shift", 0, MOST_BITS)))
        case "advance":
            return Advance(need_expression(params[0]))
        case "primitive":
            return read_primitive(params[0])
    raise UnsupportedProgramError(f"parser operation {op!r}")


def _split(text: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Fields of a byte-padded concatenation."""
    value = read_hex(text)
    fields = []
    for width in reversed(widths):
        padded = (width + 7) // 8 * 8
        fields.append(value & ((1 << padded) - 1))
        value >>= padded
    return tuple(reversed(fields))
