"""The switches of the experiments as Mininet nodes, each in a network namespace of its own.

All of them serve workers at `DATA_ADDRESS` on interfaces `s1-eth1`, `s1-eth2`, ... and have a control network of their own, a
bridge with `CONTROL_ADDRESS`, that no packet of the experiment crosses.

    native   the emulator's compiled pipeline; a bridge over the data interfaces, whose address the kernel answers for
    p4       the emulator running the P4 program on packet sockets, programmed by `switchml controller` over P4Runtime
    bmv2     BMv2's simple_switch_grpc, programmed by the same controller with the same program
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mininet.node import Switch
from pyroute2 import IPRoute

from switchml.errors import SwitchMLError
from switchml.packets.made_macs import SWITCH_MAC
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.testbed import Namespace, TestbedError

DATA_ADDRESS = "10.83.0.254"
CONTROL_ADDRESS = "10.84.0.254"
CONTROL_PORT = 50551
# A worker's control connection comes from another network than its packets: without a token the switch would refuse it.
TOKEN = "mininet"
P4RUNTIME_PORT = 9559
CPU_PORT = 510
PREFIX = 24
CONTROL_PORTS = 1000
"""Mininet's numbers of the interfaces to the control network begin here."""

COMPILED = Path(__file__).parents[2] / "p4" / "build"

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_POLL = 0.05
_SHOWN = 3000


class SwitchDidNotStart(SwitchMLError):
    """With what it said."""


def find_bmv2() -> str | None:
    """simple_switch_grpc: $SWITCHML_BMV2_GRPC, or from PATH."""
    return os.environ.get("SWITCHML_BMV2_GRPC") or shutil.which("simple_switch_grpc")


class AggregatingSwitch(Switch):  # type: ignore[misc]
    """A switch with a controller that workers join at `control_address`."""

    control_address = f"{CONTROL_ADDRESS}:{CONTROL_PORT}"

    def __init__(self, name: str, **params: Any) -> None:
        super().__init__(name, **{**params, "inNamespace": True})
        self._namespace: Namespace | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self._folder = Path(tempfile.mkdtemp(prefix="switchml-mininet-"))

    @property
    def namespace(self) -> Namespace:
        """Where the switch's processes run."""
        if self._namespace is None:
            self._namespace = Namespace.of_process(self.pid, self.name)
        return self._namespace

    @property
    def data_interfaces(self) -> dict[int, str]:
        """Names by port number."""
        found = {port: str(intf) for port, intf in self.intfs.items() if str(intf) != "lo"}
        return {port: name for port, name in sorted(found.items()) if port < CONTROL_PORTS}

    @property
    def control_interfaces(self) -> list[str]:
        """Names of the interfaces that lead to the workers' control interfaces."""
        return [str(intf) for port, intf in sorted(self.intfs.items()) if port >= CONTROL_PORTS]

    def start(self, controllers: Any) -> None:
        """Called by Mininet. Returns when workers can join."""
        self.namespace.call(make_bridge, "control", CONTROL_ADDRESS, None, self.control_interfaces)
        try:
            self.start_switch()
            self._await(self.control_address)
        except BaseException:
            self.stop()
            raise

    def start_switch(self) -> None:
        """Start the programs of the switch."""
        raise NotImplementedError

    def run_process(self, name: str, argv: list[str]) -> None:
        """Start a program of the switch; what it says goes into a file."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            # mnexec gives it a session of its own: Ctrl-C at Mininet's prompt is not for the switch.
            process = self.popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                preexec_fn=_end_with_parent,
            )
        self._processes.append(process)
        self._logs.append(log)

    def switchml(self, command: str, *options: str) -> None:
        """Start a subcommand of `switchml` as a program of the switch."""
        self.run_process(command, [sys.executable, "-P", "-m", "switchml.cli", command, *options])

    def said(self) -> str:
        """The end of what the switch's programs wrote."""
        tails = (log.read_text(errors="replace")[-_SHOWN:].strip() for log in self._logs)
        return "\n".join(tail for tail in tails if tail) or "(nothing)"

    def _await(self, address: str) -> None:
        """Until something listens there, inside the namespace."""
        deadline = time.monotonic() + _START_SECONDS
        host, _, port = address.rpartition(":")
        while True:
            for process in self._processes:
                if process.poll() is not None:
                    raise SwitchDidNotStart(f"{self.name}: a program ended early; it said:\n{self.said()}")
            if self.namespace.call(_listens, host, int(port)):
                return
            if time.monotonic() > deadline:
                raise SwitchDidNotStart(
                    f"{self.name}: nothing listens at {address} after {_START_SECONDS:g} s; it said:\n{self.said()}"
                )
            time.sleep(_POLL)

    def stop(self, deleteIntfs: bool = True) -> None:  # Mininet's name
        """Idempotent."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_SECONDS)
        self._processes.clear()
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None
        shutil.rmtree(self._folder, ignore_errors=True)
        super().stop(deleteIntfs)


class NativeSwitch(AggregatingSwitch):
    """The emulator's compiled pipeline. Workers reach it, its controller too, through their data interfaces."""

    control_address = f"{DATA_ADDRESS}:{CONTROL_PORT}"

    def start_switch(self) -> None:
        """See `AggregatingSwitch`."""
        interfaces = list(self.data_interfaces.values())
        self.namespace.call(make_bridge, "data", DATA_ADDRESS, SWITCH_MAC, interfaces)
        self.switchml(
            "switch",
            *("--host", DATA_ADDRESS, "--port", str(UDP_PORT_FIRST), "--control-port", str(CONTROL_PORT)),
            *("--token", TOKEN),
        )


