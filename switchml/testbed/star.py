"""A switch in the middle and one link to every worker, each in a network namespace of its own.

    hub namespace:     br0 (10.83.0.254) -- port0, port1, ...       the switch's process runs here
    worker namespace:  eth0 (10.83.0.1 + rank) -- its port          one a worker

Frames between workers (gloo, MPI) and frames of the switch's process cross the same links: each is shaped at
the worker's end towards the hub and at the hub's end towards the worker. Delay is the kernel's netem or, where it has none, the
work of a thread that carries frames between TAP interfaces, which then stand where the ends of veth pairs do. The bridge floods
multicast to all ports, so one packet that the switch sends to a group reaches every worker through its own shaped port.

With racks there is a hub for each, and the one in the middle has a link to each of them in the place of the workers':

    rack's namespace:  br0 (10.83.0.253 - rack) -- port0, port1, ..., up      a rack's switch runs here
    hub namespace:     br0 (10.83.0.254) -- rack0, rack1, ...

What a rack's switch sends to a group stays in the rack; what one in the middle sends reaches all workers.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from switchml.closing import Closing
from switchml.errors import TestbedError
from switchml.testbed.delay_line import DelayLines
from switchml.testbed.link import drop_at_random, drop_groups, has_netem, shape_egress
from switchml.testbed.namespace import Namespace
from switchml.testbed.shape import LinkShape
from switchml.testbed.tap import open_tap

BRIDGE = "br0"
WORKER_INTERFACE = "eth0"
MAX_WORKERS = 200
MAX_RACKS = 50
CARRIER_SECONDS = 10.0
_TAP_FRAMES = 10_000  # may wait for the thread that carries them: at 1 Gbit/s a tenth of a second
_NUD_PERMANENT = 0x80
_FORWARDING = 3


_UPLINK = "up"
_HUB_HOST = 254


def _address(host: int) -> str:
    return f"10.83.0.{host}"


def worker_address(rank: int) -> str:
    """The IPv4 address of a worker."""
    return _address(rank + 1)


def rack_address(rack: int) -> str:
    """That of a switch in a rack."""
    return _address(_HUB_HOST - 1 - rack)


HUB_ADDRESS = _address(_HUB_HOST)


def _hardware_address(host: int) -> str:
    return f"02:00:0a:53:00:{host:02x}"


class Star(Closing):
    """A star of `workers` links, or of racks of them. A context manager; also taken down when the interpreter ends.

    Args:
        workers: their number.
        shape: of each worker's link.
        mtu: bytes, of all links.
        racks: hubs between the workers and the one in the middle, each with as many workers in a row; 1 = none.
        uplink: of each rack's link to the middle; None = as `shape`.

    Attributes:
        hub: the namespace in the middle.
        racks: those of the racks; the hub alone where there are none.
        workers: the workers' namespaces, by rank.

    Raises:
        TestbedError: without root, or when the kernel lacks what the shape asks for.
    """

    interface = WORKER_INTERFACE
    hub_address = HUB_ADDRESS

    def __init__(
        self,
        workers: int,
        shape: LinkShape | None = None,
        *,
        mtu: int = 1500,
        racks: int = 1,
        uplink: LinkShape | None = None,
    ) -> None:
        if not 1 <= workers <= MAX_WORKERS:
            raise TestbedError(f"{workers} workers: a star has 1 to {MAX_WORKERS}")
        if not 1 <= racks <= MAX_RACKS or workers % racks:
            raise TestbedError(
                f"{workers} workers in {racks} racks: there may be {MAX_RACKS}, each with as many workers"
            )
        self.shape = shape if shape is not None else LinkShape()
        self.uplink = uplink if uplink is not None else self.shape
        self.mtu = mtu
        self._stack = contextlib.ExitStack()
        atexit.register(self.close)
        try:
            self.hub = self._stack.enter_context(Namespace("hub"))
            self.racks: tuple[Namespace, ...] = (self.hub,)
            if racks > 1:
                self.racks = tuple(
                    self._stack.enter_context(Namespace(f"rack {number}")) for number in range(racks)
                )
            self.workers = tuple(
                self._stack.enter_context(Namespace(f"worker {rank}")) for rank in range(workers)
            )
            self._wire()
        except NetlinkError as error:
            self.close()
            raise TestbedError(f"building a star of {workers} links: {error}") from error
        except BaseException:
            self.close()
            raise

    def rack_of(self, rank: int) -> int:
        """The number of a worker's rack."""
        return rank * len(self.racks) // len(self.workers)

    def _wire(self) -> None:
        self._shaping = self.shape
        if self.shape.delay and not self.hub.call(has_netem):
            self._shaping = dataclasses.replace(self.shape, delay=0.0)
        self.hub.call(self._make_hub, _HUB_HOST)
        names = {hub: [BRIDGE] for hub in (self.hub, *self.racks)}
        for number, rack in enumerate(self.racks if len(self.racks) > 1 else ()):
            rack.call(self._make_hub, _HUB_HOST - 1 - number)
            self.hub.call(self._lay_link, f"rack{number}", rack, _UPLINK)
            for hub, name in ((self.hub, f"rack{number}"), (rack, _UPLINK)):
                hub.call(self._make_port, name, self.uplink)
                names[hub].append(name)
            rack.call(drop_groups, _UPLINK)
        if self._shaping != self.shape:
            try:
                self._lay_delay_lines()
            except TestbedError as error:
                raise TestbedError(
                    f"a delay needs the kernel module sch_netem or TAP interfaces, and there is neither: {error}"
                ) from error
        for rank, worker in enumerate(self.workers):
            hub, name = self.racks[self.rack_of(rank)], f"port{rank}"
            if self._shaping == self.shape:
                hub.call(self._lay_link, name, worker, WORKER_INTERFACE)
            worker.call(self._make_worker, rank)
            hub.call(self._make_port, name, self._shaping)
            names[hub].append(name)
        deadline = time.monotonic() + CARRIER_SECONDS
        for hub, ports in names.items():
            hub.call(_await_carrier, ports, deadline)
        for worker in self.workers:
            worker.call(_await_carrier, [WORKER_INTERFACE], deadline)

    def _make_hub(self, host: int) -> None:
        _quiet()
        with IPRoute() as route:
            route.link("add", ifname=BRIDGE, kind="bridge", br_mcast_snooping=0, br_stp_state=0)
            index = _index(route, BRIDGE)
            route.link("set", index=index, address=_hardware_address(host), mtu=self.mtu, **self._offload())
            route.addr("add", index=index, address=_address(host), prefixlen=24)
            self._raise_link(route, index)
            self._pin_neighbours(route, index, host)

    def _lay_link(self, name: str, other: Namespace, far_name: str) -> None:
        with IPRoute() as route:
            peer = {"ifname": far_name, "net_ns_fd": other.fd, "mtu": self.mtu}
            route.link("add", ifname=name, kind="veth", mtu=self.mtu, peer=peer)

    def _lay_delay_lines(self) -> None:
        pairs = []
        for rank, worker in enumerate(self.workers):
            ends = ((worker, WORKER_INTERFACE), (self.racks[self.rack_of(rank)], f"port{rank}"))
            near, far = (namespace.call(self._make_end, name) for namespace, name in ends)
            pairs.append((near, far))
        self._stack.enter_context(DelayLines(pairs, self.shape.delay, self.shape.rate))

    def _make_end(self, name: str) -> int:
        descriptor = open_tap(name)
        self._stack.callback(os.close, descriptor)
        with IPRoute() as route:
            route.link("set", index=_index(route, name), mtu=self.mtu, txqlen=_TAP_FRAMES)
        return descriptor

    def _make_worker(self, rank: int) -> None:
        _quiet()
        with IPRoute() as route:
            index = _index(route, WORKER_INTERFACE)
            route.link("set", index=index, address=_hardware_address(rank + 1), **self._offload())
            route.addr("add", index=index, address=worker_address(rank), prefixlen=24)
            self._raise_link(route, index)
            self._pin_neighbours(route, index, rank + 1)
            route.route("add", dst="224.0.0.0/4", oif=index)
            shape_egress(route, index, self._shaping)
        if self.shape.loss:
            drop_at_random(WORKER_INTERFACE, self.shape.loss)

    def _make_port(self, name: str, shape: LinkShape) -> None:
        with IPRoute() as route:
            index = _index(route, name)
            route.link("set", index=index, master=_index(route, BRIDGE), **self._offload())
            self._raise_link(route, index)
            shape_egress(route, index, shape)
        if shape.loss:
            drop_at_random(name, shape.loss)

    def _pin_neighbours(self, route: IPRoute, index: int, host: int) -> None:
        # A lost ARP request costs a second, which would be charged to the system under test.
        racks = range(_HUB_HOST - len(self.racks), _HUB_HOST) if len(self.racks) > 1 else ()
        for other in (_HUB_HOST, *racks, *range(1, len(self.workers) + 1)):
            if other != host:
                hardware = _hardware_address(other)
                route.neigh("add", ifindex=index, dst=_address(other), lladdr=hardware, state=_NUD_PERMANENT)

    def _raise_link(self, route: IPRoute, index: int) -> None:
        route.link("set", index=1, state="up")
        route.link("set", index=index, state="up")

    def _offload(self) -> dict[str, int]:
        # Loss must hit single packets: with trains on the link it would drop sixty at a time.
        return {"gso_max_segs": 1} if self.shape.loss or self.uplink.loss else {}

    def close(self) -> None:
        """End what runs in the namespaces and remove them. Idempotent."""
        atexit.unregister(self.close)
        self._stack.close()


