"""The targets of the suite, all as `Machine`: frames in, frames out, and the tables and state of our P4 program."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from slot_switch import SLOTS

from switchml.p4runtime.entries import ActionCall, CounterValue, Match, MatchKind, TableEntry
from switchml.packets.ethernet import checksum
from switchml.stf.program_names import Names, load_names
from switchml.switch_emulator.runtime import Runtime

ROOT = Path(__file__).parents[2]
PROGRAMS = {elements: ROOT / "p4" / "build" / f"switchml_{elements}.json" for elements in (64, 256)}
_SLOT_SWITCH = Path(__file__).with_name("slot_switch.py")
_SECONDS = 30.0


class Machine(Protocol):
    """What a target gives the runner: its runtime, and packets one by one."""

    runtime: Any

    def process(self, port: int, frame: bytes) -> Sequence[tuple[int, bytes]]: ...
    def renew(self) -> None:
        """Begin again: no entries, no groups, zeros everywhere."""

    def read_cells(self, registers: Sequence[str], cells: Sequence[int]) -> dict[str, list[int]]:
        """The same cells of several registers."""

    def close(self) -> None: ...


def read_cells(runtime: Runtime, registers: Sequence[str], cells: Sequence[int]) -> dict[str, list[int]]:
    """`Machine.read_cells` of a runtime."""
    return {name: [runtime.read_register(name, cell)[0] for cell in cells] for name in registers}


def empty(runtime: Runtime, names: Names) -> None:
    """Take everything back that a control plane and packets have brought into a P4 program."""
    for table in names.tables:
        for entry in list(runtime.entries(table)):
            runtime.delete(table, entry.key, entry.priority)
    for group in list(runtime.multicast_groups()):
        runtime.set_multicast_group(group, None)
    for register in names.registers:
        runtime.write_register(register, None, 0)
    for counter in names.counters.values():
        if counter.table:
            continue  # a direct counter ends with its entry
        for index, value in enumerate(runtime.read_counter(counter.name)):
            if value != CounterValue():
                runtime.write_counter(counter.name, index, CounterValue())


class PlainMachine:
    """The slot machine in plain Python, in a process of its own, because numba is told at its start not to compile."""

    def __init__(self, elements: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(_SLOT_SWITCH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        )
        self.runtime = self
        self._elements = elements
        self.renew()

    def renew(self) -> None:
        """Begin again with a new switch."""
        self._call("new", self._elements)

    def _call(self, name: str, *arguments: Any) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        pickle.dump((name, arguments), self._child.stdin)
        self._child.stdin.flush()
        done, result = pickle.load(self._child.stdout)
        if not done:
            raise AssertionError(f"the slot machine broke at {name}: {result}")
        return result

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, *arguments)

    def process(self, port: int, frame: bytes) -> Sequence[tuple[int, bytes]]:
        left: Sequence[tuple[int, bytes]] = self._call("process", port, frame)
        return left

    def read_cells(self, registers: Sequence[str], cells: Sequence[int]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = self._call("read_cells", registers, cells)
        return found

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(_SECONDS)
        self._child.stdout.close()


class NativeMachine:
    """The compiled pipeline, over its UDP port: a socket on loopback stands for every sender of the script.

    The runtime's tables get the sockets' addresses in place of the script's; headers are taken off and put around here.
    """

    def __init__(self, elements: int) -> None:
        from switchml.p4runtime.p4info_files import p4info_beside, parse_p4info
        from switchml.p4runtime.schema import Schema
        from switchml.switch_emulator.native_target import EmulatorTarget

        self._schema = Schema(parse_p4info(p4info_beside(PROGRAMS[elements]).read_text()))
        self._target = EmulatorTarget()
        self._elements = elements
        self.runtime = self
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        self._begin()

    def _begin(self) -> None:
        from switchml.switch_emulator.native_runtime import NativeRuntime

        self._runtime = NativeRuntime(self._target, self._schema)
        self._own: dict[int, int] = {}
        self._ports: dict[tuple[int, int], int] = {}  # (group, worker) -> port of the switch
        self._workers: dict[tuple[int, int], tuple[tuple[int, int], int]] = {}  # (job, worker) -> sender, MAC
        self._jobs: dict[int, int] = {}  # multicast group -> job

    def renew(self) -> None:
        def clear() -> None:
            switch = self._target.switch
            switch.pool.slots[: 2 * SLOTS] = 0
            switch.pool.sums[: 4 * 2 * SLOTS * self._elements] = 0
            switch.counters[:] = 0

        self._runtime.close()
        self._target.between_packets(clear)
        self._close_sockets()
        self._begin()

    def read_cells(self, registers: Sequence[str], cells: Sequence[int]) -> dict[str, list[int]]:
        # All in one go, because every call has to wait for the pipeline's thread.
        return self._target.between_packets(lambda: read_cells(self._runtime, registers, cells))

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._runtime, name)

    def _socket(self, sender: tuple[int, int]) -> socket.socket:
        if sender not in self._sockets:
            self._sockets[sender] = made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind(("127.0.0.1", 0))
            made.connect(("127.0.0.1", self._target.describe().udp_port))
            made.setblocking(False)
        return self._sockets[sender]

    def _address(self, sender: tuple[int, int]) -> tuple[int, int]:
        host, port = self._socket(sender).getsockname()
        return int.from_bytes(socket.inet_aton(host), "big"), port

    def insert(self, table: str, entry: TableEntry) -> None:
        name = table.rpartition(".")[2]
        action = entry.action
        assert isinstance(action, ActionCall)
        values = [match.value for match in entry.key.values()]
        if name == "own_address":
            self._own[values[0]] = action.arguments[0]
        elif name in ("sender_table", "job_table"):
            address, port = self._address((values[0], values[1]))
            exact = [Match(MatchKind.EXACT, value) for value in (address, port, *values[2:])]
            entry = replace(entry, key=dict(zip(entry.key, exact, strict=True)))
            if name == "job_table":
                self._jobs[action.arguments[-1]] = values[2]
        elif name == "worker_rewrite":
            mac, address, port = action.arguments
            self._workers[values[0], values[1]] = (address, port), mac
            entry = replace(entry, action=replace(action, arguments=(mac, *self._address((address, port)))))
        self._runtime.insert(table, entry)

    def set_multicast_group(self, group: int, replicas: Sequence[Any] | None) -> None:
        for copy in replicas or ():
            self._ports[group, copy.instance - 1] = copy.port
        self._runtime.set_multicast_group(group, replicas)

    def process(self, port: int, frame: bytes) -> Sequence[tuple[int, bytes]]:
        sender = int.from_bytes(frame[26:30], "big"), int.from_bytes(frame[34:36], "big")
        before = self._target.counters()["packets_received"]
        self._socket(sender).send(frame[42:])
        deadline = time.monotonic() + _SECONDS
        while self._target.counters()["packets_received"] == before:
            assert time.monotonic() < deadline, "the packet did not come through"
            time.sleep(0)
        self._target.between_packets(lambda: None)  # what the packet brought about has been sent
        return [answer for worker in self._workers for answer in self._received(worker, sender, port, frame)]

    def _received(
        self, worker: tuple[int, int], sender: tuple[int, int], port: int, frame: bytes
    ) -> Sequence[tuple[int, bytes]]:
        station, mac = self._workers[worker]
        group = next((group for group, job in self._jobs.items() if job == worker[0]), 0)
        out = port if station == sender else self._ports.get((group, worker[1]), port)
        found = []
        while True:
            try:
                datagram = self._socket(station).recv(65536)
            except BlockingIOError:
                return found
            head = bytearray(frame[:42])
            head[0:12] = mac.to_bytes(6, "big") + self._own[int.from_bytes(frame[30:34], "big")].to_bytes(
                6, "big"
            )
            head[16:18] = (len(datagram) + 28).to_bytes(2, "big")
            head[38:40] = (len(datagram) + 8).to_bytes(2, "big")
            head[22], head[24:26] = 64, b"\0\0"
            head[26:34] = frame[30:34] + station[0].to_bytes(4, "big")
            head[24:26] = checksum(bytes(head[14:34])).to_bytes(2, "big")
            head[34:38], head[40:42] = frame[36:38] + station[1].to_bytes(2, "big"), b"\0\0"
            found.append((out, bytes(head) + datagram))

    def close(self) -> None:
        self._runtime.close()
        self._target.close()
        self._close_sockets()


class P4Machine:
    """The P4 program on the emulator's P4 target."""

    def __init__(self, elements: int) -> None:
        from switchml.switch_emulator.p4 import P4Switch, load_program

        self.runtime = P4Switch(load_program(PROGRAMS[elements]))
        self._names = load_names(PROGRAMS[elements])

    def process(self, port: int, frame: bytes) -> Sequence[tuple[int, bytes]]:
        return self.runtime.process(port, frame)

    def renew(self) -> None:
        empty(self.runtime, self._names)

    def read_cells(self, registers: Sequence[str], cells: Sequence[int]) -> dict[str, list[int]]:
        return read_cells(self.runtime, registers, cells)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Kind:
    """forwards: it is a whole switch, not an aggregation pipeline alone."""

    make: Callable[[int], Machine]
    forwards: bool


MACHINES = {
    "plain": Kind(PlainMachine, False),
    "compiled": Kind(NativeMachine, False),
    "p4": Kind(P4Machine, True),
}
