"""Reads the parser of a BMv2 JSON."""

from __future__ import annotations

from switchml.errors import UnsupportedProgramError
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
        states = {}
        for state in item["parse_states"]:
            states[state["name"]] = self._state(state)
        return Parser(item["name"], item.get("init_state"), states)

    def _state(self, item: Json) -> ParserState:
        key = tuple(need_expression(entry) for entry in item.get("transition_key", ()))
        widths = tuple(self._key_width(entry) for entry in key)
        transitions = []
        default = None
        for entry in item.get("transitions", ()):
            kind = entry.get("type", "hexstr")
            following = entry.get("next_state")
            if kind == "default" or entry.get("value") in (None, "default"):
                default = following
                continue
            mask = entry.get("mask")
            masks = None if mask is None else _split(mask, widths)
            if kind == "parse_vset":
                transitions.append(Transition(following, (), masks, entry["value"]))
            else:
                transitions.append(Transition(following, _split(entry["value"], widths), masks))
        if not key:
            transitions = []
        return ParserState(
            item["name"],
            tuple(_parser_op(op) for op in item.get("parser_ops", ())),
            key,
            widths,
            tuple(transitions),
            default,
        )

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
            return Advance(Const(8 * int(params[0])))
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
