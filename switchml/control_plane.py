"""`switchml controller`: the control plane of a P4 switch, as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from switchml import termination
from switchml.cli_options import (
    P4,
    SWITCH,
    WORKERS,
    DeviceId,
    JoinToken,
    Lease,
    P4Info,
    Telemetry,
    TelemetryHost,
    TelemetryPort,
    TenantsFile,
    TlsCa,
    TlsCert,
    TlsKey,
)
from switchml.control.control_messages import LEASE
from switchml.errors import SwitchMLError, UsageError
from switchml.p4runtime.refusals import NotPrimaryError
from switchml.protocol.messages import UDP_PORT_FIRST

if TYPE_CHECKING:
    from switchml.control.controller import Controller
    from switchml.control.p4runtime.p4runtime_target import P4RuntimeTarget, PipelineConfig

_SCHEME, _TLS_SCHEME = "p4runtime://", "p4runtimes://"
_LOOK_SECONDS = 0.1


def controller_command(
    target: Annotated[
        str,
        typer.Option(
            metavar="p4runtime://HOST:PORT",
            help="P4Runtime service of the switch to program; p4runtimes:// reaches it over TLS, with the same files.",
            rich_help_panel=SWITCH,
        ),
    ],
    data_address: Annotated[
        str,
        typer.Option(
            metavar="IP[:PORT]",
            help="IPv4 address that the switch takes packets of workers at, and their UDP port: 48864 (default) to 48879.",
            rich_help_panel=SWITCH,
        ),
    ],
    pipeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Load this program first, as BMv2's JSON; without it the switch has to have it.",
            rich_help_panel=P4,
        ),
    ] = None,
    p4info: P4Info = None,
    mac: Annotated[
        str,
        typer.Option(metavar="MAC", help="MAC address of --data-address, for ARP.", rich_help_panel=SWITCH),
    ] = "02:53:4d:4c:00:01",
    ports: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="The switch's ports that are wired, as in 1-4,7: frames for stations it does not know go to all of them.",
            rich_help_panel=SWITCH,
        ),
    ] = "0-15",
    device_id: DeviceId = 0,
    election_id: Annotated[
        int,
        typer.Option(
            min=1,
            help="Of several controllers of a switch the one with the highest has it.",
            rich_help_panel=P4,
        ),
    ] = 1,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where workers join: 0.0.0.0 for all addresses; port 0 takes a free one.",
            rich_help_panel=WORKERS,
        ),
    ] = "127.0.0.1:50551",
    token: JoinToken = "",
    tenants: TenantsFile = None,
    lease: Lease = LEASE,
    telemetry: Telemetry = True,
    telemetry_host: TelemetryHost = "127.0.0.1",
    telemetry_port: TelemetryPort = 0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_ca: TlsCa = None,
    announce: Annotated[
        str,
        typer.Option(
            metavar="-", help="'-': one line of JSON on standard output when ready, and nothing else there."
        ),
    ] = "",
) -> None:
    """Program a P4 switch over P4Runtime, and let workers join jobs on it.

    The switch runs the program in p4/: BMv2's simple_switch_grpc, or switchml switch. When this ends, so do its jobs.
    """
    from switchml.control.tls import ClientTls, TlsFiles

    address = _p4runtime_address(target)
    host, port = _host_port(listen, "--listen")
    data_host, data_port = _host_port(
        data_address if ":" in data_address else f"{data_address}:{UDP_PORT_FIRST}", "--data-address"
    )
    number, port_set = _mac(mac), _ports(ports)
    files = TlsFiles(tls_cert, tls_key, tls_ca)
    tls = files.server()
    to_switch = (files.client() or ClientTls()) if target.startswith(_TLS_SCHEME) else None
    program = _pipeline(pipeline, p4info)

    from switchml.control.controller import Controller
    from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
    from switchml.control.p4runtime.p4runtime_target import P4RuntimeTarget
    from switchml.control.server import serve
    from switchml.control.tenants import read_tenants

    shares = read_tenants(tenants, token) if tenants is not None else ()
    stop, hurry = threading.Event(), threading.Event()

    def ask(signal_number: int, frame: FrameType | None) -> None:
        (hurry if stop.is_set() else stop).set()

    def report(line: str) -> None:
        print(line, file=sys.stderr if announce else sys.stdout, flush=True)

    with P4RuntimeClient(
        address, device_id=device_id, election_id=election_id, token=token, tls=to_switch
    ) as client:
        switch = P4RuntimeTarget(
            client, data_host, data_port, mac=number, pipeline=program, ports=port_set, report=report
        )
        # Only now: before, these signals may end the process at once, which leaves nothing.
        termination.listen((signal.SIGTERM, signal.SIGINT), ask)
        try:
            controller = Controller(switch, token=token, tenants=shares, lease=lease)
            with contextlib.ExitStack() as stack:
                server = stack.enter_context(serve(controller, host, port, tls=tls))
                if telemetry:
                    from switchml.telemetry.publisher import Publisher

                    publisher = Publisher(
                        controller,
                        switch=server.address,
                        host=telemetry_host,
                        port=telemetry_port,
                        token=token,
                    )
                    stack.enter_context(publisher)
                report(f"controller ready: workers join at {server.address}; Ctrl-C ends it")
                if announce:
                    line = {
                        "control": server.address,
                        "udp": f"{data_host}:{data_port}",
                        "p4runtime": client.address,
                        "pid": os.getpid(),
                    }
                    print(json.dumps(line), flush=True)
                _keep(controller, switch, stop, hurry, report)
        finally:
            switch.close()


def _keep(
    controller: Controller,
    switch: P4RuntimeTarget,
    stop: threading.Event,
    hurry: threading.Event,
    report: Callable[[str], None],
) -> None:
    """Until `stop`, or until the switch is gone: then raises. Workers are told why at their next heartbeat."""
    failure: SwitchMLError | None = None
    try:
        while not stop.wait(_LOOK_SECONDS):
            try:
                switch.check()
            except NotPrimaryError as error:
                _stand_by(str(error), controller, switch, stop, report)
    except SwitchMLError as error:
        failure = error
    controller.close(str(failure or "the controller was told to end"))
    while controller.needed() and not hurry.wait(_LOOK_SECONDS):
        pass
    if failure is not None:
        raise failure


def _stand_by(
    why: str,
    controller: Controller,
    switch: P4RuntimeTarget,
    stop: threading.Event,
    report: Callable[[str], None],
) -> None:
    """While another controller has the switch. Raises SwitchUnreachableError when the switch is gone."""
    controller.suspend(why)
    report(f"{why}; this controller takes it back when that one has gone")
    while not stop.wait(_LOOK_SECONDS):
        if switch.recover():
            controller.resume()
            report("the switch is this controller's again; workers may join")
            return


def _p4runtime_address(target: str) -> str:
    if not target.startswith((_SCHEME, _TLS_SCHEME)):
        raise UsageError(f"--target {target}: write p4runtime://HOST:PORT, as in p4runtime://127.0.0.1:9559")
    return target.removeprefix(_SCHEME).removeprefix(_TLS_SCHEME).rstrip("/")


def _host_port(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{option} {text}: write HOST:PORT")
    return host.strip("[]"), int(port)


def _mac(text: str) -> int:
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise UsageError(f"--mac {text}: write six bytes in hexadecimal, as in 02:53:4d:4c:00:01")
    return int(text.replace(":", ""), 16)


def _ports(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.strip().isdecimal() or not (last or first).strip().isdecimal():
            raise UsageError(f"--ports {text}: write numbers and ranges, as in 1-4,7")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _pipeline(config: Path | None, p4info: Path | None) -> PipelineConfig | None:
    if config is None:
        if p4info is not None:
            raise UsageError("--p4info describes a program: give --pipeline as well")
        return None
    from switchml.control.p4runtime.p4runtime_target import read_pipeline

    return read_pipeline(config, p4info)
