"""The parser as Python source. A state becomes a function that returns the next one, with all those inside that are
reached from nowhere else.
"""

from __future__ import annotations

from collections import Counter

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.expression_code import ExpressionWriter, Place, PlainScope
from switchml.switch_emulator.p4.expressions import Const, Expr, Lookahead
from switchml.switch_emulator.p4.header_code import HeaderWriter, fixed_bytes, types_variable
from switchml.switch_emulator.p4.layout import RunCell
from switchml.switch_emulator.p4.places import at
from switchml.switch_emulator.p4.primitive_code import PrimitiveWriter
from switchml.switch_emulator.p4.program_model import (
    Advance,
    Extract,
    ParserOp,
    ParserState,
    Primitive,
    SetField,
    Transition,
    Verify,
)
from switchml.switch_emulator.p4.unit import Unit

# From so many plain cases on a dictionary is faster than comparing one by one.
_DICTIONARY_CASES = 4
# States inside each other: Python takes at most a hundred levels of indentation.
_DEEPEST = 16


class ParserWriter:
    """Writes the parser's states."""

    def __init__(
        self, unit: Unit, expressions: ExpressionWriter, primitives: PrimitiveWriter, headers: HeaderWriter
    ) -> None:
        self.unit = unit
        self.out = unit.out
        self.expressions = expressions
        self.primitives = primitives
        self.headers = headers
        self._functions = {
            name: unit.names.new(name if name.startswith("parse") else f"parse_{name}")
            for name in unit.program.parser.states
        }
        self._tables: list[tuple[str, str]] = []
        self._wanted: list[str] = []
        self._depth = 0
        parser = unit.program.parser
        edges = Counter(name for state in parser.states.values() for name in _following(state))
        if parser.start is not None:
            edges[parser.start] += 1
        in_dictionaries = {
            name for state in parser.states.values() if _has_dictionary(state) for name in _following(state)
        }
        self._inside = {name for name in parser.states if edges[name] == 1} - in_dictionaries - {parser.start}

    def write(self) -> None:
        """The function `parse`, and one for every state that stands for itself."""
        parser = self.unit.program.parser
        written = set()
        self._function(parser.start)
        while self._wanted:
            name = self._wanted.pop()
            if name not in written:
                written.add(name)
                with self.out.block(f"def {self._functions[name]}(p, f):"):
                    self.out.line("data, at = p.data, p.at")
                    self._state(parser.states[name])
                self.out.line()
        for name, text in self._tables:
            self.out.line(f"{name} = {text}")
        self.out.line()
        with self.out.block("def parse(p, f):"):
            if parser.start is None:
                return
            self.out.line(f"state = {self._functions[parser.start]}")
            with self.out.block("try:"), self.out.block("while state is not None:"):
                self.out.line("state = state(p, f)")
                if self._has_loop():
                    self.out.line("work[0] -= 1")
                    with self.out.block("if work[0] < 0:"):
                        self.out.line("endless()")
            with self.out.block("except ParserError as error:"):
                self.out.line("p.error = error.code")
            with self.out.block("except StackOutOfBoundsError:"):
                self.out.line(f"p.error = {self._error('StackOutOfBounds')}")
            if self.unit.tracing:
                with self.out.block(f"if p.error != {self._error('NoError')}:"):
                    self.out.line('trace(f"  parser error {error_names.get(p.error, p.error)}")')

    def _has_loop(self) -> bool:
        """Whether a state can come again."""
        states = self.unit.program.parser.states
        left = {name: len(_following(state)) for name, state in states.items()}
        before: dict[str, list[str]] = {name: [] for name in states}
        for name, state in states.items():
            for following in _following(state):
                before[following].append(name)
        ended = [name for name, ways in left.items() if ways == 0]
        for name in ended:
            for previous in before[name]:
                left[previous] -= 1
                if left[previous] == 0:
                    ended.append(previous)
        return len(ended) < len(states)

    def _error(self, name: str) -> int:
        return self.unit.program.errors[name]

    def _state(self, state: ParserState) -> None:
        if self.unit.tracing:
            self.out.line(f"trace({'  parser state ' + state.name!r})")
        scope = ActionScope(self.unit, (), self._lookahead)
        for op in state.ops:
            with at(f"parser state {state.name}"):
                self._op(op, scope)
        self._transition(state)

    def _op(self, op: ParserOp, scope: ActionScope) -> None:
        match op:
            case Extract():
                self._extract(op, scope)
            case SetField(target, value):
                self._check_lookahead(value)
                self.primitives.statement(Primitive("assign", (target, value)), scope)
            case Verify(condition, error):
                with self.out.block(f"if not {self.expressions.truth(condition, scope)}:"):
                    self.out.line(f"fail({self.expressions.data(error, scope).text})")
            case Advance(bits):
                self._advance(bits, scope)
            case Primitive():
                self.primitives.statement(op, scope)
        scope.close()

    # Extraction

    def _extract(self, op: Extract, scope: ActionScope) -> None:
        layout = self.unit.layout
        match op.kind:
            case "regular":
                self._extract_to(self.expressions.named(op.target), op, scope)
            case "stack" | "union_stack":
                following = layout.symbols[layout.next_slot[op.target]]
                program = self.unit.program
                size = (
                    len(program.stacks[op.target].headers)
                    if op.kind == "stack"
                    else len(program.union_stacks[op.target].unions)
                )
                self.out.line(f"n = f[{following}]")
                with self.out.block(f"if n >= {size}:"):
                    self.out.line(f"fail({self._error('StackOutOfBounds')})")
                place = (
                    self.expressions.next_element(op.target, "n")
                    if op.kind == "stack"
                    else self.expressions.union_element(op.target, op.member, "n")
                )
                self.out.line(f"base = {place.base}")
                self._extract_to(Place(place.types, "base", None, place.siblings), op, scope)
                self.out.line(f"f[{following}] = n + 1")

    def _extract_to(self, place: Place, op: Extract, scope: ActionScope) -> None:
        fixed = fixed_bytes(place.types)
        if types_variable(place.types) is None:
            with self.out.block(f"if len(data) < at + {fixed}:"):
                self.out.line(f"fail({self._error('PacketTooShort')})")
            self.headers.extract(place)
            self.out.line(f"at = p.at = at + {fixed}")
            self._trace_header(place, op)
            return
        if op.length is None:
            raise UnsupportedProgramError(
                f"header {op.target}: extracted without the length of its variable field"
            )
        self.out.line(f"bits = {self.expressions.data(op.length, scope).text}")
        with self.out.block("if bits % 8:"):
            self.out.line(f"fail({self._error('ParserInvalidArgument')})")
        self.out.line(f"length = {fixed} + bits // 8")
        with self.out.block("if len(data) < at + length:"):
            self.out.line(f"fail({self._error('PacketTooShort')})")
        if place.types.type.max_bytes:
            with self.out.block(f"if length > {place.types.type.max_bytes}:"):
                self.out.line(f"fail({self._error('HeaderTooShort')})")
        self.headers.extract_variable(place)
        self.out.line("at = p.at = at + length")
        self._trace_header(place, op)

    def _trace_header(self, place: Place, op: Extract) -> None:
        if not self.unit.tracing:
            return
        fields = tuple(
            (f"{place.types.first_field(item)} ...", item.offset, item.width)
            if isinstance(item, RunCell)
            else (item.type.name, item.offset, 0)
            for item in place.types.items
        )
        name = f"    extract {op.target}{f'.{op.member}' if op.member else ''}: "
        self.out.line(f"trace({name!r} + show_header(f, {place.base}, {fields}))")

    def _advance(self, bits: Expr, scope: ActionScope) -> None:
        code = self.expressions.data(bits, scope)
        if isinstance(bits, Const) and bits.value % 8 == 0:
            self.out.line(f"skip = {bits.value // 8}")
        else:
            self.out.line(f"skip = {code.text}")
            with self.out.block("if skip % 8:"):
                self.out.line(f"fail({self._error('ParserInvalidArgument')})")
            self.out.line("skip //= 8")
        with self.out.block("if len(data) < at + skip:"):
            self.out.line(f"fail({self._error('PacketTooShort')})")
        self.out.line("at = p.at = at + skip")

    def _check_lookahead(self, value: Expr) -> None:
        if isinstance(value, Lookahead):
            end = (value.offset + value.width + 7) // 8
            with self.out.block(f"if len(data) < at + {end}:"):
                self.out.line(f"fail({self._error('PacketTooShort')})")

    def _lookahead(self, offset: int, width: int) -> str:
        first, end = offset // 8, (offset + width + 7) // 8
        after = 8 * end - offset - width
        word = (
            f'int.from_bytes(data[at + {first}:at + {end}], "big")'
            if first
            else (f'int.from_bytes(data[at:at + {end}], "big")')
        )
        shifted = f"({word} >> {after})" if after else word
        return f"({shifted} & {hex((1 << width) - 1)})" if offset % 8 else shifted

    # Transitions

    def _transition(self, state: ParserState) -> None:
        scope = ActionScope(self.unit, (), self._lookahead)
        for key in state.key:
            self._check_lookahead(key)
        plain = PlainScope()
        with at(f"parser state {state.name}"):
            texts = [
                self.expressions.data(key, scope if isinstance(key, Lookahead) else plain).text
                for key in state.key
            ]
        signed = [
            f"({text} & {hex((1 << width) - 1)})" if self._is_signed(key) else text
            for key, width, text in zip(state.key, state.key_widths, texts, strict=True)
        ]
        transitions = _without_repeats(state.transitions)
        if not transitions:
            self._go(state.default)
        elif _has_dictionary(state):
            self._dictionary(state, transitions, signed, self._function(state.default))
        else:
            self._cases(state, transitions, signed)

    def _go(self, state: str | None) -> None:
        """On with that state."""
        if state not in self._inside or self._depth >= _DEEPEST:
            self.out.line(f"return {self._function(state)}")
            return
        self._depth += 1
        self._state(self.unit.program.parser.states[state])
        self._depth -= 1

    def _is_signed(self, key: Expr) -> bool:
        found = self.expressions.place_of(key, PlainScope())
        return found is not None and found[1].type.signed

    def _function(self, state: str | None) -> str:
        if state is None:
            return "None"
        self._wanted.append(state)
        return self._functions[state]

    def _dictionary(
        self, state: ParserState, transitions: list[Transition], keys: list[str], default: str
    ) -> None:
        name = self.unit.names.new(f"after_{state.name}")
        single = len(keys) == 1
        pairs = (
            f"{hex(t.values[0]) if single else t.values}: {self._function(t.next_state)}" for t in transitions
        )
        self._tables.append((name, "{" + ", ".join(pairs) + "}"))
        key = keys[0] if single else f"({', '.join(keys)})"
        self.out.line(f"return {name}.get({key}, {default})")

    def _cases(self, state: ParserState, transitions: list[Transition], keys: list[str]) -> None:
        names = keys
        if len(transitions) > 1:
            names = [f"k{i}" for i in range(len(keys))]
            self.out.line(f"{', '.join(names)} = {', '.join(keys)}")
        for t in transitions:
            if t.value_set:
                masked = (
                    names
                    if t.masks is None
                    else [f"{n} & {hex(m)}" for n, m in zip(names, t.masks, strict=True)]
                )
                vset = self.unit.object("value_set", t.value_set)
                masks = "" if t.masks is None else f", {t.masks}"
                condition = f"{vset}.contains(({', '.join(masked)},){masks})"
            else:
                masks_of = t.masks or (None,) * len(names)
                terms = [
                    f"{name} == {hex(value)}"
                    if mask is None
                    else f"{name} & {hex(mask)} == {hex(value & mask)}"
                    for name, value, mask in zip(names, t.values, masks_of, strict=True)
                    if mask != 0
                ]
                condition = " and ".join(terms) or "True"
            with self.out.block(f"if {condition}:"):
                self._go(t.next_state)
        self._go(state.default)


def _following(state: ParserState) -> list[str]:
    """Every way out, one by one."""
    ways = [*(t.next_state for t in _without_repeats(state.transitions)), state.default]
    return [name for name in ways if name is not None]


def _has_dictionary(state: ParserState) -> bool:
    transitions = _without_repeats(state.transitions)
    return len(transitions) >= _DICTIONARY_CASES and all(
        t.masks is None and not t.value_set for t in transitions
    )


def _without_repeats(transitions: tuple[Transition, ...]) -> list[Transition]:
    """The first of several transitions on the same value wins."""
    seen = set()
    result = []
    for t in transitions:
        same = (t.values, t.masks, t.value_set)
        if same not in seen:
            seen.add(same)
            result.append(t)
    return result
