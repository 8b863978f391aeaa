"""Links of a Mininet network with a rate, loss and delay that hold with and without the kernel's netem.

    host's interface [tbf] ---------------------------------- [tbf] switch's interface          no loss
    host's interface [tbf] -- a [nft] = bridge = b [nft] ---- [tbf] switch's interface          with loss

Each end limits what it sends, as a network card does. Loss is drawn in a box in the middle of the cable, for a packet socket (of
the P4 emulator, of BMv2) sees frames before any filter of its own interface. netem, where there is one, makes the delay; where
there is none a delay is refused.
"""

from __future__ import annotations

from typing import Any

from mininet.link import Intf, Link
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from switchml.testbed import LinkShape, Namespace, TestbedError
from switchml.testbed.link import drop_at_random, shape_egress
from switchml.testbed.offload import switch_off_offloads


class ShapedInterface(Intf):  # type: ignore[misc]
    """Limits and delays what it sends, and carries frames as a wire would."""

    def config(self, *, shape: LinkShape | None = None, **params: Any) -> dict[str, Any]:
        """Called by Mininet once the interface stands in its namespace."""
        configured: dict[str, Any] = super().config(**params)
        namespace = Namespace.of_process(self.node.pid, self.node.name)
        try:
            namespace.call(_make_like_a_wire, self.name, shape or LinkShape())
        finally:
            namespace.close()
        return configured


class ShapedLink(Link):  # type: ignore[misc]
    """A cable."""

    def __init__(self, node1: Any, node2: Any, *, shape: LinkShape | None = None, **params: Any) -> None:
        """Lay it between two nodes.

        Args:
            node1: one of them.
            node2: the other.
            shape: what the cable does in each direction; None = nothing.
            params: Mininet's.

        Raises:
            TestbedError: this kernel cannot do that.
        """
        self._shape = shape or LinkShape()
        self._box: Namespace | None = None
        super().__init__(node1, node2, **{**params, "intf": ShapedInterface, "shape": self._shape})

    def makeIntfPair(  # Mininet's name for the hook
        self, intfname1: str, intfname2: str, addr1: str, addr2: str, node1: Any, node2: Any, **_: Any
    ) -> None:
        """Called by Mininet to make the two ends."""
        ends = [(intfname1, addr1, node1.pid), (intfname2, addr2, node2.pid)]
        self._box = Namespace(f"{intfname1}-{intfname2}")
        self._box.call(_lay_cable, ends, self._shape.loss)
        if not self._shape.loss:
            self._box.close()  # the interfaces have left it

    def delete(self) -> None:
        """Called by Mininet at the end."""
        super().delete()
        if self._box is not None:
            self._box.close()


def _make_like_a_wire(name: str, shape: LinkShape) -> None:
    switch_off_offloads(name)
    with IPRoute() as route:
        shape_egress(route, route.link_lookup(ifname=name)[0], shape)


def _lay_cable(ends: list[tuple[str, str, int]], loss: float) -> None:
    """ends: name, MAC address and process of the namespace, of each side."""
    with IPRoute() as route:
        try:
            if not loss:
                (name, mac, pid), (peer_name, peer_mac, peer_pid) = ends
                peer = {"ifname": peer_name, "address": peer_mac, "net_ns_pid": peer_pid}
                route.link("add", ifname=name, kind="veth", address=mac, peer=peer)
                route.link("set", index=route.link_lookup(ifname=name)[0], net_ns_pid=pid)
                return
            route.link("add", ifname="box", kind="bridge", br_mcast_snooping=0, br_stp_state=0)
            box = route.link_lookup(ifname="box")[0]
            for inner, (name, mac, pid) in zip("ab", ends, strict=True):
                peer = {"ifname": name, "address": mac, "net_ns_pid": pid}
                route.link("add", ifname=inner, kind="veth", peer=peer)
                index = route.link_lookup(ifname=inner)[0]
                route.link("set", index=index, master=box, state="up")
            route.link("set", index=box, state="up")
        except NetlinkError as error:
            raise TestbedError(f"laying a link between {ends[0][0]} and {ends[1][0]}: {error}") from error
    for inner in "ab":
        drop_at_random(inner, loss)
