"""Links between a switch's namespace and its workers', whose ends the benchmark drives itself with packet sockets."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence

from pyroute2 import IPRoute
from typing_extensions import override

from switchml.bench.packet_load import Station, Wire
from switchml.closing import Closing
from switchml.errors import BenchError
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.testbed.namespace import Namespace
from switchml.testbed.star import BRIDGE, HUB_ADDRESS, WORKER_INTERFACE, Star, worker_address

_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_ETH_P_IP = 0x0800
_BUFFER = 4 << 20
_LARGEST = 2048
_BATCH = 32
_WORKER_PORT = 0xC000


class PacketLinks(Closing, Wire):
    """A `Wire` over virtual Ethernet links, one a worker; a context manager.

    Attributes:
        switch: where packets to the switch go.
        workers: where the workers are, by rank.
        ports: names of the switch's ends in `namespace`, by port number.
    """

    def __init__(self, workers: int, *, bridged: bool) -> None:
        """Build the links.

        Args:
            workers: how many.
            bridged: whether the switch's ends lie under a bridge that has the switch's address, for a switch on the kernel's UDP.
                Otherwise they are free, for one that takes frames.

        Raises:
            TestbedError: without root.
        """
        self._star = Star(workers)
        self._sockets: list[socket.socket] = []
        self._poll = select.epoll()
        self._ranks: dict[int, int] = {}
        self.ports = {rank + 1: f"port{rank}" for rank in range(workers)}
        try:
            self.switch = Station(self.namespace.call(_mac, BRIDGE), HUB_ADDRESS, UDP_PORT_FIRST)
            self.workers = tuple(
                Station(namespace.call(_mac, WORKER_INTERFACE), worker_address(rank), _WORKER_PORT + rank)
                for rank, namespace in enumerate(self._star.workers)
            )
            for rank, namespace in enumerate(self._star.workers):
                # The kernel is not to answer what is meant for us.
                namespace.call(_forget_addresses, WORKER_INTERFACE)
                sock = namespace.call(_packet_socket, WORKER_INTERFACE)
                self._sockets.append(sock)
                self._ranks[sock.fileno()] = rank
                self._poll.register(sock, select.EPOLLIN)
            if not bridged:
                self.namespace.call(_free, list(self.ports.values()))
        except BaseException:
            self.close()
            raise

    @property
    def namespace(self) -> Namespace:
        """Where the switch runs."""
        return self._star.hub

    @override
    def send(self, rank: int, frame: bytearray) -> None:
        try:
            self._sockets[rank].send(frame)
        except BlockingIOError:
            pass  # lost; sent again later
        except OSError as error:
            raise BenchError(f"worker {rank} cannot send: {error.strerror}") from error

    @override
    def receive(self, seconds: float) -> Sequence[tuple[int, bytes]]:
        found = []
        for descriptor, _ in self._poll.poll(seconds):
            rank = self._ranks[descriptor]
            receive = self._sockets[rank].recv
            with contextlib.suppress(BlockingIOError):
                for _ in range(_BATCH):
                    found.append((rank, receive(_LARGEST)))
        return found

    @override
    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._poll.close()
        self._star.close()


def _mac(interface: str) -> int:
    with IPRoute() as route:
        (link,) = route.get_links(route.link_lookup(ifname=interface)[0])
        return int(str(link.get_attr("IFLA_ADDRESS")).replace(":", ""), 16)


def _forget_addresses(interface: str) -> None:
    with IPRoute() as route:
        route.flush_addr(index=route.link_lookup(ifname=interface)[0])


def _free(interfaces: list[str]) -> None:
    with IPRoute() as route:
        for name in interfaces:
            route.link("set", index=route.link_lookup(ifname=name)[0], master=0)
        route.link("del", index=route.link_lookup(ifname=BRIDGE)[0])


def _packet_socket(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        sock.setblocking(False)
        sock.bind((interface, _ETH_P_IP))
    except BaseException:
        sock.close()
        raise
    return sock
