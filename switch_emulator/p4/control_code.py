"""Actions, tables and the two pipelines as Python source. A pipeline is a graph of tables and conditions; it becomes
one function of nested ifs, as the P4 program has them. A part that is reached on several ways is a function of its
own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from switchml.errors import MalformedProgramError, UnsupportedProgramError
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.expression_code import ExpressionWriter, PlainScope
from switchml.switch_emulator.p4.jump_code import Body
from switchml.switch_emulator.p4.places import at
from switchml.switch_emulator.p4.primitive_code import PrimitiveWriter
from switchml.switch_emulator.p4.program_model import (
    VALID,
    Action,
    ActionCallNode,
    Conditional,
    KeyField,
    PipelineGraph,
    Program,
    Table,
)
from switchml.switch_emulator.p4.unit import Unit, comment
from switchml.switch_emulator.p4.value_code import Code, field_bounds

# Deeper nesting goes into a function of its own: Python takes at most a hundred levels.
_DEEPEST = 24

# A part of a pipeline: from a node up to (without) another one; None = the pipeline's end.
Part = tuple[str, str | None]


class ActionWriter:
    """Writes actions: a function each, or in place where they are called once."""

    def __init__(self, unit: Unit, primitives: PrimitiveWriter, bodies: Mapping[int, Body]) -> None:
        self.unit = unit
        self.primitives = primitives
        self.bodies = bodies
        self._inside = _called_once(unit.program)

    def write(self) -> None:
        """A function for every action that is not written where it is called."""
        for action in self.unit.program.action_by_id.values():
            if action.ident not in self._inside:
                self.unit.actions[action.ident] = self.unit.names.new(action.name)
        for action in self.unit.program.action_by_id.values():
            if action.ident not in self._inside:
                self._action(action)

    def call(self, ident: int, arguments: tuple[int, ...] = ()) -> None:
        """Statements that run the action."""
        if ident in self._inside:
            action = self.unit.program.action_by_id[ident]
            self._body(action, ActionScope(self.unit, action.params))
            return
        values = "".join(f", {hex(value)}" for value in arguments)
        self.unit.out.line(f"{self.unit.actions[ident]}(p, f{values})")

    def _action(self, action: Action) -> None:
        scope = ActionScope(self.unit, action.params)
        names = [scope.param_name(i) for i in range(len(action.params))]
        with self.unit.out.block(f"def {self.unit.actions[action.ident]}({', '.join(['p', 'f', *names])}):"):
            self._body(action, scope)
        self.unit.out.line()

    def _body(self, action: Action, scope: ActionScope) -> None:
        if self.unit.tracing:
            names = [scope.param_name(i) for i in range(len(action.params))]
            text = repr(f"    action {action.name}(")
            for number, (param, name) in enumerate(zip(action.params, names, strict=True)):
                text += f" + {(', ' if number else '') + param.name + ' = '!r} + hex({name})"
            self.unit.out.line(f"trace({text} + ')')")
        with at(f"action {action.name}"):
            self.primitives.body(self.bodies[action.ident], scope)


def _called_once(program: Program) -> set[int]:
    """Actions without parameters that the program calls in one place, and that no table offers."""
    calls: Counter[int] = Counter()
    offered: set[int] = set()
    for pipeline in (program.ingress, program.egress):
        for node in pipeline.nodes.values():
            if isinstance(node, ActionCallNode):
                calls[node.action] += 1
            elif isinstance(node, Table):
                if is_plain_call(node):
                    calls.update(node.actions.values())
                else:
                    offered.update(node.actions.values())
                    if node.default_action is not None:
                        offered.add(node.default_action)
    return {
        ident
        for ident, count in calls.items()
        if count == 1 and ident not in offered and not program.action_by_id[ident].params
    }


class TableWriter:
    """Writes a table's key, look-up and action."""

    def __init__(self, unit: Unit, expressions: ExpressionWriter) -> None:
        self.unit = unit
        self.expressions = expressions

    def apply(self, table: Table) -> None:
        """Statements that leave in `entry` what was hit, None for a miss, and in `call` the action that has run."""
        with at(f"table {table.name}"):
            self._apply(table)

    def _apply(self, table: Table) -> None:
        out, unit = self.unit.out, self.unit
        name = unit.object("table", table.name)
        key = ", ".join(self._key_field(field) for field in table.key)
        if table.key:
            key = f"({key},)" if len(table.key) == 1 else f"({key})"
            if unit.tracing:
                out.line(f"key = {key}")
                key = "key"
            out.line(f"entry = {unit.object('find', 'find in ' + table.name)}({key})", f"table {table.name}")
            with out.block("if entry is None:"):
                out.line(f"call = {name}.miss")
                if unit.tracing:
                    out.line(f"trace({'  table ' + table.name!r}{self._shown_key(table)} + ': miss')")
            with out.block("else:"):
                self._hit(table)
        else:
            if branches(table):
                out.line("entry = None")
            out.line(f"call = {name}.miss", f"table {table.name}")
            if unit.tracing:
                out.line(f"trace({'  table ' + table.name + ': no key'!r})")
        out.line("call.function(p, f, *call.arguments)")

    def _hit(self, table: Table) -> None:
        out, unit = self.unit.out, self.unit
        if table.counters:
            out.line("entry.packets += 1; entry.bytes += p.ingress_length")
        if table.timeout:
            out.line("entry.last_hit = clock()")
        if table.direct_meter:
            meter = unit.program.meters[table.direct_meter]
            assert meter.result is not None
            found = self.expressions.place_of(meter.result, PlainScope())
            assert found is not None
            place, cell = found
            units = "1" if meter.unit == "packets" else "p.ingress_length"
            slot = self.expressions.slot(place, cell.offset)
            colour = f"entry.meter.colour({units}, clock()) if entry.meter is not None else 0"
            if cell.position >= 0:
                colour = f"words{cell.type.width}.replace(f[{slot}], {cell.position}, {colour})"
            out.line(f"f[{slot}] = {colour}")
        if unit.tracing:
            what = "describe(entry.request.key, entry.request.priority)"
            out.line(f"trace({'  table ' + table.name!r}{self._shown_key(table)} + ': hit' + {what})")
        out.line("call = entry.call")
        profile = unit.program.profiles.get(table.profile)
        if profile is not None and profile.selector is not None:
            selector = unit.object("selector", profile.name)
            with out.block("if call is None:"):
                out.line(f"call = entry.choices[{selector}(p, f) % len(entry.choices)]")

    def _shown_key(self, table: Table) -> str:
        """What the packet was looked up with."""
        return f" + show_key({tuple(field.name for field in table.key)}, key)" if table.key else ""

    def _key_field(self, field: KeyField) -> str:
        """A field of a header that is not valid counts as 0."""
        unit = self.unit
        code: Code = self.expressions.value(field.target, PlainScope())
        text = code.text
        low, _ = field_bounds(unit.program.field_type(field.target))
        if low < 0:
            text = f"({text} & {hex((1 << field.width) - 1)})"
        if field.target.field != VALID and not unit.program.headers[field.target.header].metadata:
            place = self.expressions.named(field.target.header)
            text = f"({text} if f[{self.expressions.slot(place, place.types.valid)}] else 0)"
        if field.mask is not None and field.mask & ((1 << field.width) - 1) != (1 << field.width) - 1:
            text = f"{text} & {hex(field.mask)}"
        return text


