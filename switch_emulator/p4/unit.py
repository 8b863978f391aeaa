"""What all writers of generated source share: the program, its layout and the names of its objects."""

from __future__ import annotations

from dataclasses import dataclass, field

from switchml.switch_emulator.p4.layout import Layout
from switchml.switch_emulator.p4.names import Names
from switchml.switch_emulator.p4.program_model import Program, SourceInfo
from switchml.switch_emulator.p4.source_writer import SourceWriter


@dataclass(frozen=True)
class BankColumn:
    """Registers of equal shape are columns of one two-dimensional array: bank[index, column]."""

    bank: str
    column: int


@dataclass
class Unit:
    """A translation on its way.

    Attributes:
        objects: name in the generated source of every table, register, counter, ... by (kind, full name).
        columns: of the registers that are kept in a bank.
        tracing: write calls of `trace` into the source.
    """

    program: Program
    layout: Layout
    names: Names
    out: SourceWriter
    tracing: bool = False
    drop_port: int = 511
    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    actions: dict[int, str] = field(default_factory=dict)
    columns: dict[str, BankColumn] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()

    def object(self, kind: str, name: str) -> str:
        """Name of an object of the program in the generated source."""
        if (kind, name) not in self.objects:
            self.objects[kind, name] = self.names.new(name)
        return self.objects[kind, name]


def comment(source: SourceInfo | None) -> str:
    """What the P4 source says, for a comment in the generated one."""
    if source is None or not source.fragment:
        return ""
    fragment = source.fragment if len(source.fragment) <= 70 else source.fragment[:67] + "..."
    return f"{source.place}: {fragment}"
