"""Finds the same statements repeated over many fields and registers, as P4 without loops writes them.

    sum_0.read(v0, i); hdr.data.e0 = hdr.data.e0 + v0; sum_0.write(i, hdr.data.e0);
    sum_1.read(v1, i); hdr.data.e1 = hdr.data.e1 + v1; sum_1.write(i, hdr.data.e1); ...

One round is a pattern; what differs from round to round is a lane. Each statement of the pattern can then be done for
all rounds at once (repetition_code.py), provided that no round touches what another one does.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from switchml.switch_emulator.p4 import runs
from switchml.switch_emulator.p4.expressions import Const, Expr, FieldRef, ObjectRef, Op, walk
from switchml.switch_emulator.p4.layout import Layout
from switchml.switch_emulator.p4.program_model import Action, Primitive, Program
from switchml.switch_emulator.p4.program_walk import field_uses, headers_used_whole
from switchml.switch_emulator.p4.unit import BankColumn

LONGEST_PATTERN = 12
# Primitives looked at, for each of an action and for a whole program: a body of many that look alike and are no repetition is
# left as it is. Our own programs take 1.
_PATIENCE, _PATIENCE_IN_ALL = 6, 30_000

# What distributes over reduction modulo 2^width, so that whole arrays of that width give the same bits.
RING = frozenset({"+", "-", "*", "&", "|", "^", "~"})


@dataclass(frozen=True)
class RunLane:
    """Consecutive elements of a run.

    Attributes:
        header: whose.
        offset: the run's slot within it.
        start: first element.
    """

    header: str
    offset: int
    start: int
    count: int
    whole: bool


@dataclass(frozen=True)
class TempLane:
    """Fields that nothing outside the repetition reads: they need no slot.

    Attributes:
        number: tells lanes apart.
    """

    number: int


@dataclass(frozen=True)
class RegisterLane:
    """Columns of a bank."""

    bank: str
    start: int
    count: int
    whole: bool


Lane = RunLane | TempLane


@dataclass(frozen=True)
class Step:
    """One statement for all rounds.

    Attributes:
        target: written lane (None for register_write).
        lanes: every field of the first round's statement that stands for a lane.
        register: of a register access.
        index: of a register access.
    """

    primitive: Primitive
    target: Lane | None
    lanes: dict[FieldRef, Lane]
    register: RegisterLane | None = None
    index: Expr | None = None
    register_size: int = 0


@dataclass(frozen=True)
class Repeated:
    """A repetition that was found: what runs once for all rounds."""

    rounds: int
    width: int
    steps: tuple[Step, ...]


@dataclass
class Bank:
    """Registers of one shape, kept in one array."""

    name: str
    size: int
    width: int
    registers: list[str]


class RepetitionFinder:
    """Looks through an action's body for repetitions."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.program = program
        self.layout = layout
        self.banks: list[Bank] = []
        self.columns: dict[str, BankColumn] = {}
        self._patience = _PATIENCE_IN_ALL
        self._uses = field_uses(program)
        self._whole_headers = headers_used_whole(program)

    def body(self, action: Action) -> list[Primitive | Repeated]:
        """The action's body with repetitions put together. Jumps count primitives, so a body with jumps is left."""
        body = list(action.body)
        if len(body) < runs.SHORTEST or any(item.op.startswith("_jump") for item in body):
            return list(body)
        shapes = [_shape(item) for item in body]
        result: list[Primitive | Repeated] = []
        position = 0
        patience = _PATIENCE * len(body)
        # By period: where it is tried again after it was no repetition. Not at once, or a body of many statements that
        # look alike would take forever.
        later = dict.fromkeys(range(1, LONGEST_PATTERN + 1), 0)
        while position < len(body):
            before = self._patience
            found = self._at(body, shapes, position, later) if patience > 0 else None
            patience -= before - self._patience
            if found is None:
                result.append(body[position])
                position += 1
            else:
                result.append(found)
                position += found.rounds * len(found.steps)
        return result

    def _at(
        self, body: list[Primitive], shapes: list[object], start: int, later: dict[int, int]
    ) -> Repeated | None:
        best: Repeated | None = None
        for period in range(1, LONGEST_PATTERN + 1):
            if start < later[period]:
                continue
            end = start + period
            while end < len(body) and shapes[end] == shapes[end - period]:
                end += 1
            rounds = (end - start) // period
            if rounds < runs.SHORTEST or (
                best is not None and rounds * period <= best.rounds * len(best.steps)
            ):
                continue
            self._patience -= rounds * period
            if self._patience < 0:
                return None
            candidate = self._repetition(body[start : start + rounds * period], period)
            if candidate is None:
                later[period] = start + runs.SHORTEST * period
            else:
                best = candidate
        return best

    def _repetition(self, block: list[Primitive], period: int) -> Repeated | None:
        rounds = [block[i : i + period] for i in range(0, len(block), period)]
        analysis = _Rounds(self.program, rounds)
        if not analysis.independent():
            return None
        width = analysis.width()
        if width not in runs.WIDTHS:
            return None
        lanes: dict[tuple[FieldRef, ...], Lane] = {}
        for refs in analysis.lanes:
            lane = self._lane(refs, analysis, len(lanes))
            if lane is None:
                return None
            lanes[refs] = lane
        by_first: dict[FieldRef, Lane] = {refs[0]: lane for refs, lane in lanes.items()}
        banks, columns = list(self.banks), dict(self.columns)
        steps = []
        for number, primitive in enumerate(rounds[0]):
            step = self._step(primitive, [r[number] for r in rounds], by_first, width)
            if step is None:
                self.banks, self.columns = banks, columns
                return None
            steps.append(step)
        return Repeated(len(rounds), width, tuple(steps))

    def _lane(self, refs: tuple[FieldRef, ...], analysis: _Rounds, number: int) -> Lane | None:
        if refs in analysis.written_first and all(
            self._uses[ref] == analysis.uses[ref] and ref.header not in self._whole_headers
            for ref in set(refs)
        ):
            return TempLane(number)
        first = refs[0]
        cells = self.layout.of(self.program, first.header)
        if all(ref.header == first.header for ref in refs):
            positions = [cells.cells[ref.field] for ref in refs]
            if positions[0].position >= 0 and all(
                cell.offset == positions[0].offset and cell.position == positions[0].position + i
                for i, cell in enumerate(positions)
            ):
                run = next(run for run in cells.runs if run.offset == positions[0].offset)
                start = positions[0].position
                return RunLane(first.header, run.offset, start, len(refs), len(refs) == run.count)
        return None

    def _step(
        self, primitive: Primitive, alike: list[Primitive], lanes: dict[FieldRef, Lane], width: int
    ) -> Step | None:
        used = {ref: lanes[ref] for ref in _fields(primitive) if ref in lanes}
        match primitive.op, primitive.args:
            case "assign" | "modify_field", (FieldRef() as target, value):
                if target not in lanes or not _is_ring(value, lanes):
                    return None
                return Step(primitive, lanes[target], used)
            case "register_read", (FieldRef() as target, ObjectRef(), index):
                register = self._register(alike, 1, width)
                if target not in lanes or register is None or _has_lane(index, lanes):
                    return None
                return Step(primitive, lanes[target], used, register[0], index, register[1])
            case "register_write", (ObjectRef(), index, value):
                register = self._register(alike, 0, width)
                if register is None or _has_lane(index, lanes) or not _is_ring(value, lanes):
                    return None
                return Step(primitive, None, used, register[0], index, register[1])
        return None

    def _register(self, alike: list[Primitive], argument: int, width: int) -> tuple[RegisterLane, int] | None:
        """The bank columns of one register a round; makes the bank if the registers are in none."""
        names = [item.args[argument] for item in alike]
        registers = [self.program.registers[ref.name] for ref in names if isinstance(ref, ObjectRef)]
        size = registers[0].size
        if any(r.size != size or r.width != width for r in registers):
            return None
        if len({r.name for r in registers}) != len(registers):
            return None
        if not any(r.name in self.columns for r in registers):
            bank = Bank(f"bank_{len(self.banks)}", size, width, [r.name for r in registers])
            self.banks = [*self.banks, bank]
            self.columns = {
                **self.columns,
                **{r.name: BankColumn(bank.name, column) for column, r in enumerate(registers)},
            }
        columns = [self.columns.get(r.name) for r in registers]
        first = columns[0]
        if first is None or any(c != BankColumn(first.bank, first.column + i) for i, c in enumerate(columns)):
            return None
        bank = next(bank for bank in self.banks if bank.name == first.bank)
        whole = len(columns) == len(bank.registers)
        return RegisterLane(first.bank, first.column, len(columns), whole), size


