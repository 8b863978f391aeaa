"""Where a packet's fields live: one flat list, a slot a field.

A header's fields stand in order, its validity last; elements of a stack stand side by side, so that the element at an
index known only at run time is an addition away. A run of equal fields (runs.py) takes one slot. Copying a packet is
copying the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from switchml.switch_emulator.p4 import runs
from switchml.switch_emulator.p4.names import Names
from switchml.switch_emulator.p4.program_model import VALID, FieldType, HeaderType, Program

# Fields of a header type, by number.
MetadataRuns = Mapping[str, Sequence[range]]


@dataclass(frozen=True)
class Cell:
    """Where a field is within its header.

    Attributes:
        position: within a run, -1 for a field with a slot of its own.
        bits: slot that has the width of a variable-length field, -1 for other fields.
    """

    type: FieldType
    offset: int
    position: int = -1
    bits: int = -1


@dataclass(frozen=True)
class RunCell:
    """A run in one slot: `count` fields of `width` bits."""

    offset: int
    count: int
    width: int


@dataclass(frozen=True)
class TypeLayout:
    """How a header type lies in slots.

    Attributes:
        items: the header from its first bit on, fields with a slot of their own and runs.
    """

    type: HeaderType
    cells: dict[str, Cell]
    items: tuple[Cell | RunCell, ...]
    valid: int

    @property
    def slots(self) -> int:
        """How many a header takes, its validity included."""
        return self.valid + 1

    @property
    def runs(self) -> tuple[RunCell, ...]:
        """Its runs, in the order of the wire."""
        return tuple(item for item in self.items if isinstance(item, RunCell))

    def first_field(self, run: RunCell) -> str:
        """Name of a run's first field."""
        return next(name for name, cell in self.cells.items() if cell.offset == run.offset)


def layout_type(
    header_type: HeaderType, spans: Iterable[range] | None = None, *, wire: bool = True
) -> TypeLayout:
    """Lay out a header type.

    Args:
        header_type: the type.
        spans: where runs are, by number of the fields; None = wherever there can be one.
        wire: a run begins at a byte.
    """
    fields = header_type.fields
    ends = None if spans is None else {span.start: span.stop for span in spans}
    cells: dict[str, Cell] = {}
    items: list[Cell | RunCell] = []
    offset = start = bits = 0
    while start < len(fields):
        first = fields[start]
        end = _end_of_alike(fields, start) if ends is None else ends.get(start, start)
        if end - start >= runs.SHORTEST and first.width in runs.WIDTHS and not (wire and bits % 8):
            items.append(RunCell(offset, end - start, first.width))
            for position in range(start, end):
                cells[fields[position].name] = Cell(fields[position], offset, position - start)
                bits += first.width
            offset += 1
            start = end
            continue
        cell = Cell(first, offset, -1, offset + 1 if first.variable else -1)
        offset += 2 if first.variable else 1
        cells[first.name] = cell
        items.append(cell)
        bits += 0 if first.variable else first.width
        start += 1
    cells[VALID] = Cell(FieldType(VALID, 1), offset)
    return TypeLayout(header_type, cells, tuple(items), offset)


def _end_of_alike(fields: Sequence[FieldType], start: int) -> int:
    end = start
    while end < len(fields) and _alike(fields[end], fields[start]):
        end += 1
    return end


def _alike(candidate: FieldType, first: FieldType) -> bool:
    return (
        candidate.width == first.width
        and not candidate.signed
        and not candidate.saturating
        and not candidate.variable
        and not first.variable
    )


