"""Headers from bytes to slots and back, as Python source."""

from __future__ import annotations

from dataclasses import dataclass

from switchml.switch_emulator.p4.expression_code import Place
from switchml.switch_emulator.p4.layout import Cell, RunCell, TypeLayout
from switchml.switch_emulator.p4.program_model import FieldType
from switchml.switch_emulator.p4.unit import Unit

_STRUCT_CODES = {8: "B", 16: "H", 32: "I", 64: "Q"}


@dataclass(frozen=True)
class _Group:
    """Fields that fill whole bytes together."""

    items: tuple[Cell | RunCell, ...]
    bits: int

    @property
    def run(self) -> RunCell | None:
        first = self.items[0]
        return first if isinstance(first, RunCell) else None

    @property
    def code(self) -> str:
        if self.run is None and self.bits in _STRUCT_CODES:
            return _STRUCT_CODES[self.bits]
        return f"{self.bits // 8}s"

    @property
    def plain(self) -> bool:
        """The struct's value is the slot's."""
        if self.run is not None:
            return True
        first = self.items[0]
        assert isinstance(first, Cell)
        return len(self.items) == 1 and not first.type.signed and not self.code.endswith("s")


def _groups(types: TypeLayout) -> list[_Group]:
    groups: list[_Group] = []
    items: list[Cell | RunCell] = []
    bits = 0
    for item in types.items:
        items.append(item)
        bits += item.count * item.width if isinstance(item, RunCell) else item.type.width
        if bits % 8 == 0:
            groups.append(_Group(tuple(items), bits))
            items, bits = [], 0
    if items:
        groups.append(_Group(tuple(items), (bits + 7) // 8 * 8))
    return groups


def fixed_bytes(types: TypeLayout) -> int:
    """Length of a header, its variable-length field left out, in bytes."""
    return types.type.fixed_bits // 8


def length_source(unit: Unit, place: Place) -> str:
    """Source of a header's length in bytes."""
    variable = types_variable(place.types)
    if variable is None:
        return str(fixed_bytes(place.types))
    return f"({fixed_bytes(place.types)} + f[{_slot(unit, place, variable.bits)}] // 8)"


def types_variable(types: TypeLayout) -> Cell | None:
    """The cell of the variable-length field, if there is one."""
    return next((cell for cell in types.items if isinstance(cell, Cell) and cell.bits >= 0), None)


def _slot(unit: Unit, place: Place, offset: int) -> str:
    if place.slot is not None:
        return unit.layout.symbols[place.slot + offset]
    return f"{place.base} + {offset}"


class HeaderWriter:
    """pack and unpack functions are shared by all headers of a type: `structs` says which the source needs."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.structs: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def _struct(self, types: TypeLayout) -> str:
        """The name of the type's struct.Struct in the generated source."""
        name = types.type.name
        if name not in self._names:
            self._names[name] = self.unit.names.new(f"layout_{name}")
            self.structs[self._names[name]] = ">" + "".join(group.code for group in _groups(types))
        return self._names[name]

    def extract(self, place: Place) -> None:
        """Statements that fill the slots from `data` at `at`; the length has been checked."""
        out, unit, types = self.unit.out, self.unit, place.types
        if types_variable(types) is not None:
            raise AssertionError("variable headers are extracted by extract_variable")
        groups = _groups(types)
        first, valid = place.base, _slot(unit, place, types.valid)
        if not groups:
            pass
        elif all(group.plain for group in groups):
            out.line(f"f[{first}:{valid}] = {self._struct(types)}.unpack_from(data, at)")
        else:
            temps = [f"x{i}" for i in range(len(groups))]
            out.line(f"{', '.join(temps)}, = {self._struct(types)}.unpack_from(data, at)")
            values = [
                text for group, temp in zip(groups, temps, strict=True) for text in _ungroup(group, temp)
            ]
            out.line(f"f[{first}:{valid}] = {', '.join(values)},")
        self._mark(place)

    def extract_variable(self, place: Place) -> None:
        """As extract, for a header with a field of `bits` bits; the header is `length` bytes."""
        out, unit, types = self.unit.out, self.unit, place.types
        variable = types_variable(types)
        assert variable is not None
        out.line('word = int.from_bytes(data[at:at + length], "big")')
        after = types.type.fixed_bits
        behind = False
        for item in types.items:
            if item is variable:
                behind = True
                out.line(f"f[{_slot(unit, place, item.offset)}] = word >> {after} & ((1 << bits) - 1)")
                out.line(f"f[{_slot(unit, place, variable.bits)}] = bits")
                continue
            width = item.count * item.width if isinstance(item, RunCell) else item.type.width
            after -= width
            shifted = f"word >> {after}" if behind else f"word >> ({after} + bits)"
            value = f"{shifted} & {hex((1 << width) - 1)}"
            if isinstance(item, RunCell):
                value = f'({value}).to_bytes({width // 8}, "big")'
            elif item.type.signed:
                value = _signed(f"({value})", item.type)
            out.line(f"f[{_slot(unit, place, item.offset)}] = {value}")
        self._mark(place)

    def _mark(self, place: Place) -> None:
        self.unit.out.line(f"f[{_slot(self.unit, place, place.types.valid)}] = 1")
        for sibling in place.siblings:
            self.unit.out.line(f"f[{sibling}] = 0")

    def packed(self, place: Place) -> str:
        """Source of the header's bytes."""
        unit, types = self.unit, place.types
        if types_variable(types) is not None:
            return self._packed_variable(place)
        groups = _groups(types)
        if not groups:
            return 'b""'
        if all(group.plain and group.run is None for group in groups):
            return f"{self._struct(types)}.pack(*f[{place.base}:{_slot(unit, place, types.valid)}])"
        if len(groups) == 1 and groups[0].run is not None:
            return self._grouped(place, groups[0])
        return f"{self._struct(types)}.pack({', '.join(self._grouped(place, group) for group in groups)})"

    def _grouped(self, place: Place, group: _Group) -> str:
        if group.run is not None:
            return f"words{group.run.width}.data(f[{_slot(self.unit, place, group.run.offset)}])"
        text = _joined(self.unit, place, group)
        return f'({text}).to_bytes({group.bits // 8}, "big")' if group.code.endswith("s") else text

    def _packed_variable(self, place: Place) -> str:
        unit, types = self.unit, place.types
        variable = types_variable(types)
        assert variable is not None
        behind = False
        left = types.type.fixed_bits
        terms = []
        bits = f"f[{_slot(unit, place, variable.bits)}]"
        for item in types.items:
            if item is variable:
                behind = True
                terms.append(f"f[{_slot(unit, place, item.offset)}] << {left}")
                continue
            left -= item.count * item.width if isinstance(item, RunCell) else item.type.width
            value = (
                f'int.from_bytes(words{item.width}.data(f[{_slot(unit, place, item.offset)}]), "big")'
                if isinstance(item, RunCell)
                else _unsigned(f"f[{_slot(unit, place, item.offset)}]", item.type)
            )
            terms.append(f"{value} << {left}" if behind else f"{value} << ({left} + {bits})")
        return f'({" | ".join(terms)}).to_bytes({length_source(unit, place)}, "big")'


def _ungroup(group: _Group, temp: str) -> list[str]:
    if group.run is not None:
        return [temp]
    word = f'int.from_bytes({temp}, "big")' if group.code.endswith("s") else temp
    cells = [item for item in group.items if isinstance(item, Cell)]
    if len(cells) == 1 and cells[0].type.width == group.bits:
        return [_signed(word, cells[0].type) if cells[0].type.signed else word]
    values = []
    left = group.bits
    for cell in cells:
        left -= cell.type.width
        value = f"{word} >> {left}" if left else word
        if left + cell.type.width < group.bits:
            value = f"{value} & {hex((1 << cell.type.width) - 1)}"
        values.append(_signed(f"({value})", cell.type) if cell.type.signed else value)
    return values


def _joined(unit: Unit, place: Place, group: _Group) -> str:
    left = group.bits
    terms = []
    for cell in group.items:
        assert isinstance(cell, Cell)
        left -= cell.type.width
        value = _unsigned(f"f[{_slot(unit, place, cell.offset)}]", cell.type)
        terms.append(f"{value} << {left}" if left else value)
    return " | ".join(terms)


def _signed(text: str, field: FieldType) -> str:
    half = 1 << (field.width - 1)
    return f"({text} ^ {hex(half)}) - {hex(half)}"


def _unsigned(text: str, field: FieldType) -> str:
    return f"({text} & {hex((1 << field.width) - 1)})" if field.signed else text
