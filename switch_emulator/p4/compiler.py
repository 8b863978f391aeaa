"""Translates a loaded program into Python functions, once. The source is meant to be read (`CompiledProgram.source`):
slots have names there, which are replaced by their numbers before it is compiled.
"""

from __future__ import annotations

import ast
import builtins
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4 import support
from switchml.switch_emulator.p4.action_profiles import ActionResolver, Profile
from switchml.switch_emulator.p4.action_scope import ActionScope
from switchml.switch_emulator.p4.calculation_code import CalculationWriter
from switchml.switch_emulator.p4.control_code import ActionWriter, PipelineWriter, TableWriter
from switchml.switch_emulator.p4.expression_code import ExpressionWriter
from switchml.switch_emulator.p4.hashes import ALGORITHMS
from switchml.switch_emulator.p4.header_code import HeaderWriter
from switchml.switch_emulator.p4.layout import Layout, layout_program
from switchml.switch_emulator.p4.match import ValueSet
from switchml.switch_emulator.p4.match_tables import Table
from switchml.switch_emulator.p4.names import Names
from switchml.switch_emulator.p4.packet import Packet, ParserError, Slots
from switchml.switch_emulator.p4.parser_code import ParserWriter
from switchml.switch_emulator.p4.places import at
from switchml.switch_emulator.p4.primitive_code import PrimitiveWriter
from switchml.switch_emulator.p4.program_model import Program
from switchml.switch_emulator.p4.registers import Cells, ColumnCells, ListCells
from switchml.switch_emulator.p4.repetition import Bank, RepetitionFinder, metadata_runs
from switchml.switch_emulator.p4.runs import RUN_TYPES
from switchml.switch_emulator.p4.source_writer import SourceWriter
from switchml.switch_emulator.p4.stateful import CounterArray, MeterArray
from switchml.switch_emulator.p4.unit import Unit

Step = Callable[[Packet, Slots], Any]

_BUILTINS = ("bool", "hex", "int", "len", "max", "min", "range", "str")
_SUPPORT = (
    "StackOutOfBoundsError",
    "check",
    "endless",
    "fail",
    "last_index",
    "log_message",
    "pop_front",
    "push_front",
    "same_header",
    "show_array",
    "show_header",
    "show_key",
    "signed_field",
)


_NEVER_WRITTEN = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.Lambda, ast.Global, ast.Nonlocal, ast.With)


@dataclass
class CompiledProgram:
    """The functions of a program and the state they work on.

    Attributes:
        fresh: a packet's slots before parsing.
    """

    program: Program
    layout: Layout
    source: str
    fresh: Slots
    parse: Step
    verify_checksums: Callable[[Packet, Slots], bool]
    ingress: Step
    egress: Step
    deparse: Callable[[Packet, Slots], bytes]
    tables: dict[str, Table]
    profiles: dict[str, Profile]
    registers: dict[str, Cells]
    counters: dict[str, CounterArray]
    meters: dict[str, MeterArray]
    value_sets: dict[str, ValueSet]
    hashes: dict[str, str]
    namespace: dict[str, Any]


@dataclass(frozen=True)
class _Translation:
    """What does not depend on a switch.

    Attributes:
        structs: formats by name.
    """

    unit: Unit
    banks: list[Bank]
    structs: dict[str, str]
    source: str
    code: CodeType


def compile_program(
    program: Program,
    *,
    rng: random.Random,
    clock: Callable[[], int],
    drop_port: int,
    trace: Callable[[str], None] | None = None,
) -> CompiledProgram:
    """A program is translated once, however many switches run it; each has state of its own.

    Args:
        program: from load_program.
        rng: random numbers of the program.
        clock: microseconds since the switch started.
        drop_port: the egress port that drops a packet.
        trace: gets a line for everything that happens; None = the functions have no trace in them.

    Raises:
        UnsupportedProgramError: the program uses something that this target has not got.
    """
    variant = (drop_port, trace is not None)
    if variant not in program.translations:
        program.translations[variant] = _translate(program, *variant)
    translation: _Translation = program.translations[variant]
    namespace = _namespace(translation.unit, translation.structs, rng, clock, trace)
    with at("the translation", outermost=True):
        exec(translation.code, namespace)
    return _bind(translation, namespace, rng, clock)