@dataclass
class Layout:
    """How a program's headers lie in a packet's slots.

    Attributes:
        base: first slot of every header.
        next_slot: of a stack, the slot with the number of elements in use.
        symbols: the name of every slot in the generated source.
        fresh: a packet's slots before parsing.
    """

    types: dict[str, TypeLayout]
    base: dict[str, int] = field(default_factory=dict)
    next_slot: dict[str, int] = field(default_factory=dict)
    union_base: dict[str, int] = field(default_factory=dict)
    siblings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    symbols: dict[int, str] = field(default_factory=dict)
    fresh: list[int | bytes] = field(default_factory=list)

    def of(self, program: Program, header: str) -> TypeLayout:
        """How the header's type is laid out."""
        return self.types[program.headers[header].type.name]

    def slot(self, program: Program, header: str, name: str) -> int:
        """Number of the slot that has the field."""
        return self.base[header] + self.of(program, header).cells[name].offset


def layout_program(program: Program, names: Names, metadata_runs: MetadataRuns | None = None) -> Layout:
    """Lay out a program.

    Args:
        program: the program.
        names: names for the slots are taken from here.
        metadata_runs: by header type. Metadata never is on the wire, and most of it is better off alone. None = all that
            there can be, for a draft.
    """
    inside = {header.type.name for header in program.headers.values() if header.metadata}

    def types(header_type: HeaderType) -> TypeLayout:
        if header_type.name not in inside:
            return layout_type(header_type)
        spans = None if metadata_runs is None else metadata_runs.get(header_type.name, ())
        return layout_type(header_type, spans, wire=False)

    layout = Layout({name: types(header_type) for name, header_type in program.header_types.items()})
    for stack in program.stacks.values():
        for header in stack.headers:
            _place(program, layout, names, header)
        # One element more than the program has: what is done to an index out of range is done to it.
        _place_spare(layout, layout.types[stack.type.name])
        layout.next_slot[stack.name] = _new_slot(layout, names.new(f"{stack.name}_next"), 0)
    for union_stack in program.union_stacks.values():
        for union in union_stack.unions:
            _place_union(program, layout, names, union)
        for _, header in program.unions[union_stack.unions[0]].members:
            _place_spare(layout, layout.of(program, header))
        layout.next_slot[union_stack.name] = _new_slot(layout, names.new(f"{union_stack.name}_next"), 0)
    for union in program.unions:
        if union not in layout.union_base:
            _place_union(program, layout, names, union)
    for header in program.headers:
        if header not in layout.base:
            _place(program, layout, names, header)
    for declared in program.unions.values():
        members = [header for _, header in declared.members]
        for header in members:
            layout.siblings[header] = tuple(other for other in members if other != header)
    return layout


def _new_slot(layout: Layout, symbol: str, value: int | bytes) -> int:
    layout.fresh.append(value)
    layout.symbols[len(layout.fresh) - 1] = symbol
    return len(layout.fresh) - 1


def _place_union(program: Program, layout: Layout, names: Names, union: str) -> None:
    layout.union_base[union] = len(layout.fresh)
    for _, header in program.unions[union].members:
        _place(program, layout, names, header)


def _place(program: Program, layout: Layout, names: Names, header: str) -> None:
    cells = layout.of(program, header)
    layout.base[header] = len(layout.fresh)
    for item in cells.items:
        if isinstance(item, RunCell):
            covered = [name for name, cell in cells.cells.items() if cell.offset == item.offset]
            symbol = names.new(f"{header}_{covered[0]}_to_{covered[-1]}")
            _new_slot(layout, symbol, bytes(item.count * item.width // 8))
            continue
        symbol = names.new(f"{header}_{item.type.name}")
        _new_slot(layout, symbol, 0)
        if item.bits >= 0:
            _new_slot(layout, names.new(f"{symbol}_bits"), 0)
    _new_slot(layout, names.new(f"{header}_valid"), int(program.headers[header].metadata))


def _place_spare(layout: Layout, cells: TypeLayout) -> None:
    for item in cells.items:
        if isinstance(item, RunCell):
            layout.fresh.append(bytes(item.count * item.width // 8))
        else:
            layout.fresh.extend([0, 0] if item.bits >= 0 else [0])
    layout.fresh.append(0)
