"""A script on a target, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from switchml.errors import SwitchMLError
from switchml.p4runtime.entries import CounterValue, TableEntry
from switchml.stf.binding import BindingError, EntryKey, bind_call, bind_key, bind_rates
from switchml.stf.comparison import Difference, compare
from switchml.stf.language import (
    Add,
    CheckCounter,
    CheckRegister,
    Direct,
    Expect,
    NoPacket,
    Packet,
    Remove,
    SetDefault,
    Statement,
    StfError,
    Wait,
    integer,
)
from switchml.stf.program_names import DeclaredCounter, Names
from switchml.stf.script_target import Frames, Target


@dataclass(frozen=True)
class Failure:
    """What a script expected and did not get.

    Attributes:
        line: of the statement that was not met, 0 for a packet that no statement expects.
    """

    line: int
    message: str
    difference: Difference | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        described: dict[str, Any] = {"line": self.line, "message": self.message}
        if self.difference is not None:
            described |= {
                "expected": self.difference.expected,
                "got": self.difference.got,
                "differing_bytes": list(self.difference.bytes),
            }
        return described


@dataclass
class Report:
    """What came of a script.

    Attributes:
        notes: what the script asked to be shown (register_read, ...) and what it left unchecked, as (line, text).
    """

    packets_in: int = 0
    packets_out: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all went as the script says."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "passed": self.passed,
            "packets_in": self.packets_in,
            "packets_out": self.packets_out,
            "failures": [failure.as_dict() for failure in self.failures],
            "notes": [{"line": line, "text": text} for line, text in self.notes],
        }


def ports_of(script: Sequence[Statement]) -> set[int]:
    """The ports that a script speaks of: only these are checked."""
    return {
        statement.port
        for statement in script
        if isinstance(statement, Packet | Expect | NoPacket) and statement.port is not None
    }


def run_script(script: Sequence[Statement], names: Names, target: Target, where: str = "script") -> Report:
    """Play the statements in order and compare what left with what was expected, port by port, in order.

    Raises:
        StfError: a statement does not fit the program, or the target does not take it.
    """
    return _Run(script, names, target, where).play()


class _Run:
    def __init__(self, script: Sequence[Statement], names: Names, target: Target, where: str) -> None:
        self._script, self._names, self._target, self._where = script, names, target, where
        self._handles: dict[str, EntryKey] = {}
        self.report = Report()
        self._carry_out: dict[type[Statement], Callable[[Any], None]] = {
            Packet: self._packet, Wait: self._wait, Add: self._add, SetDefault: self._set_default, Remove: self._remove,
            CheckCounter: self._check_counter, CheckRegister: self._check_register, Direct: self._direct,
        }  # fmt: skip

    def play(self) -> Report:
        for statement in self._script:
            carry_out = self._carry_out.get(type(statement))
            if carry_out is None:
                continue  # expectations are looked at in the end
            try:
                carry_out(statement)
            except StfError:
                raise
            except SwitchMLError as error:
                raise StfError(self._where, statement.line, str(error)) from error
        try:
            left = self._target.finish()
        except StfError:
            raise
        except SwitchMLError as error:
            # What went wrong after the last packet has to do with it or with one before.
            sent = [statement.line for statement in self._script if isinstance(statement, Packet)]
            raise StfError(self._where, sent[-1] if sent else 0, str(error)) from error
        self.report.packets_out = sum(len(frames) for frames in left.values())
        self._compare(left)
        self.report.failures.sort(key=lambda failure: failure.line or len(self._script) + 10**6)
        return self.report

    def _packet(self, statement: Packet) -> None:
        self.report.packets_in += 1
        self._target.packet(statement.port, statement.data)

    def _wait(self, statement: Wait) -> None:
        self._target.wait(statement.seconds)

    def _add(self, statement: Add) -> None:
        table = self._names.table(statement.table)
        entry = bind_key(table, statement.key, statement.priority)
        self._target.add(table, TableEntry(entry.key, bind_call(table, statement.action), entry.priority))
        if statement.handle:
            self._handles[statement.handle.lstrip("$")] = entry

    def _set_default(self, statement: SetDefault) -> None:
        table = self._names.table(statement.table)
        self._target.set_default(table, bind_call(table, statement.action))

    def _remove(self, statement: Remove) -> None:
        if statement.everything:
            tables = [self._names.table(statement.name)] if statement.name else self._names.tables.values()
            for table in tables:
                self._target.clear(table)
            return
        if statement.key:
            entry = bind_key(self._names.table(statement.name), statement.key, statement.priority)
        else:
            entry = self._entry(statement.name)
        self._target.remove(*entry)

    def _entry(self, handle: str) -> EntryKey:
        found = self._handles.get(handle.lstrip("$"))
        if found is None:
            raise BindingError(f"no entry was added as {handle!r}: add ... = {handle.lstrip('$')} names one")
        return found

    def _read_counter(self, counter: DeclaredCounter, index: str) -> CounterValue:
        if not counter.table:
            if not index[0].isdigit():
                raise BindingError(
                    f"counter {counter.name} has {counter.size} numbered cells: {index!r} is no number"
                )
            return self._target.read_counter(counter, integer(index))
        entry = self._entry(index)
        if entry.table.name != counter.table:
            raise BindingError(
                f"{index!r} is an entry of {entry.table.name}, {counter.name} counts {counter.table}"
            )
        return self._target.read_direct_counter(counter, entry.key, entry.priority)

    def _check_counter(self, statement: CheckCounter) -> None:
        counter = self._names.counter(statement.counter)
        value = self._read_counter(counter, statement.index)
        shown = f"{counter.name}({statement.index}): {value.packets} packets, {value.bytes} bytes"
        condition = statement.condition
        if condition is None:
            self._note(statement, shown)
        elif not condition.holds(value.packets if condition.quantity == "packets" else value.bytes):
            self._fail(statement, f"{shown}; {condition} expected")

    def _check_register(self, statement: CheckRegister) -> None:
        name = self._names.register(statement.register)
        value = self._target.read_register(name, statement.index)[0]
        if not statement.condition.holds(value):
            self._fail(statement, f"{name}({statement.index}) is {value}; {statement.condition} expected")

    def _direct(self, statement: Direct) -> None:
        verb, words = statement.verb, statement.arguments
        if verb.startswith(("mc_", "mirroring_")):
            answer = self._target.replicate(verb, [integer(word) for word in words])
            if answer:
                self._note(statement, answer)
        elif verb.startswith("counter_"):
            self._counter_verb(statement, self._names.counter(statement.name))
        elif verb.startswith("register_"):
            self._register_verb(statement, self._names.register(statement.name))
        else:
            self._meter_verb(statement, self._names.meter(statement.name))

    def _counter_verb(self, statement: Direct, counter: DeclaredCounter) -> None:
        numbers = [integer(word) for word in statement.arguments]
        if statement.verb == "counter_reset":
            self._target.write_counter(counter, None, CounterValue())
        elif statement.verb == "counter_write":
            self._target.write_counter(counter, numbers[0], CounterValue(*numbers[1:]))
        else:
            value = self._read_counter(counter, statement.arguments[0])
            self._note(
                statement, f"{counter.name}({numbers[0]}): {value.packets} packets, {value.bytes} bytes"
            )

    def _register_verb(self, statement: Direct, register: str) -> None:
        numbers = [integer(word) for word in statement.arguments]
        if statement.verb == "register_reset":
            self._target.write_register(register, None, 0)
        elif statement.verb == "register_write":
            self._target.write_register(register, *numbers)
        else:
            values = self._target.read_register(register, numbers[0] if numbers else None)
            place = f"({numbers[0]})" if numbers else ""
            self._note(statement, f"{register}{place} = {', '.join(map(str, values))}")

    def _meter_verb(self, statement: Direct, meter: str) -> None:
        words = statement.arguments
        if statement.verb == "meter_array_set_rates":
            for index in range(self._names.meters[meter]):
                self._target.set_meter(meter, index, bind_rates(words))
        elif statement.verb == "meter_set_rates":
            self._target.set_meter(meter, integer(words[0]), bind_rates(words[1:]))
        else:
            self._note(statement, f"{meter}({words[0]}): {self._target.get_meter(meter, integer(words[0]))}")

    def _note(self, statement: Statement, text: str) -> None:
        self.report.notes.append((statement.line, text))

    def _fail(self, statement: Statement, message: str, difference: Difference | None = None) -> None:
        self.report.failures.append(Failure(statement.line, message, difference))

    def _compare(self, left: Frames) -> None:
        expected: dict[int, list[Expect]] = {port: [] for port in ports_of(self._script)}
        nothing = [statement for statement in self._script if isinstance(statement, NoPacket)]
        for statement in self._script:
            if isinstance(statement, Expect):
                expected[statement.port].append(statement)
        for port, wanted in sorted(expected.items()):
            self._compare_port(port, wanted, left.get(port, ()), nothing)
        for port in sorted(left.keys() - expected.keys()):
            everywhere = next((statement for statement in nothing if statement.port is None), None)
            surplus = f"{len(left[port])} packets left through port {port}"
            if everywhere is not None:
                self._fail(everywhere, surplus, Difference("", None, left[port][0].hex().upper()))
            else:
                self.report.notes.append((0, f"{surplus}, of which the script does not speak"))

    def _compare_port(
        self, port: int, wanted: Sequence[Expect], frames: Sequence[bytes], nothing: Sequence[NoPacket]
    ) -> None:
        for number, (statement, frame) in enumerate(zip(wanted, frames, strict=False), 1):
            difference = compare(statement.pattern, statement.exact, frame)
            if difference is not None:
                self._fail(statement, f"packet {number} on port {port}: {difference.reason}", difference)
        for number, statement in enumerate(wanted[len(frames) :], len(frames) + 1):
            message = f"packet {number} on port {port} did not come"
            self._fail(statement, message, Difference("", statement.pattern or "", None))
        forbidden = next((s for s in nothing if s.port in (None, port)), None)
        for number, frame in enumerate(frames[len(wanted) :], len(wanted) + 1):
            message = f"packet {number} on port {port} was not expected"
            line = forbidden.line if forbidden is not None and not wanted else 0
            self.report.failures.append(Failure(line, message, Difference("", None, frame.hex().upper())))