def _translate(program: Program, drop_port: int, tracing: bool) -> _Translation:
    names = _reserved_names()
    with at("headers and metadata"):
        layout = layout_program(
            program, names, metadata_runs(program, layout_program(program, _reserved_names()))
        )
    unit = Unit(program, layout, names, SourceWriter(), tracing, drop_port)
    finder = RepetitionFinder(program, layout)
    bodies = {}
    for ident, action in program.action_by_id.items():
        with at(f"action {action.name}"):
            bodies[ident] = finder.body(action)
    unit.columns = finder.columns
    with at("the translation", outermost=True):
        source, structs = _write(unit, bodies)
        code = compile(_with_numbers(source, layout), "<P4 program>", "exec")
    return _Translation(unit, finder.banks, structs, source, code)


def _reserved_names() -> Names:
    names = Names()
    for name in (
        *_SUPPORT, "struct", "randint", "getrandbits", "trace", "clock", "fresh", "describe", "error_names", "ParserError",
        "at", "base", "bits", "call", "data", "entry", "hit", "action", "i", "k", "key", "length", "n", "parts", "piece",
        "skip", "state", "step", "total", "truth", "whole", "word", "work", "parse", "ingress", "egress", "deparse",
        "verify_checksums",
        "update_checksums", *(f"words{width}" for width in RUN_TYPES), *(f"x{i}" for i in range(64)),
        *(f"k{i}" for i in range(64)), *(f"lane_{i}" for i in range(64)), *(f"array_{i}" for i in range(64)),
        *(f"bank_{i}" for i in range(64)),
    ):  # fmt: skip
        names.reserve(name)
    return names


def _write(unit: Unit, bodies: Mapping[int, Any]) -> tuple[str, dict[str, str]]:
    program, out = unit.program, unit.out
    for name in program.tables:
        unit.object("table", name)
    for kind, items in (
        ("register", program.registers),
        ("meter", program.meters),
        ("value_set", program.value_sets),
    ):
        for name in items:
            unit.object(kind, name)
    expressions = ExpressionWriter(unit)
    headers = HeaderWriter(unit)
    primitives = PrimitiveWriter(unit, expressions)
    CalculationWriter(unit, expressions, headers).write()
    actions = ActionWriter(unit, primitives, bodies)
    actions.write()
    ParserWriter(unit, expressions, primitives, headers).write()
    pipelines = PipelineWriter(unit, expressions, actions, TableWriter(unit, expressions))
    pipelines.write(program.ingress, "ingress")
    pipelines.write(program.egress, "egress")
    with at("deparser"), out.block("def deparse(p, f):"):
        out.line("update_checksums(p, f)")
        scope = ActionScope(unit)
        for item in program.deparser.primitives:
            primitives.statement(item, scope)
        scope.close()
        out.line("parts = []")
        for name in program.deparser.order:
            place = expressions.named(name)
            with out.block(f"if f[{expressions.slot(place, place.types.valid)}]:"):
                out.line(f"parts.append({headers.packed(place)})")
        out.line("parts.append(p.data[p.at:])")
        out.line('return b"".join(parts)')
    return out.text(), headers.structs


def _namespace(
    unit: Unit,
    structs: dict[str, str],
    rng: random.Random,
    clock: Callable[[], int],
    trace: Callable[[str], None] | None,
) -> dict[str, Any]:
    # What the source calls, and no other builtin: it is made from a program that anybody may have written.
    namespace: dict[str, Any] = {"__builtins__": {name: getattr(builtins, name) for name in _BUILTINS}}
    namespace |= {name: getattr(support, name) for name in _SUPPORT}
    namespace |= {f"words{width}": kind for width, kind in RUN_TYPES.items()}
    namespace |= {name: struct.Struct(text) for name, text in structs.items()}
    namespace |= {
        "ParserError": ParserError,
        "clock": clock,
        "describe": support.describe,
        "error_names": {value: name for name, value in unit.program.errors.items()},
        "fresh": unit.layout.fresh,
        "getrandbits": rng.getrandbits,
        "np": np,
        "randint": rng.randint,
        "trace": trace,
        "work": [0],
    }
    return namespace


