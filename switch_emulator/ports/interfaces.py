"""Linux interfaces as the ports of a switch, through packet sockets (packet(7)). Needs CAP_NET_RAW.

The kernel takes a VLAN tag off a frame and tells of it in a control message, which costs more to read than the frame. So each
interface has two sockets, with filters: one for frames without tag, read plainly, which is also the one that sends; and one
for frames with a tag. Between the two kinds the order of frames may change.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping

from typing_extensions import override

from switchml.link.datagrams import enlarge_buffers
from switchml.switch_emulator.ports.frame_batches import FULL, TOO_LONG, IncomingFrames, OutgoingFrames
from switchml.switch_emulator.ports.interface import Frame, Ports, PortsError
from switchml.switch_emulator.ports.segmentation import VNET_HEADER, wire_frames

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_AUXDATA = 8
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_MR_PROMISC = 1
_ETH_P_ALL = 3
_ETH_P_8021Q = 0x8100

_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_AUXDATA_SPACE = socket.CMSG_SPACE(_AUXDATA.size)
_FILTER = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog
_SO_ATTACH_FILTER = 26
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_VLAN_VALID = 1 << 4
_VLAN_TPID_VALID = 1 << 6

_BATCH = 32  # frames of one interface before the next has its turn
_LARGEST = (1 << 16) + 256
_BUFFER = 4 << 20

_Ancillary = list[tuple[int, int, bytes]]


def _filter(tagged: bool) -> bytes:
    """Takes whole frames that have a VLAN tag, or those that have none."""
    return b"".join(
        _FILTER.pack(*instruction)
        for instruction in (
            (_LOAD_WORD, 0, 0, _VLAN_TAG_PRESENT),
            (_JUMP_IF_EQUAL, 0, 1, int(tagged)),
            (_RETURN, 0, 0, 0xFFFFFFFF),
            (_RETURN, 0, 0, 0),
        )
    )


def _open(name: str, *, tagged: bool) -> socket.socket:
    try:
        # Protocol 0: nothing comes in before the socket is bound to its interface.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise PortsError(
            "packets on Linux interfaces need root (CAP_NET_RAW): use sudo, or leave -i out and serve workers over UDP"
        ) from error
    try:
        index = socket.if_nametoindex(name)
        options = (_PACKET_IGNORE_OUTGOING, _PACKET_VNET_HDR, *([_PACKET_AUXDATA] if tagged else []))
        for option in options:
            sock.setsockopt(_SOL_PACKET, option, 1)
        instructions = ctypes.create_string_buffer(program := _filter(tagged), len(program))
        sock.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            _PROGRAM.pack(len(program) // _FILTER.size, ctypes.addressof(instructions)),
        )
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
    """Network interfaces as ports: frames come in as on a wire (`segmentation`), VLAN tags included.

    Args:
        interfaces: name by port number.

    Raises:
        PortsError: no such interface, or no permission.
    """

    def __init__(self, interfaces: Mapping[int, str]) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self._incoming: dict[int, tuple[int, bool, socket.socket]] = {}  # port, tagged or not, by descriptor
        self._batch_in = IncomingFrames(_BATCH, _LARGEST)
        self._batch_out = OutgoingFrames()
        self._uncut = 0
        try:
            for port, name in interfaces.items():
                for tagged in (False, True):
                    sock = _open(name, tagged=tagged)
                    self._incoming[sock.fileno()] = port, tagged, sock
                    self._poll.register(sock, select.EPOLLIN)
                    if not tagged:
                        self._sockets[port] = sock
        except BaseException:
            self.close()
            raise

    @override
    def receive(self, deadline: float) -> list[Frame]:
        frames: list[Frame] = []
        for descriptor, _ in self._poll.poll(max(0.0, deadline - time.monotonic())):
            port, tagged, sock = self._incoming[descriptor]
            if tagged:
                self._receive_tagged(port, sock, frames)
            else:
                self._receive_plain(port, sock, frames)
        return frames

    def _receive_plain(self, port: int, sock: socket.socket, frames: list[Frame]) -> None:
        now = time.time_ns()
        for data, header in self._batch_in.receive(sock):
            if header:
                self._add_finished(port, header, data, b"", now, frames)
            else:
                frames.append(Frame(port, data, now))

    def _receive_tagged(self, port: int, sock: socket.socket, frames: list[Frame]) -> None:
        now = time.time_ns()
        with contextlib.suppress(OSError):  # nothing more has come, or the interface went down
            for _ in range(_BATCH):
                data, ancillary, _, _ = sock.recvmsg(_LARGEST, _AUXDATA_SPACE)
                header, data = data[: VNET_HEADER.size], data[VNET_HEADER.size :]
                self._add_finished(port, header, data, _vlan_tag(ancillary), now, frames)

    def _add_finished(
        self, port: int, header: bytes, data: bytes, tag: bytes, now: int, frames: list[Frame]
    ) -> None:
        """What the kernel left out is done: frames as they would have come over a wire."""
        finished = wire_frames(header, data)
        if not finished:
            self._uncut += 1
        frames.extend(Frame(port, one[:12] + tag + one[12:], now) for one in finished)

    @override
    def send(self, port: int, data: bytes) -> None:
        self.send_all([(port, data)])

    @override
    def send_all(self, frames: Iterable[tuple[int, bytes]]) -> None:
        by_port: dict[int, list[bytes]] = {}
        for port, data in frames:
            if port in by_port:
                by_port[port].append(data)
            elif port in self._sockets:  # others are as ports without a cable
                by_port[port] = [data]
        for port, batch in by_port.items():
            self._batch_out.send(self._sockets[port], batch)

    def counters(self) -> Mapping[str, int]:
        """dropped_too_long: longer than the interface's MTU allows. dropped_uncut: trains of an unknown kind."""
        dropped = self._batch_out.dropped
        return {
            "dropped_port_full": int(dropped[FULL]),
            "dropped_too_long": int(dropped[TOO_LONG]),
            "dropped_uncut": self._uncut,
        }

    @override
    def fileno(self) -> int:
        return self._poll.fileno()

    @override
    def close(self) -> None:
        self._poll.close()
        for _, _, sock in self._incoming.values():
            with contextlib.suppress(OSError):
                sock.close()
        self._incoming.clear()
        self._sockets.clear()


def _vlan_tag(ancillary: _Ancillary) -> bytes:
    """The tag that the kernel took off, as four bytes; empty when there was none."""
    for _, _, data in ancillary:
        status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(data)
        if status & _VLAN_VALID:
            return struct.pack("!HH", tpid if status & _VLAN_TPID_VALID else _ETH_P_8021Q, tci)
    return b""
