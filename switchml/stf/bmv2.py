"""BMv2's simple_switch, found on PATH or where $SWITCHML_BMV2 says, one process a script."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from typing_extensions import override

from switchml.p4runtime.entries import ActionCall, CounterValue, Match, MatchKind, MeterRates, TableEntry
from switchml.stf.bmv2_cli import Bmv2Error, RuntimeCli, end
from switchml.stf.bmv2_files import PacketFiles
from switchml.stf.language import Expect, Packet, Statement
from switchml.stf.program_names import DeclaredCounter, DeclaredTable
from switchml.stf.runner import ports_of
from switchml.stf.script_target import Frames, Target

_START_SECONDS = 30.0
_TAKE_SECONDS = 60.0
_ARRIVE_SECONDS = 10.0
_QUIET_SECONDS = 0.5
_POLL_SECONDS = 0.02
_LOWEST_PRIORITY = 1 << 24  # BMv2's smallest number wins


def find_bmv2(given: str = "") -> tuple[str, str]:
    """simple_switch and its CLI. given, $SWITCHML_BMV2: the folder they are in, or simple_switch itself.

    Raises:
        Bmv2Error: not found.
    """
    given = given or os.environ.get("SWITCHML_BMV2", "")
    folder = given if os.path.isdir(given) else os.path.dirname(given)
    search = os.pathsep.join([folder, os.environ.get("PATH", "")]) if folder else None
    switch = shutil.which(given) if given and not os.path.isdir(given) else None
    switch = switch or shutil.which("simple_switch", path=search)
    cli = shutil.which("simple_switch_CLI", path=search)
    if switch is None or cli is None:
        missing = "simple_switch" if switch is None else "simple_switch_CLI"
        raise Bmv2Error(f"{missing} is neither on PATH nor where SWITCHML_BMV2 says: install BMv2 or set it")
    return switch, cli


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@cache
def _options(switch: str) -> str:
    return subprocess.run([switch, "--help"], capture_output=True, text=True, timeout=_START_SECONDS).stdout


def own_notifications(switch: str, folder: Path) -> list[str]:
    """A socket of its own for BMv2's notifications, where it is built with them: its default is one for all on the host."""
    option = "--notifications-addr"
    return [option, f"ipc://{folder}/notifications.ipc"] if option in _options(switch) else []


