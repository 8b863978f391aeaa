"""`switchml switch`: run an emulated switch until it is told to stop."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from switchml import termination
from switchml.cli_options import (
    NATIVE,
    P4,
    AsJson,
    Capture,
    DeviceId,
    Duplicate,
    EmulatedPipeline,
    JoinToken,
    Lease,
    Loss,
    P4Info,
    Reorder,
    Seed,
    Telemetry,
    TelemetryHost,
    TelemetryPort,
    TenantsFile,
    TlsCa,
    TlsCert,
    TlsKey,
    Trace,
    TraceCount,
    TraceJob,
    TraceRank,
    TraceSlot,
)
from switchml.control.control_messages import LEASE
from switchml.errors import UsageError
from switchml.protocol.compiling_signs import telling
from switchml.protocol.messages import UDP_PORT_FIRST

if TYPE_CHECKING:
    from switchml.control.controller import Controller
    from switchml.control.tenants import Tenant
    from switchml.control.tls import ServerTls
    from switchml.packets.selection import Selection
    from switchml.switch_emulator.p4.egress_queues import QueueLimits
    from switchml.switch_emulator.p4_emulator import Wrapping
    from switchml.switch_emulator.ports.interface import Ports

NO_PROGRAM = "none"
QUEUES = "Queues at the ports of a P4 pipeline"

_LOOK_SECONDS = 0.1


class _Stop:
    """Becomes true at SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        termination.listen((signal.SIGTERM, signal.SIGINT), self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _stdin_closed() -> bool:
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and os.read(0, 4096) == b""


@dataclass(frozen=True)
class _Options:
    """The command line."""

    host: str
    port: int
    control_port: int
    token: str
    tenants: tuple[Tenant, ...]
    lease: float
    pipeline: str
    p4info: Path | None
    interfaces: tuple[str, ...]
    use_files: float | None
    p4runtime_port: int | None
    device_id: int
    queues: QueueLimits | None
    capture: Path | None
    trace: Selection | None
    loss: float
    duplicate: float
    reorder: float
    seed: int
    offload: bool
    tls: ServerTls | None
    telemetry: bool
    telemetry_host: str
    telemetry_port: int
    topology: Path | None


@dataclass(frozen=True)
class _Running:
    """A switch of any kind.

    Attributes:
        control: address of its control service; "" = none.
        udp: address of its data port; "" = none.
        p4runtime: address of its P4Runtime service; "" = none.
        counters: reads them.
        leaves: of a tree, the addresses where workers join, by name of the switch.
        needed: whether workers still need it.
        ended: whether it has nothing more to do.
        tenants: that share it.
    """

    control: str
    udp: str
    p4runtime: str
    counters: Callable[[], dict[str, int]]
    leaves: Mapping[str, str] = field(default_factory=dict)
    needed: Callable[[], bool] = lambda: False
    ended: Callable[[], bool] = lambda: False
    tenants: tuple[Tenant, ...] = ()


def switch_command(
    host: Annotated[str, typer.Option(help="IPv4 address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="UDP port for packets; 0 takes a free one.")
    ] = UDP_PORT_FIRST,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port workers join at; 0 takes a free one.")
    ] = 50551,
    token: JoinToken = "",
    tenants: TenantsFile = None,
    lease: Lease = LEASE,
    pipeline: EmulatedPipeline = NATIVE,
    p4info: P4Info = None,
    interface: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            "--interface",
            metavar="PORT@INTERFACE",
            help="A port of the switch on a Linux interface, in place of UDP; may be repeated. Needs root.",
            rich_help_panel=P4,
        ),
    ] = None,
    use_files: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="-i names files: read NAME_in.pcap and write NAME_out.pcap, beginning after SECONDS.",
            rich_help_panel=P4,
        ),
    ] = None,
    p4runtime_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="TCP port to offer P4Runtime at; 0 takes a free one. Its clients have to show --token, if there is one.",
            rich_help_panel=P4,
        ),
    ] = None,
    device_id: DeviceId = 0,
    queue_rate: Annotated[
        float | None,
        typer.Option(
            metavar="PACKETS",
            help="Packets a second that each queue of a port lets go; the others wait. 0 = without limit.",
            rich_help_panel=QUEUES,
        ),
    ] = None,
    port_rate: Annotated[
        float | None,
        typer.Option(
            metavar="PACKETS",
            help="The same for a port as a whole: its queues compete, and the highest priority goes first.",
            rich_help_panel=QUEUES,
        ),
    ] = None,
    queue_depth: Annotated[
        int | None,
        typer.Option(
            metavar="PACKETS",
            help="How many wait in a queue at most (64 unless told); one that finds it full is dropped.",
            rich_help_panel=QUEUES,
        ),
    ] = None,
    priority_queues: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Queues a port (1 unless told), one for each standard_metadata.priority from 0.",
            rich_help_panel=QUEUES,
        ),
    ] = None,
    capture: Capture = None,
    trace: Trace = False,
    trace_job: TraceJob = None,
    trace_slot: TraceSlot = None,
    trace_rank: TraceRank = None,
    trace_count: TraceCount = None,
    loss: Loss = 0.0,
    duplicate: Duplicate = 0.0,
    reorder: Reorder = 0.0,
    seed: Seed = 0,
    topology: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Run a tree of native switches, in place of --host, --port and --control-port: [[switch]] with name, data = "
            "IP[:PORT], below = the name of the switch above, and control = IP[:PORT] where it has workers of its own.",
        ),
    ] = None,
    offload: Annotated[
        bool, typer.Option(help="Use UDP segmentation offload where the kernel has it.")
    ] = True,
    until_eof: Annotated[
        bool, typer.Option(help="End when standard input closes and all jobs have ended.")
    ] = False,
    announce: Annotated[
        str, typer.Option(help="'-' or a file descriptor: one line of JSON there when ready.")
    ] = "",
    telemetry: Telemetry = True,
    telemetry_host: TelemetryHost = "127.0.0.1",
    telemetry_port: TelemetryPort = 0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    tell_compiling: Annotated[
        bool,
        typer.Option(
            "--tell-compiling", help="Lines of JSON before that, as long as it compiles.", hidden=True
        ),
    ] = False,
    json_output: AsJson = False,
) -> None:
    """Run an emulated switch in the foreground."""
    from switchml.control.tenants import read_tenants
    from switchml.control.tls import TlsFiles

    stop = _Stop()
    options = _Options(
        host=host, port=port, control_port=control_port, token=token, lease=lease, pipeline=pipeline,
        tenants=read_tenants(tenants, token) if tenants is not None else (), p4info=p4info,
        interfaces=tuple(interface or ()), use_files=use_files, p4runtime_port=p4runtime_port, device_id=device_id,
        queues=_queue_limits(
            queue_rate=queue_rate, port_rate=port_rate, depth=queue_depth, priorities=priority_queues
        ),
        capture=capture, trace=_traced(trace, trace_job, trace_slot, trace_rank, trace_count),
        loss=loss, duplicate=duplicate, reorder=reorder, seed=seed, offload=offload,
        tls=TlsFiles(tls_cert, tls_key, tls_ca).server(),
        telemetry=telemetry, telemetry_host=telemetry_host, telemetry_port=telemetry_port, topology=topology,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        with telling(lambda: _write(announce, {"compiling": True}) if tell_compiling else None):
            switch = stack.enter_context(_start(options))
        _announce(announce, switch)
        eof = False
        while not stop.asked and not switch.ended() and not (eof and not switch.needed()):
            if until_eof and not eof:
                eof = _stdin_closed()
            time.sleep(_LOOK_SECONDS)
        counters = switch.counters()
    if json_output:
        print(json.dumps(counters))
    elif not announce:
        for name, value in counters.items():
            print(f"{name:<24}{value:>16,}")


def _start(options: _Options) -> contextlib.AbstractContextManager[_Running]:
    if options.topology is not None:
        return _tree(options, options.topology)
    if options.pipeline == NATIVE:
        return _native(options)
    if options.interfaces:
        return _p4_on_interfaces(options)
    return _p4_over_udp(options)


@contextlib.contextmanager
def _native(options: _Options) -> Iterator[_Running]:
    from switchml.switch_emulator.emulator import Emulator
    from switchml.switch_emulator.faults import new_faults

    for option, given in {
        "-i": options.interfaces, "--use-files": options.use_files is not None,
        "--trace": options.trace, "--p4info": options.p4info,
        "--queue-rate, --port-rate, --queue-depth or --priority-queues": options.queues,
    }.items():  # fmt: skip
        if given:
            raise UsageError(
                f"{option} is for P4 programs (--pipeline FILE.json). The native pipeline works on the kernel's UDP: to have it "
                "on interfaces, put them under a bridge with an address and give that as --host; tcpdump shows its packets"
            )
    faults = new_faults(
        loss=options.loss, duplicate=options.duplicate, reorder=options.reorder, seed=options.seed
    )
    with contextlib.ExitStack() as stack:
        emulator = stack.enter_context(
            Emulator(
                options.host,
                udp_port=options.port,
                control_port=options.control_port,
                token=options.token,
                tenants=options.tenants,
                lease=options.lease,
                faults=faults,
                offload=options.offload,
                capture=str(options.capture or ""),
                tls=options.tls,
            )
        )
        p4runtime = ""
        if options.p4runtime_port is not None:
            from switchml.switch_emulator.native_runtime import NativeDevice
            from switchml.switch_emulator.p4runtime.p4runtime_server import serve

            device = NativeDevice(emulator.target, options.device_id)
            server = stack.enter_context(
                serve(device, options.host, options.p4runtime_port, token=options.token, tls=options.tls)
            )
            p4runtime = server.address
        stack.enter_context(_publish(emulator.controller, emulator.control_address, options))
        yield _Running(
            *(emulator.control_address, emulator.udp_address, p4runtime, emulator.counters),
            needed=emulator.controller.needed,
            tenants=options.tenants,
        )


@contextlib.contextmanager
def _tree(options: _Options, file: Path) -> Iterator[_Running]:
    from switchml.control.topology import read_topology
    from switchml.switch_emulator.faults import Faults, new_faults
    from switchml.switch_emulator.switch_tree import EmulatedTree

    if (
        options.pipeline != NATIVE
        or options.interfaces
        or options.capture
        or options.p4runtime_port is not None
        or options.tenants
    ):
        raise UsageError(
            "--topology runs native switches in this process: leave out --pipeline, -i, --capture, --p4runtime-port and --tenants"
        )

    def faults(number: int) -> Faults:
        return new_faults(
            loss=options.loss,
            duplicate=options.duplicate,
            reorder=options.reorder,
            seed=options.seed + number,
        )

    with (
        EmulatedTree(
            read_topology(file),
            token=options.token,
            lease=options.lease,
            faults=faults,
            offload=options.offload,
            tls=options.tls,
        ) as tree,
        _publish(tree.controller, next(iter(tree.control_addresses.values())), options),
    ):
        leaves = tree.control_addresses
        control = next(iter(leaves.values()))
        yield _Running(control, "", "", tree.counters, leaves=leaves, needed=tree.controller.needed)


def _publish(
    controller: Controller, address: str, options: _Options
) -> contextlib.AbstractContextManager[object]:
    """Telemetry, where it is wanted."""
    if not options.telemetry:
        return contextlib.nullcontext()
    from switchml.telemetry.publisher import Publisher

    return Publisher(
        controller,
        switch=address,
        host=options.telemetry_host,
        port=options.telemetry_port,
        token=options.token,
    )


@contextlib.contextmanager
def _p4_over_udp(options: _Options) -> Iterator[_Running]:
    from switchml.switch_emulator.p4_emulator import P4UdpEmulator, read_program

    if options.pipeline == NO_PROGRAM or options.use_files is not None:
        raise UsageError("--pipeline none and --use-files need ports: -i PORT@NAME")
    with (
        P4UdpEmulator(
            read_program(Path(options.pipeline), options.p4info),
            options.host,
            udp_port=options.port,
            control_port=options.control_port,
            p4runtime_port=options.p4runtime_port,
            device_id=options.device_id,
            token=options.token,
            tenants=options.tenants,
            lease=options.lease,
            wrapping=_wrapping(options),
            queues=options.queues,
            tls=options.tls,
        ) as emulator,
        _publish(emulator.controller, emulator.control_address, options),
    ):
        yield _Running(
            *(emulator.control_address, emulator.udp_address, emulator.p4runtime_address, emulator.counters),
            needed=emulator.controller.needed,
            ended=lambda: emulator.switch.finished,
            tenants=options.tenants,
        )


@contextlib.contextmanager
def _p4_on_interfaces(options: _Options) -> Iterator[_Running]:
    from switchml.switch_emulator.p4_emulator import P4Emulator, read_program

    if options.tenants:
        raise UsageError(
            "--tenants: workers join at the controller of such a switch (switchml controller --tenants)"
        )
    program = None
    if options.pipeline != NO_PROGRAM:
        program = read_program(Path(options.pipeline), options.p4info)
    service = None if options.p4runtime_port is None else (options.host, options.p4runtime_port)
    with P4Emulator(
        _open_ports(options),
        program,
        wrapping=_wrapping(options),
        queues=options.queues,
        p4runtime=service,
        device_id=options.device_id,
        tls=options.tls,
        token=options.token,
    ) as emulator:
        timer = threading.Timer(options.use_files or 0.0, emulator.start)
        timer.start()
        try:
            yield _Running(
                *("", "", emulator.p4runtime_address, emulator.counters),
                ended=lambda: emulator.finished,
            )
        finally:
            timer.cancel()
            timer.join()


def _open_ports(options: _Options) -> Ports:
    from switchml.switch_emulator.ports.interfaces import InterfacePorts
    from switchml.switch_emulator.ports.numbering import parse_interfaces
    from switchml.switch_emulator.ports.pcap_files import PcapFilePorts

    numbered = parse_interfaces(options.interfaces)
    return InterfacePorts(numbered) if options.use_files is None else PcapFilePorts(numbered)


def _queue_limits(**given: float | None) -> QueueLimits | None:
    """None when nothing was said of queues."""
    said = {name: value for name, value in given.items() if value is not None}
    if not said:
        return None
    from switchml.switch_emulator.p4.egress_queues import QueueLimits

    return QueueLimits(**said)  # type: ignore[arg-type]


def _wrapping(options: _Options) -> Wrapping:
    from switchml.switch_emulator.p4_emulator import Wrapping
    from switchml.switch_emulator.ports.faulty import FaultRates

    return Wrapping(
        fault_rates=FaultRates(options.loss, options.duplicate, options.reorder, options.seed),
        capture=str(options.capture or ""),
        trace=None if options.trace is None else _trace(options),
    )


def _traced(
    trace: bool, job: int | None, slot: int | None, rank: int | None, count: int | None
) -> Selection | None:
    """Which packets are traced; None = none."""
    from switchml.packets.selection import Selection

    selection = Selection(job, slot, rank, count)
    return selection if trace or selection != Selection() else None


def _trace(options: _Options) -> Callable[[str], None]:
    from switchml.packets.selection import Selection
    from switchml.switch_emulator.ports.chosen_trace import ChosenTrace

    if options.trace is None or options.trace == Selection():
        return _tell
    if options.trace.rank is not None and options.interfaces:
        raise UsageError(
            "--trace-rank needs workers that join over UDP: here their ranks are not known, leave -i out"
        )
    return ChosenTrace(_tell, options.trace)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _announce(where: str, switch: _Running) -> None:
    if not where:
        leaves = " or ".join(f"{address} ({name})" for name, address in switch.leaves.items())
        ready = {
            "workers join at": leaves or switch.control,
            "packets go to UDP": switch.udp,
            "P4Runtime is at": switch.p4runtime,
        }
        said = ", ".join(f"{what} {address}" for what, address in ready.items() if address)
        if switch.tenants:
            said += f"; tenants are {', '.join(tenant.name for tenant in switch.tenants)}"
        print(f"switch ready: {said or 'frames are forwarded'}; Ctrl-C ends it", flush=True)
        return
    line = {
        "control": switch.control,
        "leaves": dict(switch.leaves),
        "udp": switch.udp,
        "p4runtime": switch.p4runtime,
        "pid": os.getpid(),
    }
    _write(where, {name: value for name, value in line.items() if value})


def _write(where: str, line: Mapping[str, object]) -> None:
    text = json.dumps(line) + "\n"
    if where == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        os.write(int(where), text.encode())
