"""A tree of emulated switches in one process, with one controller, and a control service for the workers of each that has any."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from switchml.closing import Closing
from switchml.control.control_messages import LEASE
from switchml.control.controller import Controller
from switchml.control.server import Leaf, serve
from switchml.control.tls import ServerTls
from switchml.control.topology import Topology
from switchml.control.tree import SwitchTree
from switchml.switch_emulator.faults import Faults, new_faults
from switchml.switch_emulator.native_target import EmulatorTarget, prepare_racks


class EmulatedTree(Closing):
    """Emulated switches below each other that run until `close`; a context manager.

    Args:
        topology: which is below which, and their addresses, which are of this machine.
        token: what workers must show; "" for none.
        lease: seconds of silence after which a worker is taken for dead.
        faults: makes those of each switch, from its number; what goes between two switches has them on the way out and in.
        offload: False forbids segmentation offload.
        tls: of the control services.
        within: gives what the function that it is called with gives, called in the network namespace of the switch of that name,
            so that its sockets are there.

    Raises:
        PortInUseError: one of the ports is taken.
        UsageError: an address is none of this machine.

    Attributes:
        targets: the switches by name.
        controller: of all.
        control_addresses: host:port where the workers of a switch join, by its name.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        token: str = "",
        lease: float = LEASE,
        faults: Callable[[int], Faults] = lambda _: new_faults(),
        offload: bool = True,
        tls: ServerTls | None = None,
        within: Callable[[str, Callable[[], Any]], Any] = lambda _, opened: opened(),
    ) -> None:
        self.targets: dict[str, EmulatorTarget] = {}
        self.control_addresses: dict[str, str] = {}
        self._services = contextlib.ExitStack()
        prepare_racks()
        with contextlib.ExitStack() as stack:
            for number, switch in enumerate(topology.switches):
                open_port = partial(EmulatorTarget, *switch.data, faults=faults(number), offload=offload)
                target = self.targets[switch.name] = within(switch.name, open_port)
                stack.callback(target.close)
            self._tree = tree = SwitchTree(topology, self.targets)
            self.controller = Controller(tree, token=token, lease=lease)
            stack.enter_context(self._services)
            for switch in topology.switches:
                if switch.control is not None:
                    leaf = Leaf(switch.name, tree.describe_at(switch.name))
                    listen = partial(serve, self.controller, *switch.control, tls=tls, leaf=leaf)
                    server = within(switch.name, listen)
                    self._services.callback(server.close)
                    self.control_addresses[switch.name] = server.address
            self._all = stack.pop_all()

    def counters(self) -> dict[str, int]:
        """Counters of all switches together since they began, by name (protocol/counters.py)."""
        return self._tree.counters()

    def close(self) -> None:
        """End everything. Idempotent."""
        self.controller.close()
        self._all.close()
