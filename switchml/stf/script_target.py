"""What a script runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from switchml.p4runtime.entries import ActionCall, CounterValue, Match, MeterRates, TableEntry
from switchml.stf.program_names import DeclaredCounter, DeclaredTable

Frames = Mapping[int, Sequence[bytes]]
"""What left, by port, in order."""


class Target(Protocol):
    """A switch with the program loaded. All calls raise `SwitchMLError` for what cannot be done."""

    def packet(self, port: int, frame: bytes) -> None:
        """A frame comes in."""

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass."""

    def finish(self) -> Frames:
        """Take no more packets; what left for the ports of the script, once the switch has come to rest."""

    def close(self) -> None:
        """End the switch. Idempotent."""

    def add(self, table: DeclaredTable, entry: TableEntry) -> None:
        """Add an entry."""

    def remove(self, table: DeclaredTable, key: Mapping[str, Match], priority: int) -> None:
        """Remove the entry that has this key and priority."""

    def clear(self, table: DeclaredTable) -> None:
        """Remove all entries that are not the program's own."""

    def set_default(self, table: DeclaredTable, action: ActionCall) -> None:
        """Set a table's default action."""

    def replicate(self, verb: str, arguments: Sequence[int]) -> str:
        """A verb of packet replication: mc_*, mirroring_*. What it has to tell, if anything."""

    def read_counter(self, counter: DeclaredCounter, index: int) -> CounterValue:
        """A counter's cell."""

    def read_direct_counter(
        self, counter: DeclaredCounter, key: Mapping[str, Match], priority: int
    ) -> CounterValue:
        """The counter of the entry that has this key and priority."""

    def write_counter(self, counter: DeclaredCounter, index: int | None, value: CounterValue) -> None:
        """None writes all."""

    def read_register(self, register: str, index: int | None) -> Sequence[int]:
        """A register's cell; None reads all."""

    def write_register(self, register: str, index: int | None, value: int) -> None:
        """Write a register's cell; None writes all."""

    def set_meter(self, meter: str, index: int, rates: MeterRates) -> None:
        """Give a meter's cell rates."""

    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        """The rates of a meter's cell."""
