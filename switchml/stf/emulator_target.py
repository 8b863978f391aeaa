"""The P4 target of the emulator, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from typing_extensions import override

from switchml.p4runtime.entries import ActionCall, CounterValue, Match, MeterRates, TableEntry
from switchml.stf.multicast_nodes import Replication
from switchml.stf.program_names import DeclaredCounter, DeclaredTable
from switchml.stf.script_target import Frames, Target
from switchml.switch_emulator.runtime import Runtime

_PACKET_US = 10
_START_US = 1_000_000


class Clock:
    """Microseconds since the switch started: 10 a packet, and what a script waits. So a run repeats exactly."""

    def __init__(self) -> None:
        self.now = _START_US

    def __call__(self) -> int:
        """The time now, in microseconds."""
        return self.now


class EmulatorSwitch(Target):
    """A `Target` over any runtime that takes frames one by one.

    process: (port, frame) -> what leaves, in order. capture: called with every frame, in and out, and the time in us.
    """

    def __init__(
        self,
        runtime: Runtime,
        process: Callable[[int, bytes], Sequence[tuple[int, bytes]]],
        *,
        clock: Clock | None = None,
        capture: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._runtime, self._process = runtime, process
        self._clock = clock or Clock()
        self._capture = capture or (lambda time, frame: None)
        self._replication = Replication(runtime)
        self._left: dict[int, list[bytes]] = {}

    @override
    def packet(self, port: int, frame: bytes) -> None:
        self._clock.now += _PACKET_US
        self._capture(self._clock.now, frame)
        for out_port, out in self._process(port, frame):
            self._left.setdefault(out_port, []).append(out)
            self._capture(self._clock.now, out)

    @override
    def wait(self, seconds: float) -> None:
        self._clock.now += int(seconds * 1e6)

    @override
    def finish(self) -> Frames:
        return self._left

    @override
    def close(self) -> None:
        pass

    @override
    def add(self, table: DeclaredTable, entry: TableEntry) -> None:
        self._runtime.insert(table.name, entry)

    @override
    def remove(self, table: DeclaredTable, key: Mapping[str, Match], priority: int) -> None:
        self._runtime.delete(table.name, key, priority)

    @override
    def clear(self, table: DeclaredTable) -> None:
        for entry in list(self._runtime.entries(table.name)):
            self._runtime.delete(table.name, entry.key, entry.priority)

    @override
    def set_default(self, table: DeclaredTable, action: ActionCall) -> None:
        self._runtime.set_default(table.name, action)

    @override
    def replicate(self, verb: str, arguments: Sequence[int]) -> str:
        return self._replication.apply(verb, arguments)

    @override
    def read_counter(self, counter: DeclaredCounter, index: int) -> CounterValue:
        return self._runtime.read_counter(counter.name, index)[0]

    @override
    def read_direct_counter(
        self, counter: DeclaredCounter, key: Mapping[str, Match], priority: int
    ) -> CounterValue:
        return self._runtime.read_direct_counter(counter.table, key, priority)

    @override
    def write_counter(self, counter: DeclaredCounter, index: int | None, value: CounterValue) -> None:
        for number in range(counter.size) if index is None else (index,):
            self._runtime.write_counter(counter.name, number, value)

    @override
    def read_register(self, register: str, index: int | None) -> Sequence[int]:
        return self._runtime.read_register(register, index)

    @override
    def write_register(self, register: str, index: int | None, value: int) -> None:
        self._runtime.write_register(register, index, value)

    @override
    def set_meter(self, meter: str, index: int, rates: MeterRates) -> None:
        self._runtime.set_meter(meter, index, rates)

    @override
    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        return self._runtime.get_meter(meter, index)