def _bind(
    translation: _Translation, namespace: dict[str, Any], rng: random.Random, clock: Callable[[], int]
) -> CompiledProgram:
    """Makes the objects that the source names."""
    unit, source = translation.unit, translation.source
    program = unit.program
    arrays = {
        bank.name: np.zeros((bank.size, len(bank.registers)), f"u{bank.width // 8}")
        for bank in translation.banks
    }
    namespace |= arrays
    registers: dict[str, Cells] = {}
    for name, register in program.registers.items():
        column = unit.columns.get(name)
        if column is not None:
            registers[name] = ColumnCells(arrays[column.bank], column.column)
        else:
            cells = [0] * register.size
            namespace[unit.objects["register", name]] = cells
            registers[name] = ListCells(cells)
    counters = {name: CounterArray(c.size) for name, c in program.counters.items() if not c.table}
    meters = {name: MeterArray(m.size, m.unit, clock) for name, m in program.meters.items() if not m.table}
    value_sets = {name: ValueSet() for name in program.value_sets}
    # Those without a name are written where they are called, and no table offers them.
    functions = dict.fromkeys(program.action_by_id, _nothing)
    functions |= {ident: namespace[name] for ident, name in unit.actions.items()}
    resolver = ActionResolver(program, functions)
    profiles = {name: Profile(info, resolver) for name, info in program.profiles.items()}
    tables = {}
    for name, info in program.tables.items():
        with at(f"table {name}"):
            tables[name] = Table(info, resolver, profiles.get(info.profile), _nothing, clock)
    for name, array in counters.items():
        namespace[unit.object("counter packets", f"{name} packets")] = array.packets
        namespace[unit.object("counter bytes", f"{name} bytes")] = array.bytes
    namespace |= {unit.object("find", f"find in {name}"): table.find for name, table in tables.items()}
    for kind, items in (
        ("meter", meters),
        ("value_set", value_sets),
        ("table", tables),
    ):
        for name, item in items.items():
            namespace[unit.objects[kind, name]] = item
    hashes = {}
    for (kind, name), symbol in unit.objects.items():
        if kind == "hash":
            full_name, _, algorithm = name.rpartition(" ")
            namespace[symbol] = ALGORITHMS[algorithm](rng)
            hashes[full_name] = symbol
    return CompiledProgram(
        program, unit.layout, source, list(unit.layout.fresh), namespace["parse"], namespace["verify_checksums"],
        namespace["ingress"], namespace["egress"], namespace["deparse"], tables, profiles, registers, counters, meters,
        value_sets, hashes, namespace,
    )  # fmt: skip


def _nothing(p: Packet, f: Slots, *arguments: int) -> None:
    pass


def _with_numbers(source: str, layout: Layout) -> ast.Module:
    """The source with every slot's name replaced by its number. What no writer writes is refused: a second wall behind `repr`
    and `identifier`.
    """
    slots = {symbol: slot for slot, symbol in layout.symbols.items()}
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        # Parentheses inside each other, mostly: Python takes two hundred.
        raise UnsupportedProgramError(f"the translation is no Python: {error}{_in(source, error)}") from error
    for node in ast.walk(tree):
        if isinstance(node, _NEVER_WRITTEN) or (
            isinstance(node, ast.Attribute) and node.attr.startswith("_")
        ):
            raise UnsupportedProgramError(f"the translation has a {type(node).__name__}, which none has")
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.Name):
                setattr(node, name, _numbered(value, slots))
            elif isinstance(value, list):
                value[:] = [_numbered(item, slots) if isinstance(item, ast.Name) else item for item in value]
    return tree


def _numbered(name: ast.Name, slots: Mapping[str, int]) -> ast.expr:
    slot = slots.get(name.id)
    return name if slot is None else ast.copy_location(ast.Constant(slot), name)


def _in(source: str, error: SyntaxError) -> str:
    """Which function of the source the error is in."""
    for line in reversed(source.splitlines()[: error.lineno or 0]):
        if line.startswith("def "):
            return f", in {line[4:].partition('(')[0]}"
    return ""
