"""Linux interfaces as the ports of a switch, through packet sockets (packet(7)). Needs CAP_NET_RAW."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Mapping

from switchml.link.datagrams import enlarge_buffers
from switchml.switch_emulator.ports.interface import Frame, Ports, PortsError
from switchml.switch_emulator.ports.segmentation import NO_OFFLOAD, VNET_HEADER, wire_frames

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_AUXDATA = 8
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_MR_PROMISC = 1
_ETH_P_ALL = 3
_ETH_P_8021Q = 0x8100

_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VLAN_VALID = 1 << 4
_VLAN_TPID_VALID = 1 << 6

_BATCH = 32  # frames of one interface before the next has its turn
_LARGEST = (1 << 16) + 256
_BUFFER = 4 << 20


def _open(name: str) -> socket.socket:
    try:
        # Protocol 0: nothing comes in before the socket is bound to its interface.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise PortsError(
            "packets on Linux interfaces need root (CAP_NET_RAW): use sudo, or leave -i out and serve workers over UDP"
        ) from error
    try:
        index = socket.if_nametoindex(name)
        for option in (_PACKET_IGNORE_OUTGOING, _PACKET_AUXDATA, _PACKET_VNET_HDR):
            sock.setsockopt(_SOL_PACKET, option, 1)
        membership = struct.pack("=iHH8s", index, _MR_PROMISC, 0, b"")
        sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        enlarge_buffers(sock, _BUFFER)
        sock.setblocking(False)
        sock.bind((name, _ETH_P_ALL))
    except OSError as error:
        sock.close()
        raise PortsError(
            f"interface {name}: {error.strerror or error}; `ip link` lists those there are"
        ) from error
    return sock


class InterfacePorts(Ports):
    """interfaces: name by port number. Frames come in as on a wire (`segmentation`), VLAN tags included.

    Raises:
        PortsError: no such interface, or no permission.
    """

    def __init__(self, interfaces: Mapping[int, str]) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self._by_descriptor: dict[int, int] = {}
        self._memory = bytearray(_LARGEST)
        self._full = self._too_long = self._uncut = 0
        try:
            for port, name in interfaces.items():
                sock = self._sockets[port] = _open(name)
                self._by_descriptor[sock.fileno()] = port
                self._poll.register(sock, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def receive(self, deadline: float) -> list[Frame]:
        frames: list[Frame] = []
        for descriptor, _ in self._poll.poll(max(0.0, deadline - time.monotonic())):
            port = self._by_descriptor[descriptor]
            for _ in range(_BATCH):
                if not self._read(port, frames):
                    break
        return frames

    def _read(self, port: int, frames: list[Frame]) -> bool:
        """Whether there was a frame."""
        try:
            length, ancillary, _, _ = self._sockets[port].recvmsg_into(
                [self._memory], socket.CMSG_SPACE(_AUXDATA.size)
            )
        except OSError:
            return False  # nothing more, or the interface went down
        begin = VNET_HEADER.size
        data = bytes(memoryview(self._memory)[begin:length])
        whole = wire_frames(bytes(self._memory[:begin]), data)
        if not whole:
            self._uncut += 1
        tag = _vlan_tag(ancillary)
        now = time.time_ns()
        frames.extend(Frame(port, one[:12] + tag + one[12:] if tag else one, now) for one in whole)
        return True

    def send(self, port: int, data: bytes) -> None:
        sock = self._sockets.get(port)
        if sock is None:
            return  # a port without an interface, as one without a cable
        try:
            sock.sendmsg([NO_OFFLOAD, data])
        except OSError as error:
            if error.errno in (errno.EMSGSIZE, errno.EINVAL):
                self._too_long += 1
            else:
                self._full += 1

    def counters(self) -> Mapping[str, int]:
        """dropped_too_long: longer than the interface's MTU allows. dropped_uncut: trains of an unknown kind."""
        return {
            "dropped_port_full": self._full,
            "dropped_too_long": self._too_long,
            "dropped_uncut": self._uncut,
        }

    def fileno(self) -> int:
        return self._poll.fileno()

    def close(self) -> None:
        self._poll.close()
        for sock in self._sockets.values():
            with contextlib.suppress(OSError):
                sock.close()
        self._sockets.clear()


def _vlan_tag(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The tag that the kernel took off, as four bytes; empty when there was none."""
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(data)
            if status & _VLAN_VALID:
                return struct.pack("!HH", tpid if status & _VLAN_TPID_VALID else _ETH_P_8021Q, tci)
    return b""