class Bmv2Switch(Target):
    """A `Target`. The script is needed to know which ports there are and how many packets are to come.

    Args:
        capture: called with every frame and its time in microseconds, at the end, in the order of time.

    Raises:
        Bmv2Error: BMv2 is not installed or does not start.
    """

    def __init__(
        self,
        program: Path,
        script: Sequence[Statement],
        *,
        capture: Callable[[int, bytes], None] | None = None,
    ) -> None:
        switch, cli = find_bmv2()
        self._capture = capture
        self._sent: list[tuple[int, bytes]] = []
        self._settled = True
        self._last_port = -1
        self._coming = Counter(statement.port for statement in script if isinstance(statement, Packet))
        self._expected = Counter(statement.port for statement in script if isinstance(statement, Expect))
        self._handles: dict[tuple[str, frozenset[tuple[str, Match]], int], int] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="switchml-stf-")
        self._process: subprocess.Popen[bytes] | None = None
        self._cli: RuntimeCli | None = None
        folder = Path(self._folder.name)
        ports = sorted(ports_of(script))
        self._log = folder / "switch.log"
        self._files = PacketFiles(folder, ports, self._check_alive)
        try:
            self._start(switch, cli, program.resolve(), folder, set(ports) - set(self._coming))
        except BaseException:
            self.close()
            raise

    def _start(self, switch: str, cli: str, program: Path, folder: Path, silent: set[int]) -> None:
        port = _free_port()
        command = [
            switch, "--use-files", "0", *self._files.interfaces(), "--thrift-port", str(port),
            *own_notifications(switch, folder), "--log-level", "warn", str(program),
        ]  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        self._files.open(silent, deadline)
        while True:
            self._check_alive()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Bmv2Error(f"simple_switch did not answer within {_START_SECONDS:g} s") from None
                time.sleep(_POLL_SECONDS)
        self._cli = RuntimeCli([cli, "--thrift-port", str(port)])

    def _check_alive(self) -> None:
        if self._process is None or (status := self._process.poll()) is None:
            return
        lines = self._log.read_text(errors="replace").strip().splitlines()
        how = signal.Signals(-status).name if status < 0 else str(status)
        raise Bmv2Error(f"simple_switch has ended ({how}): {' / '.join(lines[:5]) or 'without a word'}")

    @override
    def packet(self, port: int, frame: bytes) -> None:
        self._sent.append((self._files.put(port, frame), frame))
        self._settled = False
        self._last_port = port
        self._coming[port] -= 1

    @override
    def wait(self, seconds: float) -> None:
        self._settle()
        time.sleep(seconds)

    @override
    def finish(self) -> Frames:
        self._settle()
        self._check_alive()
        received = self._files.received()
        if self._capture is not None:
            left = [record for records in received.values() for record in records]
            for moment, frame in sorted([*self._sent, *left], key=lambda record: record[0]):
                self._capture(moment, frame)
        return {port: [frame for _, frame in records] for port, records in received.items() if records}

    @override
    def close(self) -> None:
        if self._cli is not None:
            self._cli.close()
        if self._process is not None:
            end(self._process)
        self._files.close()
        self._folder.cleanup()

    def _settle(self) -> None:
        """Hand over the packets, and wait until what is expected has come and nothing more comes."""
        if self._settled:
            return
        ended = {port for port, count in self._coming.items() if count == 0}
        coming = self._coming.keys() - ended
        if coming - {self._last_port}:
            raise Bmv2Error(
                "BMv2 reads the ports' files one after the other, so between packets on several ports nothing can be "
                "done: put it before the first or after the last packet"
            )
        self._files.flush(time.monotonic() + _TAKE_SECONDS, ended)
        deadline = time.monotonic() + _ARRIVE_SECONDS
        changed, before = time.monotonic(), -1
        while True:
            counts = {port: len(records) for port, records in self._files.received().items()}
            if (now := sum(counts.values())) != before:
                changed, before = time.monotonic(), now
            complete = bool(coming) or all(
                counts.get(port, 0) >= count for port, count in self._expected.items()
            )
            # A packet may end it, and then nothing more comes.
            self._check_alive()
            quiet = time.monotonic() - changed > _QUIET_SECONDS
            if quiet and (complete or time.monotonic() > deadline):
                self._settled = True
                return
            time.sleep(_POLL_SECONDS)

    def _command(self, command: str) -> str:
        assert self._cli is not None
        self._settle()
        return self._cli.run(command)

    @override
    def add(self, table: DeclaredTable, entry: TableEntry) -> None:
        if not isinstance(entry.action, ActionCall):
            raise Bmv2Error(f"table {table.name}: only entries with an action of their own can be added")
        key = " ".join(_cli_match(entry.key.get(f.name), f.kind, f.width) for f in table.key)
        arguments = " ".join(map(str, entry.action.arguments))
        priority = f" {_LOWEST_PRIORITY - entry.priority}" if table.prioritised else ""
        answer = self._command(f"table_add {table.name} {entry.action.name} {key} => {arguments}{priority}")
        self._handles[table.name, frozenset(entry.key.items()), entry.priority] = _number_after(
            "handle", answer
        )

    def _handle(self, table: str, key: Mapping[str, Match], priority: int) -> int:
        found = self._handles.get((table, frozenset(key.items()), priority))
        if found is None:
            raise Bmv2Error(f"table {table} has no such entry")
        return found

    @override
    def remove(self, table: DeclaredTable, key: Mapping[str, Match], priority: int) -> None:
        self._command(f"table_delete {table.name} {self._handle(table.name, key, priority)}")
        del self._handles[table.name, frozenset(key.items()), priority]

    @override
    def clear(self, table: DeclaredTable) -> None:
        self._command(f"table_clear {table.name}")

    @override
    def set_default(self, table: DeclaredTable, action: ActionCall) -> None:
        self._command(f"table_set_default {table.name} {action.name} {' '.join(map(str, action.arguments))}")

    @override
    def replicate(self, verb: str, arguments: Sequence[int]) -> str:
        answer = self._command(f"{verb} {' '.join(map(str, arguments))}")
        return answer if verb == "mirroring_get" else ""

    @override
    def read_counter(self, counter: DeclaredCounter, index: int) -> CounterValue:
        answer = self._command(f"counter_read {counter.name} {index}")
        found = re.search(r"\((\d+) bytes, (\d+) packets\)", answer)
        if found is None:
            raise Bmv2Error(f"cannot read BMv2's answer {answer!r}")
        return CounterValue(int(found[2]), int(found[1]))

    @override
    def read_direct_counter(
        self, counter: DeclaredCounter, key: Mapping[str, Match], priority: int
    ) -> CounterValue:
        return self.read_counter(counter, self._handle(counter.table, key, priority))

    @override
    def write_counter(self, counter: DeclaredCounter, index: int | None, value: CounterValue) -> None:
        if index is None:
            self._command(f"counter_reset {counter.name}")
        else:
            self._command(f"counter_write {counter.name} {index} {value.packets} {value.bytes}")

    @override
    def read_register(self, register: str, index: int | None) -> Sequence[int]:
        answer = self._command(f"register_read {register}{'' if index is None else f' {index}'}")
        return [int(number) for number in answer.rpartition("=")[2].split(",")]

    @override
    def write_register(self, register: str, index: int | None, value: int) -> None:
        if index is not None:
            self._command(f"register_write {register} {index} {value}")
            return
        self._command(f"register_reset {register}")
        if value:
            raise Bmv2Error("BMv2 resets a whole register to 0 only")

    @override
    def set_meter(self, meter: str, index: int, rates: MeterRates) -> None:
        committed, peak = (
            f"{rate / 1e6:.9f}:{burst}"
            for rate, burst in ((rates.cir, rates.cburst), (rates.pir, rates.pburst))
        )
        self._command(f"meter_set_rates {meter} {index} {committed} {peak}")

    @override
    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        answer = self._command(f"meter_get_rates {meter} {index}")
        found = re.findall(r"info rate = ([\d.e+-]+), burst size = (\d+)", answer)
        if len(found) != 2:
            return None
        (cir, cburst), (pir, pburst) = ((round(float(rate) * 1e6), int(burst)) for rate, burst in found)
        return MeterRates(cir, cburst, pir, pburst)


def _number_after(word: str, answer: str) -> int:
    found = re.search(rf"{word} (\d+)", answer)
    if found is None:
        raise Bmv2Error(f"cannot read BMv2's answer {answer!r}")
    return int(found[1])


def _cli_match(match: Match | None, kind: MatchKind, width: int) -> str:
    everything = (1 << width) - 1
    if kind is MatchKind.EXACT:
        return str(match.value if match else 0)
    if kind is MatchKind.LPM:
        return f"{match.value}/{match.extra}" if match else "0/0"
    if kind is MatchKind.RANGE:
        return f"{match.value}->{match.extra}" if match else f"0->{everything}"
    if kind is MatchKind.OPTIONAL:
        return f"{match.value}&&&{everything}" if match else "0&&&0"
    return f"{match.value}&&&{match.extra}" if match else "0&&&0"