class _Rounds:
    """What the rounds of a candidate have in common and where they differ.

    Attributes:
        lanes: tuples of fields, one a round.
        written_first: those that each round writes before it reads them.
    """

    def __init__(self, program: Program, rounds: list[list[Primitive]]) -> None:
        self.program = program
        self.rounds = rounds
        self.uses: collections.Counter[FieldRef] = collections.Counter(
            ref for block in rounds for item in block for ref in _fields(item)
        )
        columns = [
            list(zip(*(list(_fields(block[number])) for block in rounds), strict=True))
            for number in range(len(rounds[0]))
        ]
        written: set[FieldRef] = set()
        first_read: set[tuple[FieldRef, ...]] = set()
        self.written_lanes: set[tuple[FieldRef, ...]] = set()
        everything: list[tuple[FieldRef, ...]] = []
        for number, item in enumerate(rounds[0]):
            target = _written(item)
            refs = columns[number]
            reads = refs[1:] if target is not None else refs
            for lane in reads:
                everything.append(lane)
                if lane not in self.written_lanes:
                    first_read.add(lane)
            if target is not None:
                everything.append(refs[0])
                self.written_lanes.add(refs[0])
                written.update(refs[0])
        self.written_first = self.written_lanes - first_read
        self.written = written
        # A field that is the same in every round is a lane if the rounds write it.
        self.lanes = [
            lane for lane in dict.fromkeys(everything) if len(set(lane)) > 1 or lane in self.written_lanes
        ]
        self.constant = {lane[0] for lane in everything} - {lane[0] for lane in self.lanes}

    def independent(self) -> bool:
        """No round reads or writes what another one writes."""
        if any(not _constants_alike([block[n] for block in self.rounds]) for n in range(len(self.rounds[0]))):
            return False
        owner: dict[FieldRef, int] = {}
        for lane in self.lanes:
            if len(set(lane)) == 1:
                # One field for all rounds: fine as a temporary.
                if lane not in self.written_first:
                    return False
                continue
            if len(set(lane)) != len(lane):
                return False
            for number, ref in enumerate(lane):
                if owner.setdefault(ref, number) != number:
                    return False
        firsts = [lane[0] for lane in self.lanes]
        return len(set(firsts)) == len(firsts) and not self.constant & self.written

    def width(self) -> int:
        """Of every field of every lane, 0 if they differ or are signed."""
        types = {
            (t.width, t.signed or t.saturating or t.variable)
            for lane in self.lanes
            for t in (self.program.field_type(ref) for ref in lane)
        }
        if len(types) != 1:
            return 0
        ((width, special),) = types
        return 0 if special else width


