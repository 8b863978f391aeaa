"""A whole emulated P4 switch: ports, a P4 program, its P4Runtime service and, where it serves workers over UDP, a controller.

    P4Emulator       frames of any ports through a program that is programmed over P4Runtime
    P4UdpEmulator    the same on a UDP socket, with a controller of its own: workers join it as they join the native switch

The controller of the second is the one that programs any P4 switch (control/p4runtime); it reaches its own switch through the
same P4Runtime service as everybody else would.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from switchml.closing import Closing
from switchml.control.control_messages import LEASE
from switchml.control.tenants import Tenant
from switchml.control.tls import ServerTls
from switchml.errors import PortInUseError, SwitchMLError, UsageError
from switchml.p4runtime.p4info_files import p4info_beside, parse_p4info, refuse_source
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.protocol.messages import UDP_PORT_FIRST, UDP_PORT_LAST
from switchml.switch_emulator.forwarding import Forwarding
from switchml.switch_emulator.p4.device import P4Device
from switchml.switch_emulator.p4.egress_queues import QueueLimits
from switchml.switch_emulator.p4.switch import P4Switch
from switchml.switch_emulator.ports.capture import CapturedPorts
from switchml.switch_emulator.ports.chosen_trace import ChosenTrace
from switchml.switch_emulator.ports.faulty import FaultRates, FaultyPorts
from switchml.switch_emulator.ports.interface import Ports
from switchml.switch_emulator.ports.trace import TracedPorts
from switchml.switch_emulator.ports.udp import UdpPorts

if TYPE_CHECKING:
    from switchml.control.controller import Controller

_LOOPBACK = "127.0.0.1"
# A switch that has its own controller is its controller's: no other client can become primary.
_HIGHEST_ELECTION = (1 << 128) - 1


@dataclass(frozen=True)
class CompiledProgram:
    """A compiled P4 program.

    Attributes:
        config: BMv2's JSON.
        p4info: serialised; b"" = there is none, and so no P4Runtime.
    """

    config: bytes
    p4info: bytes


def read_program(path: Path, p4info: Path | None = None) -> CompiledProgram:
    """A program from its files.

    Args:
        path: NAME.json, as p4c writes it for BMv2.
        p4info: in text form; None = NAME.p4info.txtpb beside NAME.json, if it is there.

    Raises:
        UsageError: a file cannot be read, or holds something else.
    """
    refuse_source(path)
    if p4info is None and p4info_beside(path).is_file():
        p4info = p4info_beside(path)
    try:
        config = path.read_bytes()
        text = p4info.read_text() if p4info is not None else None
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
    if text is None:
        return CompiledProgram(config, b"")
    return CompiledProgram(config, parse_p4info(text).SerializeToString())


@dataclass(frozen=True)
class Wrapping:
    """What is wrapped around the ports.

    Capture and trace show what is on the wire: faults come between them and the pipeline.

    Attributes:
        capture: path of a pcap file, "" = none.
        trace: takes a line for all that happens.
    """

    fault_rates: FaultRates = field(default_factory=FaultRates)
    capture: str = ""
    trace: Callable[[str], None] | None = None

    def around(self, ports: Ports) -> Ports:
        """Closes `ports` when it fails."""
        try:
            if self.capture:
                ports = CapturedPorts(ports, self.capture)
            if self.trace is not None:
                ports = TracedPorts(ports, self.trace)
            if self.fault_rates.active:
                ports = FaultyPorts(ports, self.fault_rates)
        except BaseException:
            ports.close()
            raise
        return ports


class P4Emulator(Closing):
    """A P4 switch that runs until `close`, which also closes `ports`; a context manager.

    Args:
        program: None = none until a controller sets one.
        queues: what the queues of its ports allow; None = packets do not wait.
        p4runtime: where the service listens, host and port (0 = a free one); None = nowhere.
        token: what its clients must show; "" lets everybody in.
        tls: its certificate; None = in the clear.
        private: an abstract Unix socket that it can be reached at as well; "" = none.
        device_id: as P4Runtime names the switch.

    Raises:
        UnsupportedProgramError: what the program needs and this switch has not got.
        PortInUseError: the P4Runtime port is taken.
    """

    def __init__(
        self,
        ports: Ports,
        program: CompiledProgram | None,
        *,
        wrapping: Wrapping | None = None,
        queues: QueueLimits | None = None,
        p4runtime: tuple[str, int] | None = None,
        device_id: int = 0,
        token: str = "",
        tls: ServerTls | None = None,
        private: str = "",
    ) -> None:
        self._stack = contextlib.ExitStack()
        wrapping = wrapping or Wrapping()
        self._ports = wrapping.around(ports)
        self.device = P4Device(
            device_id,
            on_commit=self._on_commit,
            seed=wrapping.fault_rates.seed,
            queues=queues,
            trace=wrapping.trace,
        )
        self.forwarding = Forwarding(
            self._ports, self.device, queues=self.device if queues is not None else None, tick=self._tick
        )
        self._stack.callback(self.forwarding.close)
        self.p4runtime_address = ""
        """host:port of the P4Runtime service; "" without one."""
        try:
            if program is not None:
                self.device.commit(program.p4info, program.config)
            if p4runtime is not None or private:
                from switchml.switch_emulator.p4runtime.p4runtime_server import serve

                host, port = p4runtime or ("", 0)
                server = serve(self.device, host, port, tls=tls, token=token, private=private)
                self.p4runtime_address = self._stack.enter_context(server).address
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Take frames from now on."""
        self.forwarding.start()

    def _on_commit(self, switch: P4Switch) -> None:
        switch.on_transmit(self.forwarding.transmit)

    def _tick(self) -> None:
        with contextlib.suppress(RuntimeRequestError):  # no program yet
            self.device.runtime.check_idle_timeouts()

    @property
    def finished(self) -> bool:
        """Whether nothing can come any more. Raises what ended the loop, if something did."""
        if self.forwarding.failure is not None:
            raise SwitchMLError(
                f"the switch has stopped forwarding: {self.forwarding.failure!r}"
            ) from self.forwarding.failure
        return self.forwarding.finished.is_set()

    def counters(self) -> dict[str, int]:
        """Frames through the ports, by name; the program's own counters are read over P4Runtime."""
        loop = self.forwarding
        return {
            "frames_received": loop.received,
            "frames_sent": loop.sent,
            "dropped_pipeline_failed": loop.failed,
            **self.device.queue_counters(),
            **self._ports.counters(),
        }

    def close(self) -> None:
        """End everything. Idempotent."""
        self._stack.close()


