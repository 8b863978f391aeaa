"""Hashes and checksums as Python source: one function a calculation, which gathers its input and hashes it."""

from __future__ import annotations

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.expression_code import ExpressionWriter, Place, PlainScope
from switchml.switch_emulator.p4.expressions import FieldRef
from switchml.switch_emulator.p4.hashes import ALGORITHMS
from switchml.switch_emulator.p4.header_code import HeaderWriter
from switchml.switch_emulator.p4.layout import Cell
from switchml.switch_emulator.p4.places import at
from switchml.switch_emulator.p4.program_model import Calculation, CalculationInput, Checksum
from switchml.switch_emulator.p4.unit import Unit
from switchml.switch_emulator.p4.value_code import Code, field_bounds, stored


class CalculationWriter:
    """Writes the functions of hashes, action selectors and checksums."""

    def __init__(self, unit: Unit, expressions: ExpressionWriter, headers: HeaderWriter) -> None:
        self.unit = unit
        self.out = unit.out
        self.expressions = expressions
        self.headers = headers

    def write(self) -> None:
        """All of them."""
        for calculation in self.unit.program.calculations.values():
            with at(f"calculation {calculation.name}"):
                self._calculation(calculation)
        for profile in self.unit.program.profiles.values():
            if profile.selector is not None:
                algorithm, fields = profile.selector
                inputs = tuple(CalculationInput(field=field) for field in fields)
                name = self.unit.object("selector", profile.name)
                with at(f"action profile {profile.name}"):
                    self._function(name, profile.name, algorithm, inputs)
        self._checksums()

    def _calculation(self, calculation: Calculation) -> None:
        name = self.unit.object("calculation", calculation.name)
        self._function(name, calculation.name, calculation.algorithm, calculation.inputs)

    def _function(
        self, name: str, full_name: str, algorithm: str, inputs: tuple[CalculationInput, ...]
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise UnsupportedProgramError(f"{full_name}: hash algorithm {algorithm}")
        if algorithm in ("csum16", "cksum16"):
            sums = self._sums(inputs)
            if sums is not None:
                self._internet_checksum(name, sums)
                return
        hash_name = self.unit.object("hash", f"{full_name} {algorithm}")
        with self.out.block(f"def {name}(p, f):"):
            self._input(inputs)
            self.out.line(f"return {hash_name}(data)")
        self.out.line()

    def _sums(self, inputs: tuple[CalculationInput, ...]) -> list[tuple[str, str]] | None:
        """For every header (or "") a sum of numbers of 16 bits, or of several times as many. None: the input is of
        another kind, or cannot be divided so.
        """
        sums = []
        for header, group in _by_header(inputs):
            terms: list[str] = []
            pieces: list[tuple[str, int]] = []
            for entry in group:
                value = self._fixed(entry)
                if value is None:
                    return None
                pieces.append(value)
                if sum(width for _, width in pieces) % 16 == 0:
                    terms.append(_concatenated(pieces))
                    pieces = []
            if pieces:
                return None
            metadata = not header or self.unit.program.headers[header].metadata
            place = None if metadata else self.expressions.named(header)
            valid = "" if place is None else f"f[{self.expressions.slot(place, place.types.valid)}]"
            sums.append((valid, " + ".join(f"({t})" if "|" in t else t for t in terms)))
        return sums

    def _internet_checksum(self, name: str, sums: list[tuple[str, str]]) -> None:
        """Adding with end-around carry is arithmetic modulo 65535, where 2^16 is 1."""
        with self.out.block(f"def {name}(p, f):"):
            self.out.line("total = 0")
            for valid, text in sums:
                if valid:
                    with self.out.block(f"if {valid}:"):
                        self.out.line(f"total += {text}")
                else:
                    self.out.line(f"total += {text}")
            self.out.line("return 0xffff - (total % 0xffff or (0xffff if total else 0))")
        self.out.line()

    def _input(self, inputs: tuple[CalculationInput, ...]) -> None:
        """Statements that make `data`. Headers that are not valid are left out."""
        groups = _by_header(inputs)
        self.out.line("word = bits = 0")
        for header, group in groups:
            if header and not self.unit.program.headers[header].metadata:
                place = self.expressions.named(header)
                with self.out.block(f"if f[{self.expressions.slot(place, place.types.valid)}]:"):
                    self._group(group)
            else:
                self._group(group)
        self.out.line('data = (word << -bits % 8).to_bytes((bits + 7) // 8, "big")')
        if any(entry.payload for entry in inputs):
            self.out.line("data += p.data[p.at:]")

    def _group(self, group: list[CalculationInput]) -> None:
        """Neighbours of fixed width are put together in one expression."""
        fixed: list[tuple[str, int]] = []
        for entry in group:
            value = self._fixed(entry)
            if value is not None:
                fixed.append(value)
                continue
            self._append_fixed(fixed)
            fixed = []
            if entry.header:
                place = self.expressions.named(entry.header)
                self.out.line(f"piece = {self.headers.packed(place)}")
                self._append('int.from_bytes(piece, "big")', "8 * len(piece)")
            elif entry.field is not None:
                place, cell = self._cell(entry.field)
                text = self.expressions.field(place, cell, PlainScope()).text
                self._append(text, f"f[{self.expressions.slot(place, cell.bits)}]")
        self._append_fixed(fixed)

    def _cell(self, ref: FieldRef) -> tuple[Place, Cell]:
        found = self.expressions.place_of(ref, PlainScope())
        assert found is not None
        return found

    def _fixed(self, entry: CalculationInput) -> tuple[str, int] | None:
        """Source and width of an input whose width is known."""
        if entry.constant is not None:
            return hex(entry.constant[0]), entry.constant[1]
        if entry.field is None:
            return None
        place, cell = self._cell(entry.field)
        if cell.bits >= 0:
            return None
        low, high = field_bounds(cell.type)
        text = self.expressions.field(place, cell, PlainScope()).text
        return (text if low == 0 else f"({text} & {hex(high)})"), cell.type.width

    def _append_fixed(self, fixed: list[tuple[str, int]]) -> None:
        if fixed:
            self._append(_concatenated(fixed), str(sum(width for _, width in fixed)))

    def _append(self, value: str, bits: str) -> None:
        self.out.line(f"word = word << {bits} | {value}")
        self.out.line(f"bits += {bits}")

    def _checksums(self) -> None:
        with self.out.block("def verify_checksums(p, f):"):
            for checksum in self.unit.program.checksums:
                with at(f"checksum {checksum.name}"):
                    if checksum.verify:
                        self._verify(checksum)
            self.out.line("return True")
        self.out.line()
        with self.out.block("def update_checksums(p, f):"):
            for checksum in self.unit.program.checksums:
                with at(f"checksum {checksum.name}"):
                    if checksum.update:
                        self._update(checksum)
        self.out.line()

    def _condition(self, checksum: Checksum) -> str:
        return (
            "True" if checksum.condition is None else self.expressions.truth(checksum.condition, PlainScope())
        )

    def _verify(self, checksum: Checksum) -> None:
        place = self.expressions.named(checksum.target.header)
        valid = f"f[{self.expressions.slot(place, place.types.valid)}]"
        calculation = self.unit.object("calculation", checksum.calculation)
        value = self.expressions.data(checksum.target, PlainScope()).text
        with (
            self.out.block(f"if {valid} and {self._condition(checksum)}:"),
            self.out.block(f"if {calculation}(p, f) != {value}:"),
        ):
            self.out.line("return False")

    def _update(self, checksum: Checksum) -> None:
        calculation = self.unit.object("calculation", checksum.calculation)
        found = self.expressions.place_of(checksum.target, PlainScope())
        assert found is not None
        place, cell = found
        slot = self.expressions.slot(place, cell.offset)
        value = stored(Code(f"{calculation}(p, f)", 0), cell.type)
        with self.out.block(
            f"if {self._condition(checksum)}:" if checksum.condition is not None else "if True:"
        ):
            if cell.position >= 0:
                self.out.line(
                    f"f[{slot}] = words{cell.type.width}.replace(f[{slot}], {cell.position}, {value})"
                )
            else:
                self.out.line(f"f[{slot}] = {value}")


def _concatenated(pieces: list[tuple[str, int]]) -> str:
    """Source of numbers of known width put behind each other."""
    left = sum(width for _, width in pieces)
    terms = []
    for text, width in pieces:
        left -= width
        terms.append(f"{text} << {left}" if left else text)
    return " | ".join(terms)


def _by_header(inputs: tuple[CalculationInput, ...]) -> list[tuple[str, list[CalculationInput]]]:
    """Inputs in order, neighbours of one header together; "" for those of no header."""
    groups: list[tuple[str, list[CalculationInput]]] = []
    for entry in inputs:
        header = entry.header or (entry.field.header if entry.field is not None else "")
        if not groups or groups[-1][0] != header:
            groups.append((header, []))
        groups[-1][1].append(entry)
    return groups
