"""The switches whose packets a second are measured: each with a load of its own, in a network of its own.

Emulated ones run in a process of their own, in the namespace of their links: this module as `__main__`, with an order in JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from switchml.bench.packet_load import Load, Station, Traffic
from switchml.bench.systems.p4_job import entries, group, program_file, set_up
from switchml.errors import BenchError
from switchml.p4runtime.entries import ActionCall
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.testbed.namespace import Namespace

START_SECONDS = 120.0
_THRIFT_PORT = 9090
_POLL_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a switch is started for.

    Attributes:
        elements: int32 a packet.
        workers: of the job.
        window: slots.
        programs: the folder of the compiled P4 programs.
        bmv2: paths of simple_switch and its CLI.
    """

    elements: int
    workers: int
    window: int
    programs: Path
    bmv2: tuple[str, str] | None = None


class PacketSwitch(Protocol):
    """A running switch under load."""

    load: Load

    def seconds(self, chunks: int) -> float:
        """Time in which the switch dealt with the packets of so many chunks.

        Raises:
            BenchError: it did not answer.
        """


class _Linked:
    """A switch on links."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def seconds(self, chunks: int) -> float:
        started = time.perf_counter()
        self.load.run(chunks)
        return time.perf_counter() - started


class _InMemory:
    """The P4 pipeline alone: frames in a list are processed one after the other, and only that is timed."""

    def __init__(self, setting: Setting) -> None:
        from switchml.switch_emulator.p4 import P4Switch, load_program

        path = program_file(setting.programs, setting.elements)
        self._switch = P4Switch(load_program(path))
        workers = tuple(
            Station(0x02_0000_0001 + rank, f"10.83.0.{rank + 1}", 0xC000 + rank)
            for rank in range(setting.workers)
        )
        traffic = Traffic(
            setting.elements, setting.window, Station(0x02_0000_00FE, "10.83.0.254", UDP_PORT_FIRST), workers
        )
        set_up(traffic, path, self._switch)
        self._coming: deque[tuple[int, bytes]] = deque()
        self._busy = 0.0
        self.load = Load(traffic, self, "p4-memory")

    def send(self, rank: int, frame: bytearray) -> None:
        self._coming.append((rank + 1, bytes(frame)))

    def receive(self, seconds: float) -> Sequence[tuple[int, bytes]]:
        coming, self._coming = self._coming, deque()
        process = self._switch.process
        started = time.perf_counter()
        left = [answers for port, frame in coming if (answers := process(port, frame))]
        self._busy += time.perf_counter() - started
        return [(port - 1, frame) for answers in left for port, frame in answers]

    def seconds(self, chunks: int) -> float:
        self._busy = 0.0
        self.load.run(chunks)
        return self._busy


def _native(setting: Setting, stack: contextlib.ExitStack) -> PacketSwitch:
    return _emulated("native", setting, stack)


def _p4(setting: Setting, stack: contextlib.ExitStack) -> PacketSwitch:
    return _emulated("p4", setting, stack)


def _p4_in_memory(setting: Setting, stack: contextlib.ExitStack) -> PacketSwitch:
    return _InMemory(setting)


def _emulated(kind: str, setting: Setting, stack: contextlib.ExitStack) -> PacketSwitch:
    from switchml.bench.packet_links import PacketLinks

    program = program_file(setting.programs, setting.elements)
    links = stack.enter_context(PacketLinks(setting.workers, bridged=kind == "native"))
    traffic = Traffic(setting.elements, setting.window, links.switch, links.workers)
    order = {
        "kind": kind, "traffic": dataclasses.asdict(traffic), "ports": links.ports, "program": str(program.resolve())
    }  # fmt: skip
    argv = [sys.executable, "-P", "-m", "switchml.bench.systems.packet_switches", json.dumps(order)]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchml-bench-")))
    said = stack.enter_context((folder / "said").open("w+b"))
    process = links.namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
    assert process.stdin is not None
    assert process.stdout is not None
    stack.callback(_end, process)
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    if not ready or process.stdout.readline() != b"ready\n":
        raise BenchError(f"{kind}: the switch did not start; it said: {_tail(said)}")
    return _Linked(Load(traffic, links, kind))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Standard input closed is the sign to end; the namespace ends what does not heed it."""
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):
            stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _bmv2(setting: Setting, stack: contextlib.ExitStack) -> PacketSwitch:
    from switchml.bench.packet_links import PacketLinks
    from switchml.stf.bmv2 import own_notifications
    from switchml.stf.bmv2_cli import RuntimeCli

    assert setting.bmv2 is not None
    switch, cli = setting.bmv2
    program = program_file(setting.programs, setting.elements).resolve()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchml-bench-")))
    said = stack.enter_context((folder / "said").open("w+b"))
    links = stack.enter_context(PacketLinks(setting.workers, bridged=False))
    ports = [word for port, name in links.ports.items() for word in ("-i", f"{port}@{name}")]
    command = [
        switch, *ports, "--thrift-port", str(_THRIFT_PORT), *own_notifications(switch, folder), str(program)
    ]  # fmt: skip
    process = links.namespace.popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    _await_thrift(links.namespace, process, said)
    runtime = links.namespace.call(RuntimeCli, [cli, "--thrift-port", str(_THRIFT_PORT)])
    traffic = Traffic(setting.elements, setting.window, links.switch, links.workers)
    try:
        for line in _cli_lines(traffic, program):
            runtime.run(line)
    finally:
        runtime.close()
    return _Linked(Load(traffic, links, "bmv2"))