class P4UdpEmulator(Closing):
    """A P4 switch that workers join as they join the native one (`Emulator`, whose interface this is).

    The rest as for `Emulator` and `P4Emulator`.

    Args:
        host: the dotted address of its data port and services.
        udp_port: one of 48864 to 48879, which the program takes; 0 = one of them that is free.
        p4runtime_port: 0 = a free one; None = P4Runtime is for this emulator's own controller alone.
        token: what workers must show, and clients of P4Runtime; "" lets everybody in.
        tenants: workers who show a token of their own; they may have no limit of packets.
        tls: the certificate of both services; None = in the clear.

    Raises:
        UsageError: a program without P4Info, or a port the program does not take.
        PortInUseError: one of the ports is taken.
        P4RuntimeError: the program is not one that aggregates.
    """

    def __init__(
        self,
        program: CompiledProgram,
        host: str = _LOOPBACK,
        *,
        udp_port: int = 0,
        control_port: int = 0,
        p4runtime_port: int | None = None,
        device_id: int = 0,
        token: str = "",
        tenants: Sequence[Tenant] = (),
        lease: float = LEASE,
        wrapping: Wrapping | None = None,
        queues: QueueLimits | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        if not program.p4info:
            raise UsageError("workers can join a P4 program only with its P4Info: --p4info FILE")
        from switchml.control.controller import Controller
        from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
        from switchml.control.p4runtime.p4runtime_target import P4RuntimeTarget
        from switchml.control.server import serve
        from switchml.control.service_thread import private_address

        with contextlib.ExitStack() as stack:
            ports = _listen(host, udp_port)
            asked = p4runtime_port is not None
            # Its own way in: a socket that has a secret of its own when nobody else is meant to come.
            private, shown = (
                f"switchml-p4runtime-{secrets.token_hex(12)}",
                token if asked else secrets.token_hex(16),
            )
            self.udp_address = f"{ports.address[0]}:{ports.address[1]}"
            self.switch = stack.enter_context(
                P4Emulator(
                    ports,
                    program,
                    wrapping=wrapping,
                    queues=queues,
                    p4runtime=(host, p4runtime_port) if p4runtime_port is not None else None,
                    device_id=device_id,
                    token=shown,
                    tls=tls,
                    private=private,
                )
            )
            client = stack.enter_context(
                P4RuntimeClient(
                    private_address(private), device_id=device_id, election_id=_HIGHEST_ELECTION, token=shown
                )
            )
            # The program is there already: loading it again would translate it once more.

            def on_workers(ranks: Mapping[tuple[str, int], int]) -> None:
                ports.keep(ranks)
                if wrapping is not None and isinstance(wrapping.trace, ChosenTrace):
                    wrapping.trace.know(ranks)

            self._target = P4RuntimeTarget(client, *ports.address, ports=(), on_workers=on_workers)
            stack.callback(self._target.close)
            self.controller: Controller = Controller(self._target, token=token, tenants=tenants, lease=lease)
            stack.callback(self.controller.close)
            server = serve(self.controller, host, control_port, tls=tls)
            stack.callback(server.close)
            self.control_address = server.address
            self.switch.start()
            self._stack = stack.pop_all()

    @property
    def p4runtime_address(self) -> str:
        """host:port of the P4Runtime service; "" when it was not asked for."""
        return self.switch.p4runtime_address

    def counters(self) -> dict[str, int]:
        """The program's, by the names of protocol/counters.py, and what happened at the ports."""
        return {**self._target.counters(), **self._port_counters()}

    def _port_counters(self) -> Mapping[str, int]:
        return {name: count for name, count in self.switch.counters().items() if count}

    def close(self) -> None:
        """End everything. Idempotent."""
        self._stack.close()


def _listen(host: str, port: int) -> UdpPorts:
    if port:
        return UdpPorts(host, port)
    for candidate in range(UDP_PORT_FIRST, UDP_PORT_LAST + 1):
        with contextlib.suppress(PortInUseError):
            return UdpPorts(host, candidate)
    raise PortInUseError(
        f"UDP ports {UDP_PORT_FIRST} to {UDP_PORT_LAST} of {host}, all that the P4 program takes, are in use: end another "
        "switch, or give another --host (127.0.0.2 will do)"
    )