def metadata_runs(program: Program, draft: Layout) -> dict[str, list[range]]:
    """Fields of metadata that stand for a lane somewhere, by header type.

    Args:
        program: the program.
        draft: a layout with all runs there can be.
    """
    # The traffic manager wants these one by one.
    alone = {"standard_metadata", "intrinsic_metadata", "queueing_metadata"}
    alone |= {ref.header for ref in program.aliases.values()}
    finder = RepetitionFinder(program, draft)
    found: dict[str, set[range]] = {}
    for action in program.action_by_id.values():
        for item in finder.body(action):
            if not isinstance(item, Repeated):
                continue
            for lane in {lane for step in item.steps for lane in step.lanes.values()}:
                if (
                    isinstance(lane, RunLane)
                    and program.headers[lane.header].metadata
                    and lane.header not in alone
                ):
                    found.setdefault(program.headers[lane.header].type.name, set()).add(
                        _span(draft, program, lane)
                    )
    return {name: _apart(spans) for name, spans in found.items()}


def _span(draft: Layout, program: Program, lane: RunLane) -> range:
    """The lane's fields, by number."""
    types = draft.of(program, lane.header)
    first = next(
        number for number, f in enumerate(types.type.fields) if types.cells[f.name].offset == lane.offset
    )
    return range(first + lane.start, first + lane.start + lane.count)


def _apart(spans: Iterable[range]) -> list[range]:
    """Of spans that overlap the longest."""
    kept: list[range] = []
    for span in sorted(spans, key=lambda span: (-len(span), span.start)):
        if all(span.stop <= other.start or other.stop <= span.start for other in kept):
            kept.append(span)
    return kept


def _shape(item: Primitive) -> object:
    """The same for statements that differ only in their fields and registers."""
    return (item.op, tuple(_blank(arg) for arg in item.args))


def _blank(expression: Expr) -> object:
    match expression:
        case FieldRef():
            return "field"
        case ObjectRef(kind, _):
            return kind
        case Op(op, args):
            return (op, tuple(_blank(arg) for arg in args))
    return expression


def _constants_alike(alike: Sequence[Primitive]) -> bool:
    """Only fields and registers may differ, and a register or other object must differ or be none."""
    return len({_shape(item) for item in alike}) == 1


def _fields(item: Primitive) -> Iterator[FieldRef]:
    for arg in item.args:
        for node in walk(arg):
            if isinstance(node, FieldRef):
                yield node


def _written(item: Primitive) -> FieldRef | None:
    if item.op in ("assign", "modify_field", "register_read") and isinstance(item.args[0], FieldRef):
        return item.args[0]
    return None


def _has_lane(expression: Expr, lanes: dict[FieldRef, Lane]) -> bool:
    return any(isinstance(node, FieldRef) and node in lanes for node in walk(expression))


def _is_ring(expression: Expr, lanes: dict[FieldRef, Lane]) -> bool:
    """The expression can be computed on arrays: what depends on lanes does so by ring operations alone."""
    if not _has_lane(expression, lanes):
        return True
    match expression:
        case FieldRef():
            return True
        case Op("?", (condition, one, other)):
            return not _has_lane(condition, lanes) and _is_ring(one, lanes) and _is_ring(other, lanes)
        case Op("<<", (value, Const(shift))):
            return shift >= 0 and _is_ring(value, lanes)
        case Op(op, args):
            return op in RING and all(_is_ring(arg, lanes) for arg in args)
    return False


def without_mask(expression: Expr, width: int) -> Expr:
    """`x & 0xFFFFFFFF` is x for arrays of 32-bit elements."""
    match expression:
        case Op("&", (value, Const(mask))) | Op("&", (Const(mask), value)):
            if mask & ((1 << width) - 1) == (1 << width) - 1:
                return without_mask(value, width)
    return expression