def _await_thrift(namespace: Namespace, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            namespace.call(socket.create_connection, ("127.0.0.1", _THRIFT_PORT), 1).close()
            return
        except OSError:
            time.sleep(_POLL_SECONDS)
    raise BenchError(f"bmv2: simple_switch did not start; it said: {_tail(said)}")


def _cli_lines(traffic: Traffic, program: Path) -> list[str]:
    """Commands of BMv2's runtime CLI."""
    lines = []
    for table, entry in entries(traffic, program):
        assert isinstance(entry.action, ActionCall)
        key = " ".join(str(match.value) for match in entry.key.values())
        arguments = " ".join(map(str, entry.action.arguments))
        lines.append(f"table_add {table} {entry.action.name} {key} => {arguments}".rstrip())
    number, replicas = group(traffic)
    lines.append(f"mc_mgrp_create {number}")
    for node, replica in enumerate(replicas):  # handles count from 0
        lines.append(f"mc_node_create {replica.instance} {replica.port}")
        lines.append(f"mc_node_associate {number} {node}")
    return lines


def _tail(said: IO[bytes]) -> str:
    said.seek(0, os.SEEK_END)
    said.seek(max(0, said.tell() - 2000))
    return said.read().decode(errors="replace").strip() or "nothing"


SWITCHES: dict[str, Callable[[Setting, contextlib.ExitStack], PacketSwitch]] = {
    "native": _native,
    "p4": _p4,
    "p4-memory": _p4_in_memory,
    "bmv2": _bmv2,
}


def main(order: dict[str, Any]) -> None:
    """Run the switch that the order describes until standard input closes; print a line when it forwards."""
    stated = order["traffic"]
    traffic = Traffic(
        stated["elements"],
        stated["window"],
        Station(**stated["switch"]),
        tuple(Station(**worker) for worker in stated["workers"]),
    )
    with contextlib.ExitStack() as stack:
        if order["kind"] == "native":
            _run_native(traffic, stack)
        else:
            _run_p4(
                traffic,
                {int(port): name for port, name in order["ports"].items()},
                Path(order["program"]),
                stack,
            )
        print("ready", flush=True)
        sys.stdin.read()


def _run_native(traffic: Traffic, stack: contextlib.ExitStack) -> None:
    from switchml.switch_emulator.native_target import EmulatorTarget

    # Without offload a packet is a frame, as for the others.
    target = EmulatorTarget(traffic.switch.address, traffic.switch.udp_port, offload=False)
    stack.callback(target.close)
    target.add_job(traffic.job())


def _run_p4(traffic: Traffic, ports: dict[int, str], path: Path, stack: contextlib.ExitStack) -> None:
    from switchml.switch_emulator.p4_emulator import CompiledProgram, P4Emulator
    from switchml.switch_emulator.ports.interfaces import InterfacePorts

    emulator = stack.enter_context(P4Emulator(InterfacePorts(ports), CompiledProgram(path.read_bytes(), b"")))
    set_up(traffic, path, emulator.device.runtime)
    emulator.start()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