class _P4Switch(AggregatingSwitch):
    elements = 256

    def __init__(self, name: str, *, program: Path | None = None, **params: Any) -> None:
        super().__init__(name, **params)
        self.program = program or COMPILED / f"switchml_{self.elements}.json"
        if not self.program.is_file():
            raise TestbedError(f"there is no P4 program {self.program}; `make -C p4` compiles it")

    def interface_options(self) -> list[str]:
        return [word for port, name in self.data_interfaces.items() for word in ("-i", f"{port}@{name}")]

    def start_controller(self) -> None:
        self._await(f"127.0.0.1:{P4RUNTIME_PORT}")
        ports = self.data_interfaces
        self.switchml(
            "controller",
            *("--target", f"p4runtime://127.0.0.1:{P4RUNTIME_PORT}", "--pipeline", str(self.program)),
            *("--data-address", DATA_ADDRESS, "--ports", ",".join(map(str, ports))),
            *("--listen", self.control_address, "--token", TOKEN),
        )


class P4EmulatorSwitch(_P4Switch):
    """The emulator running a P4 program on packet sockets."""

    def start_switch(self) -> None:
        """See `AggregatingSwitch`."""
        self.switchml(
            "switch",
            *("--pipeline", "none", *self.interface_options()),
            *("--p4runtime-port", str(P4RUNTIME_PORT), "--token", TOKEN),
        )
        self.start_controller()


class BMv2Switch(_P4Switch):
    """BMv2's simple_switch_grpc, which 256 elements can end: see p4/README.md."""

    elements = 64

    def start_switch(self) -> None:
        """See `AggregatingSwitch`."""
        binary = find_bmv2()
        if binary is None:
            raise TestbedError("simple_switch_grpc is not in PATH; set SWITCHML_BMV2_GRPC to where it is")
        address = f"127.0.0.1:{P4RUNTIME_PORT}"
        self.run_process(
            "bmv2",
            [
                *(binary, "--no-p4", "--log-level", "off", *self.interface_options(), "--"),
                *("--grpc-server-addr", address, "--cpu-port", str(CPU_PORT)),
            ],
        )
        self.start_controller()


SWITCHES: dict[str, type[AggregatingSwitch]] = {
    "native": NativeSwitch,
    "p4": P4EmulatorSwitch,
    "bmv2": BMv2Switch,
}


def _end_with_parent() -> None:
    """In the child: be told to end when Mininet's process is gone, however that came about."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def make_bridge(name: str, address: str, mac: str | None, interfaces: list[str]) -> None:
    """A bridge over `interfaces`, with an address of its own, in the namespace of the calling thread."""
    with IPRoute() as route:
        route.link("add", ifname=name, kind="bridge", br_mcast_snooping=0, br_stp_state=0)
        index = route.link_lookup(ifname=name)[0]
        if mac:
            route.link("set", index=index, address=mac)
        route.addr("add", index=index, address=address, prefixlen=PREFIX)
        for interface in interfaces:
            port = route.link_lookup(ifname=interface)[0]
            route.link("set", index=port, master=index, state="up")
        for ready in (1, index):  # loopback comes first in every namespace
            route.link("set", index=ready, state="up")


def _listens(host: str, port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False
