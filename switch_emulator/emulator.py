"""A whole emulated switch: data port, pipeline, shared memory, controller and its service."""

from __future__ import annotations

from collections.abc import Sequence

from switchml.closing import Closing
from switchml.control.control_messages import LEASE
from switchml.control.controller import Controller
from switchml.control.server import ControlServer, serve
from switchml.control.tenants import Tenant
from switchml.control.tls import ServerTls
from switchml.switch_emulator.faults import Faults
from switchml.switch_emulator.native_target import EmulatorTarget


class Emulator(Closing):
    """An emulated switch that runs until `close`; a context manager.

    Args:
        host: dotted IPv4 to listen on; 0.0.0.0 for all.
        udp_port: 0 for a free one.
        control_port: 0 for a free one.
        token: what workers must show; "" for none.
        tenants: who shows a token of their own, and have a share of the switch.
        lease: seconds of silence after which a worker is taken for dead.
        faults: see `faults.new_faults`.
        offload: False forbids segmentation offload.
        capture: path of a pcap file for all packets, "" = none.
        tls: of the control service.

    Raises:
        PcapError: that file cannot be written.
        PortInUseError: one of the ports is taken.
        UsageError: the host is no address of this machine.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        udp_port: int = 0,
        control_port: int = 0,
        token: str = "",
        tenants: Sequence[Tenant] = (),
        lease: float = LEASE,
        faults: Faults | None = None,
        offload: bool = True,
        capture: str = "",
        tls: ServerTls | None = None,
    ) -> None:
        self.target = EmulatorTarget(host, udp_port, faults=faults, offload=offload, capture=capture)
        try:
            self.controller = Controller(self.target, token=token, tenants=tenants, lease=lease)
            self._server: ControlServer = serve(self.controller, host, control_port, tls=tls)
        except BaseException:
            self.target.close()
            raise

    @property
    def control_address(self) -> str:
        """host:port of the control service."""
        return self._server.address

    @property
    def udp_address(self) -> str:
        """host:port of the data port."""
        description = self.target.describe()
        return f"{description.host}:{description.udp_port}"

    def counters(self) -> dict[str, int]:
        """Counters of the whole switch since it began, by name (protocol/counters.py)."""
        return self.target.counters()

    def close(self) -> None:
        """End everything. Idempotent."""
        self._server.close()
        self.controller.close()
        self.target.close()