class PipelineWriter:
    """Writes a pipeline's graph as nested conditions, with functions for the parts that join."""

    def __init__(
        self, unit: Unit, expressions: ExpressionWriter, actions: ActionWriter, tables: TableWriter
    ) -> None:
        self.unit = unit
        self.expressions = expressions
        self.actions = actions
        self.tables = tables
        self._exiting = {
            ident
            for ident, action in unit.program.action_by_id.items()
            if any(item.op == "exit" for item in action.body)
        }

    def write(self, pipeline: PipelineGraph, function: str) -> None:
        """The pipeline as a Python function of that name."""
        with at(f"pipeline {pipeline.name}"):
            self._write(pipeline, function)

    def _write(self, pipeline: PipelineGraph, function: str) -> None:
        self._pipeline = pipeline
        self._joins = _joins(pipeline)
        self._functions: dict[Part, str] = {}
        self._depth = 0
        self._pending: list[Part] = []
        self._visits: Counter[Part] = Counter()
        self._count(pipeline.first, None)
        out = self.unit.out
        with out.block(f"def {function}(p, f):"):
            if self.unit.tracing:
                out.line(f"trace({function!r})")
            self._part(pipeline.first, None, inline=True)
        out.line()
        done = set()
        while self._pending:
            part = self._pending.pop()
            if part in done:
                continue
            done.add(part)
            self._depth = 0
            with out.block(f"def {self._functions[part]}(p, f):"):
                self._part(*part, inline=True)
            out.line()

    def _successors(self, node: str) -> list[str | None]:
        return successors(self._pipeline, node)

    def _count(self, node: str | None, end: str | None) -> None:
        """How often each part would be written."""
        while node is not None and node != end:
            self._visits[node, end] += 1
            if self._visits[node, end] > 1:
                return
            following = list(dict.fromkeys(self._successors(node)))
            if len(following) == 1:
                node = following[0]
                continue
            join = self._joins[node]
            for successor in following:
                self._count(successor, join)
            node = join

    def _part(self, node: str | None, end: str | None, inline: bool = False) -> None:
        """Statements from `node` up to `end`."""
        out = self.unit.out
        while node is not None and node != end:
            if not inline and (self._visits[node, end] > 1 or self._depth >= _DEEPEST):
                out.line(f"{self._function((node, end))}(p, f)")
                self._leave_on_exit(bool(self._exiting) and end is not None)
                return
            inline = False
            item = self._pipeline.nodes[node]
            following = list(dict.fromkeys(self._successors(node)))
            join = following[0] if len(following) == 1 else self._joins[node]
            match item:
                case Conditional():
                    self._conditional(item, following, join)
                case Table():
                    self._apply(item, following, join)
                case ActionCallNode():
                    self.actions.call(item.action)
                    self._leave_on_exit(join is not None and item.action in self._exiting)
            node = join

    def _leave_on_exit(self, possible: bool) -> None:
        if possible:
            self.unit.out.line("if p.exited: return")

    def _function(self, part: Part) -> str:
        if part not in self._functions:
            self._functions[part] = self.unit.names.new(f"{self._pipeline.name}_from_{part[0]}")
            self._pending.append(part)
        return self._functions[part]

    def _conditional(
        self, item: Conditional, following: list[str | None], join: str | None, opening: str = "if"
    ) -> None:
        out = self.unit.out
        with at(f"condition {item.name}"):
            condition = self.expressions.truth(item.expression, PlainScope())
        if condition.startswith("(") and _closes_at_end(condition):
            condition = condition[1:-1]
        if self.unit.tracing:
            out.line(f"truth = {condition}")
            what = comment(item.source) or item.name
            out.line(f"trace({f'  if {what}: '!r} + str(bool(truth)))")
            condition = "truth"
        if len(following) == 1:
            return
        self._depth += 1
        note = comment(item.source)
        if item.true_next != join:
            with out.block(f"{opening} {condition}:", note):
                self._part(item.true_next, join)
            other = self._else_if(item.false_next, join)
            if other is not None:
                self._conditional(other, list(dict.fromkeys(self._successors(other.name))), join, "elif")
            elif item.false_next != join:
                with out.block("else:"):
                    self._part(item.false_next, join)
        else:
            with out.block(f"{opening} not ({condition}):", note):
                self._part(item.false_next, join)
        self._depth -= 1

    def _else_if(self, node: str | None, join: str | None) -> Conditional | None:
        """The condition that is all there is between here and `join`, if that is so."""
        if node is None or node == join or self.unit.tracing or self._visits[node, join] > 1:
            return None
        item = self._pipeline.nodes[node]
        if isinstance(item, Conditional) and self._joins[node] == join and item.true_next != item.false_next:
            return item
        return None

    def _apply(self, table: Table, following: list[str | None], join: str | None) -> None:
        out = self.unit.out
        exits = not self._exiting.isdisjoint((*table.actions.values(), table.default_action))
        if is_plain_call(table):
            assert table.default_action is not None
            self.actions.call(table.default_action, table.default_arguments)
            self._leave_on_exit(join is not None and exits)
            return
        self.tables.apply(table)
        if len(following) == 1:
            self._leave_on_exit(join is not None and exits)
            return
        self._leave_on_exit(exits)
        self._depth += 1
        opening = "if"
        for condition, successor in _ways(table):
            if successor == join:
                continue
            with out.block(f"{opening} {condition}:"):
                self._part(successor, join)
            opening = "elif"
        self._depth -= 1


