"""One switch in the middle and a link to every worker, as a Mininet network.

    h1 ... hN    workers: eth0 on the data network, 10.83.0.1 ..., and ctl on the control network, 10.84.0.1 ...
    s1           the switch (switches.py)

Everything is in network namespaces; the machine's own interfaces and settings are left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import links
import switches
from mininet.link import Link
from mininet.net import Mininet
from mininet.node import Node
from mininet.topo import Topo
from pyroute2 import IPRoute

from switchml.packets.made_macs import SWITCH_MAC
from switchml.termination import orderly_end
from switchml.testbed import LinkShape, Namespace, TestbedError, why_unavailable

MAX_WORKERS = 64

_NUD_PERMANENT = 0x80


def worker_address(rank: int, network: int = 83) -> str:
    """IPv4 of a worker: 10.83 the data network, 10.84 the control network."""
    return f"10.{network}.0.{rank + 1}"


def worker_mac(rank: int) -> str:
    """MAC address of a worker's data interface."""
    return f"02:00:0a:53:00:{rank + 1:02x}"


class WorkerHost(Node):  # type: ignore[misc]
    """A host with a data and a control interface.

    It knows the data network's addresses from the start: a lost ARP request costs a second.
    """

    def config(self, *, rank: int, workers: int, **params: Any) -> dict[str, Any]:
        """Called by Mininet once the interfaces are there."""
        configured: dict[str, Any] = super().config(**params)
        namespace = Namespace.of_process(self.pid, self.name)
        try:
            namespace.call(_pin_neighbours, f"{self.name}-eth0", rank, workers)
        finally:
            namespace.close()
        return configured


def _pin_neighbours(interface: str, rank: int, workers: int) -> None:
    with IPRoute() as route:
        index = route.link_lookup(ifname=interface)[0]
        known = {worker_address(other): worker_mac(other) for other in range(workers) if other != rank}
        for address, mac in {**known, switches.DATA_ADDRESS: SWITCH_MAC}.items():
            route.neigh("replace", ifindex=index, dst=address, lladdr=mac, state=_NUD_PERMANENT)
        route.route("replace", dst="224.0.0.0/4", oif=index)


class Star(Topo):  # type: ignore[misc]
    """A switch in the middle and a link to every worker."""

    def build(
        self, *, workers: int, shape: LinkShape, switch: type[switches.AggregatingSwitch], **params: Any
    ) -> None:
        """Called by Mininet.

        Args:
            workers: how many.
            shape: of every worker's link.
            switch: a class of switches.py.
            params: of that class.
        """
        middle = self.addSwitch("s1", cls=switch, **params)
        for rank in range(workers):
            host = self.addHost(
                f"h{rank + 1}",
                cls=WorkerHost,
                ip=f"{worker_address(rank)}/{switches.PREFIX}",
                mac=worker_mac(rank),
                rank=rank,
                workers=workers,
            )
            self.addLink(
                host,
                middle,
                cls=links.ShapedLink,
                shape=shape,
                port1=0,
                port2=rank + 1,
                addr1=worker_mac(rank),
            )
            self.addLink(
                *(host, middle),
                cls=Link,
                intfName1=f"{host}-ctl",
                port1=1,
                port2=switches.CONTROL_PORTS + rank,
                intfName2=f"s1-ctl{rank + 1}",
                params1={"ip": f"{worker_address(rank, 84)}/{switches.PREFIX}"},
            )


class Network:
    """A running star. namespaces: of the workers, by rank. control_address: where workers join."""

    def __init__(self, net: Mininet, switch: switches.AggregatingSwitch, namespaces: list[Namespace]) -> None:
        self.net = net
        self.switch = switch
        self.namespaces = namespaces
        self.control_address = switch.control_address


def why_not(switch: str, shape: LinkShape) -> str | None:
    """Why this network cannot be built here; None = it can."""
    if os.geteuid() != 0:
        return "Mininet needs root"
    missing = [name for name in ("mnexec", "ifconfig", "ip") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install mininet"
    if switch == "bmv2" and switches.find_bmv2() is None:
        return "simple_switch_grpc is not in PATH; set SWITCHML_BMV2_GRPC to where it is"
    return why_unavailable(rate=bool(shape.rate), loss=bool(shape.loss))


@contextlib.contextmanager
def star(switch: str, workers: int, shape: LinkShape, *, program: Path | None = None) -> Iterator[Network]:
    """A running network, taken down at the end.

    Raises `TestbedError` with the reason when it cannot be built here, `SwitchDidNotStart` when its switch does not start.
    """
    reason = why_not(switch, shape)
    if reason is not None:
        raise TestbedError(reason)
    if not 1 <= workers <= MAX_WORKERS:
        raise TestbedError(f"{workers} workers: a star has 1 to {MAX_WORKERS}")
    params = {} if program is None or switch == "native" else {"program": program}
    topology = Star(workers=workers, shape=shape, switch=switches.SWITCHES[switch], **params)
    Mininet.inited = True  # its own initialisation would widen limits of the whole machine and leave them so
    net = Mininet(topo=None, controller=None)
    namespaces: list[Namespace] = []
    with orderly_end():
        try:
            net.topo = topology
            net.build()
            for host in net.hosts:
                namespaces.append(Namespace.of_process(host.pid, host.name))
            net.start()
            yield Network(net, net["s1"], namespaces)
        finally:
            for namespace in namespaces:
                namespace.close()
            net.stop()
