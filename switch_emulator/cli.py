"""`switchml switch`: run an emulated switch until it is told to stop."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from types import FrameType
from typing import Annotated

import typer

_LOOK_SECONDS = 0.1


class _Stop:
    """Becomes true at SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _stdin_closed() -> bool:
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and os.read(0, 4096) == b""


def switch_command(
    host: Annotated[str, typer.Option(help="IPv4 address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="UDP port for packets; 0 takes a free one.")] = 0xBEE0,
    control_port: Annotated[int, typer.Option(help="TCP port workers join at; 0 takes a free one.")] = 50551,
    token: Annotated[
        str,
        typer.Option(
            envvar="SWITCHML_TOKEN", help="What workers must show to join; empty lets everybody in."
        ),
    ] = "",
    lease: Annotated[
        float, typer.Option(help="Seconds without a heartbeat after which a worker is given up.")
    ] = 10.0,
    loss: Annotated[float, typer.Option(min=0, max=1, help="Share of packets to lose, each way.")] = 0.0,
    duplicate: Annotated[float, typer.Option(min=0, max=1, help="Share of packets to double.")] = 0.0,
    reorder: Annotated[float, typer.Option(min=0, max=1, help="Share of packets to hold back.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the faults above.")] = 0,
    offload: Annotated[
        bool, typer.Option(help="Use UDP segmentation offload where the kernel has it.")
    ] = True,
    until_eof: Annotated[
        bool, typer.Option(help="End when standard input closes and all jobs have ended.")
    ] = False,
    announce: Annotated[
        str, typer.Option(help="'-' or a file descriptor: one line of JSON there when ready.")
    ] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print the closing counters as JSON.")] = False,
) -> None:
    """Run an emulated switch in the foreground."""
    from switchml.switch_emulator.emulator import Emulator
    from switchml.switch_emulator.faults import new_faults

    stop = _Stop()
    faults = new_faults(loss=loss, duplicate=duplicate, reorder=reorder, seed=seed)
    with Emulator(
        host,
        udp_port=port,
        control_port=control_port,
        token=token,
        lease=lease,
        faults=faults,
        offload=offload,
    ) as emulator:
        _announce(announce, emulator.control_address, emulator.udp_address)
        eof = False
        while not stop.asked and not (eof and emulator.controller.job_count() == 0):
            if until_eof and not eof:
                eof = _stdin_closed()
            time.sleep(_LOOK_SECONDS)
        counters = emulator.counters()
    if json_output:
        print(json.dumps(counters))
    elif not announce:
        for name, value in counters.items():
            print(f"{name:<24}{value:>16,}")


def _announce(where: str, control: str, udp: str) -> None:
    if not where:
        print(f"switch ready: workers join at {control}, packets go to UDP {udp}; Ctrl-C ends it", flush=True)
        return
    line = json.dumps({"control": control, "udp": udp, "pid": os.getpid()}) + "\n"
    if where == "-":
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        os.write(int(where), line.encode())