def _closes_at_end(text: str) -> bool:
    """The first parenthesis is closed by the last."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False


def _ways(table: Table) -> list[tuple[str, str | None]]:
    """Where the pipeline goes after a table: condition in the generated source, next node. They exclude each other."""
    if "__HIT__" in table.next_nodes:
        return [
            ("entry is not None", table.next_nodes["__HIT__"]),
            ("entry is None", table.next_nodes["__MISS__"]),
        ]
    by_node: dict[str | None, list[str]] = {}
    for action, node in table.next_nodes.items():
        by_node.setdefault(node, []).append(action)
    return [
        (f"call.name in {tuple(actions)!r}" if len(actions) > 1 else f"call.name == {actions[0]!r}", node)
        for node, actions in by_node.items()
    ]


def branches(table: Table) -> bool:
    """Whether the way after the table depends on its action or on a hit."""
    return len({node for _, node in _ways(table)}) > 1


def successors(pipeline: PipelineGraph, node: str) -> list[str | None]:
    """The nodes that may follow; None = the pipeline's end."""
    item = pipeline.nodes.get(node)
    match item:
        case Conditional():
            return [item.true_next, item.false_next]
        case Table():
            # p4c gives a table's next node even where it has no actions to name.
            return [following for _, following in _ways(item)] or [item.miss_next]
        case ActionCallNode():
            return [item.next_node]
    raise MalformedProgramError(f"there is no table or condition {node!r} to go on with")