def _index(route: IPRoute, name: str) -> int:
    found: list[int] = list(route.link_lookup(ifname=name))
    if not found:
        raise TestbedError(f"interface {name} did not appear")
    return found[0]


def _await_carrier(names: list[str], deadline: float) -> None:
    """Return when the interfaces pass frames.

    The kernel notices a new link up to a second later, and until then a bridge port forwards nothing and a queue drops what it is
    given.
    """
    with IPRoute() as route:
        for name in names:
            index = _index(route, name)
            while not _passes_frames(route.get_links(index)[0]):
                if time.monotonic() > deadline:
                    raise TestbedError(f"interface {name} did not come up within {CARRIER_SECONDS:g} s")
                time.sleep(0.002)


def _passes_frames(link: Any) -> bool:
    info = link.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info is not None else ""
    # A TAP interface has its carrier from the beginning, and the kernel never says that it is up.
    if link.get_attr("IFLA_OPERSTATE") != "UP" and not (kind == "tun" and link.get_attr("IFLA_CARRIER")):
        return False
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info is not None else None
    return port is None or port.get_attr("IFLA_BRPORT_STATE") == _FORWARDING


def _quiet() -> None:
    """No IPv6 chatter on the links."""
    switch = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    if switch.exists():
        switch.write_text("1")
