"""A UDP socket as the ports of a switch: frames are put around datagrams that come and taken off those that go.

A P4 program so serves workers without a Linux interface of its own and without root. Every sender is a station behind a port
of its own, numbered in the order of their first datagrams, with a MAC address made from that number. The switch's own MAC is
`SWITCH_MAC`; IP addresses and UDP ports are the real ones. When all numbers are taken the station least recently heard gives
its own to a newcomer, but never a joined worker's (`keep`), however many strangers send.
"""

from __future__ import annotations

import select
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from typing_extensions import override

from switchml.control.address import listen_error
from switchml.errors import UsageError
from switchml.link.datagrams import enlarge_buffers
from switchml.packets.ethernet import UdpHeaders, datagram_in, mac_bytes
from switchml.packets.made_macs import SWITCH_MAC
from switchml.switch_emulator.ports.interface import Frame, Ports

MAX_STATIONS = 509  # ports have nine bits in v1model; 510 is the control plane's and 511 drops

_BATCH = 64
_LARGEST = 65536
_SOCKET_BUFFER = 4 << 20

Address = tuple[str, int]


def station_mac(port: int) -> bytes:
    """The source MAC of what comes in by a port."""
    return b"\x02\x01" + port.to_bytes(4, "big")


@dataclass
class _Station:
    port: int
    headers: UdpHeaders
    built: dict[int, bytes] = field(default_factory=dict)  # the same few lengths come again and again

    def frame(self, payload: bytes) -> bytes:
        header = self.built.get(len(payload))
        if header is None:
            header = self.headers.build(len(payload))
            if len(self.built) < _BATCH:
                self.built[len(payload)] = header
        return header + payload


class UdpPorts(Ports):
    """A UDP socket as ports, one a station.

    Args:
        host: the dotted address workers send to, which becomes the frames' destination.
        port: 0 for a free one.

    Raises:
        UsageError: `host` is no address of this machine that a frame could be sent to.
        PortInUseError: the port is taken.
    """

    def __init__(self, host: str, port: int = 0, *, max_stations: int = MAX_STATIONS) -> None:
        if host == "0.0.0.0":
            raise UsageError(
                "a P4 pipeline answers for one address: give the one that workers reach, --host ADDRESS"
            )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise listen_error(error, "UDP", host, port, "--port") from error
        enlarge_buffers(self._socket, _SOCKET_BUFFER)
        self.address: Address = self._socket.getsockname()
        self._max = max_stations
        # The least recently heard first.
        self._stations: OrderedDict[Address, _Station] = OrderedDict()
        self._kept: frozenset[Address] = frozenset()
        self._full = 0
        self._crowded = 0
        self._foreign = 0

    @override
    def receive(self, deadline: float) -> list[Frame]:
        frames = self._read()
        if not frames:
            select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))
            frames = self._read()
        return frames

    def _read(self) -> list[Frame]:
        frames: list[Frame] = []
        for _ in range(_BATCH):
            try:
                payload, sender = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error about something sent earlier
            station = self._station(sender)
            if station is not None:
                frames.append(Frame(station.port, station.frame(payload), time.time_ns()))
        return frames

    def keep(self, addresses: Iterable[Address]) -> None:
        """These, and no others, keep their stations whatever else comes: joined workers. From any thread."""
        self._kept = frozenset(addresses)

    def _taken_back(self) -> int:
        """The number of the least recently heard station that nobody keeps; 0 = there is none."""
        for _ in range(len(self._stations)):
            address, station = self._stations.popitem(last=False)
            if address not in self._kept:
                return station.port
            self._stations[address] = station
        return 0

    def _station(self, sender: Address) -> _Station | None:
        station = self._stations.get(sender)
        if station is not None:
            self._stations.move_to_end(sender)
            return station
        number = len(self._stations) + 1
        if number > self._max:
            number = self._taken_back()
            if number == 0:
                self._crowded += 1
                return None
        headers = UdpHeaders(
            *(station_mac(number), mac_bytes(SWITCH_MAC)),
            *(socket.inet_aton(sender[0]), socket.inet_aton(self.address[0])),
            *(sender[1], self.address[1]),
        )
        station = self._stations[sender] = _Station(number, headers)
        return station

    @override
    def send(self, port: int, data: bytes) -> None:
        datagram = datagram_in(data)
        if datagram is None:
            self._foreign += 1
            return
        try:
            self._socket.sendto(datagram.payload, (datagram.address, datagram.port))
        except OSError:
            self._full += 1

    def counters(self) -> Mapping[str, int]:
        """By name.

        dropped_not_udp: frames that left the pipeline and do not fit into a datagram.
        dropped_no_station: datagrams of strangers when joined workers have all stations.
        """
        return {
            "dropped_port_full": self._full,
            "dropped_not_udp": self._foreign,
            "dropped_no_station": self._crowded,
        }

    @override
    def fileno(self) -> int:
        return self._socket.fileno()

    @override
    def close(self) -> None:
        self._socket.close()