def is_plain_call(table: Table) -> bool:
    """What p4c makes of an action called directly, or of statements between tables: a table that cannot be hit."""
    return (
        not table.key
        and table.default_action is not None
        and table.default_const
        and len(table.actions) == 1
        and not branches(table)
        and not table.profile
    )


def _joins(pipeline: PipelineGraph) -> dict[str, str | None]:
    """Where all ways from a node meet again (its immediate post-dominator), None = only at the end."""
    order: list[str] = []
    state: dict[str, int] = {}
    stack: list[tuple[str, int]] = [(pipeline.first, 0)] if pipeline.first is not None else []
    while stack:
        node, step = stack.pop()
        following = [n for n in successors(pipeline, node) if n is not None]
        if step == 0:
            state[node] = 1
        if step < len(following):
            stack.append((node, step + 1))
            successor = following[step]
            if state.get(successor) == 1:
                raise UnsupportedProgramError(f"it has a cycle at {successor}")
            if successor not in state:
                stack.append((successor, 0))
        else:
            state[node] = 2
            order.append(node)
    # Successors come first: the common ancestor of two nodes is found along joins already known.
    rank = {node: number for number, node in enumerate(order)}
    joins: dict[str, str | None] = {}

    def meet(a: str | None, b: str | None) -> str | None:
        while a != b:
            if a is None or b is None:
                return None
            if rank[a] > rank[b]:
                a = joins[a]
            else:
                b = joins[b]
        return a

    for node in order:
        ways = successors(pipeline, node)
        common = ways[0]
        for way in ways[1:]:
            common = meet(common, way)
        joins[node] = common
    return joins
