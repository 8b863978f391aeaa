"""A switch of the packet benchmark as a process of its own, in the namespace of its links.

    python -m switchml.bench.systems.packet_switch_process '{"kind": "p4", "traffic": ..., "ports": ..., "program": ...}'

Prints a line when it forwards, and ends when its standard input closes.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from switchml.bench.packet_load import Station, Traffic


def main(order: dict[str, Any]) -> None:
    """Run the switch that the order describes until standard input closes."""
    stated = order["traffic"]
    traffic = Traffic(
        stated["elements"],
        stated["window"],
        Station(**stated["switch"]),
        tuple(Station(**worker) for worker in stated["workers"]),
    )
    with contextlib.ExitStack() as stack:
        if order["kind"] == "native":
            _native(traffic, stack)
        else:
            _p4(
                traffic,
                {int(port): name for port, name in order["ports"].items()},
                Path(order["program"]),
                stack,
            )
        print("ready", flush=True)
        sys.stdin.read()


def _native(traffic: Traffic, stack: contextlib.ExitStack) -> None:
    from switchml.switch_emulator.native_target import EmulatorTarget

    # Without offload a packet is a frame, as for the others.
    target = EmulatorTarget(traffic.switch.address, traffic.switch.udp_port, offload=False)
    stack.callback(target.close)
    target.add_job(traffic.job())


def _p4(traffic: Traffic, ports: dict[int, str], path: Path, stack: contextlib.ExitStack) -> None:
    from switchml.bench.systems.p4_job import set_up
    from switchml.switch_emulator.p4_emulator import P4Emulator, Program
    from switchml.switch_emulator.ports.interfaces import InterfacePorts

    emulator = stack.enter_context(P4Emulator(InterfacePorts(ports), Program(path.read_bytes(), b"")))
    set_up(traffic, path, emulator.device.runtime)
    emulator.start()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
