"""Opens a worker's transport: a UDP socket and its multicast group, or shared memory, with rings or with the slots."""

from __future__ import annotations

import json
import mmap
import os
import secrets
import select
import socket
import time
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.aggregation.shared_slots import FORMAT, SharedLayout, SharedSlots, ring_bell, shared_slots
from switchml.control.target import TargetDescription
from switchml.errors import JoinError, SwitchUnreachableError
from switchml.link import datagrams, libc
from switchml.link.records import Records, new_records
from switchml.link.ring import PAGE, RingLayout, ring_layout
from switchml.packets.ethernet import mac_bytes
from switchml.packets.made_macs import EVERYONE_MAC, SWITCH_MAC, rank_mac
from switchml.packets.tape import ALL_HOSTS, LOOPBACK, RING_PORT, Tape, TapeFile, group_mac, no_tape
from switchml.protocol.header import build_header
from switchml.protocol.jit import compiled
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.protocol.on_demand import address_of
from switchml.protocol.probes import answer_to_challenge, new_secret, probe_header, ticket_of_secret
from switchml.worker.port import (
    ALL,
    BATCH,
    OWN,
    SHM,
    SWITCH,
    UDP,
    Port,
    PortRecord,
    note_packet,
    write_notes,
)

_ANSWER_SECONDS = 5.0
_PROBE_EVERY = 0.05
_MULTICAST_PATIENCE = 0.25
_SOCKET_BUFFER = 8 << 20
_NO_LAYOUT = RingLayout(1, 64, 1, 1)


@compiled
def _wake_sleepers(address: int) -> None:
    libc.futex_wake_all(address)


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def _ends(job: int, rank: int) -> npt.NDArray[np.int64]:
    """`Port.ends` where packets have no addresses of their own."""
    return np.array(
        [
            (rank_mac(job, rank), LOOPBACK, RING_PORT + rank),
            (int.from_bytes(mac_bytes(SWITCH_MAC), "big"), LOOPBACK, UDP_PORT_FIRST),
            (int.from_bytes(mac_bytes(EVERYONE_MAC), "big"), ALL_HOSTS, UDP_PORT_FIRST),
        ],
        np.int64,
    )


class Connection(ABC):
    """A transport before, while and after it is used by an engine."""

    kind: str
    address = ""
    port_number = 0
    ticket = ""
    _capture: TapeFile | None = None

    @abstractmethod
    def attach(
        self, rank: int, workers: int, window: int, payload: int, job: int, group: str, group_port: int
    ) -> Port:
        """The port for the compiled engine, once the job is programmed. Proves that the path works.

        Args:
            rank: this worker's.
            workers: of the job.
            window: slots.
            payload: bytes a packet.
            job: its number at the switch.
            group: dotted IPv4 of its multicast results; "" for none.
            group_port: UDP port of these.

        Raises:
            JoinError, SwitchUnreachableError: it does not.
        """

    def record(self, path: str) -> None:
        """From `attach` on, have all packets written to a pcap file.

        Raises:
            PcapError: it cannot be written.
        """
        self._capture = TapeFile(path)

    def _tape(self) -> Tape:
        return no_tape() if self._capture is None else self._capture.tape

    def _port_state(self, kind: int, worker: int) -> Records[PortRecord]:
        state = new_records(PortRecord, 1)
        state[0]["kind"], state[0]["worker"], state[0]["wake"] = kind, worker, -1
        if self._capture is not None:
            state[0]["note"] = address_of(note_packet, "worker's captures", 5)
            state[0]["write"] = address_of(write_notes, "worker's captures", 1)
        return state

    multicast = False
    """After `attach`: whether multicast results reach this worker."""

    @abstractmethod
    def wake(self) -> None:
        """End a wait of the engine."""

    def close(self) -> None:
        """Free it. The engine must have stopped."""
        if self._capture is not None:
            self._capture.close()


def _stand_in() -> datagrams.Datagrams:
    return datagrams.open_datagrams(None)


class UdpConnection(Connection):
    """UDP to the switch's data port; results by multicast where that works."""

    kind = "udp"

    def __init__(self, target: TargetDescription, *, multicast: bool = True, offload: bool = True) -> None:
        self._target = target
        self._want_multicast = multicast
        self._offload = offload
        self._secret = new_secret()
        self.ticket = ticket_of_secret(self._secret)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._group: socket.socket | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._socket.connect((target.host, target.udp_port))
        except OSError as error:
            self.close()
            raise self._no_way(error) from error
        datagrams.enlarge_buffers(self._socket, _SOCKET_BUFFER)
        self.address, self.port_number = self._socket.getsockname()

    def _no_way(self, error: OSError) -> SwitchUnreachableError:
        where = f"the switch's data port UDP {self._target.host}:{self._target.udp_port}"
        if isinstance(error, PermissionError):
            return SwitchUnreachableError(
                f"this machine does not let us send to {where} ({error.strerror}): a firewall rule here forbids it"
            )
        return SwitchUnreachableError(f"no way leads from here to {where}: {error.strerror or error}")

    def _join_group(self, group: str, port: int) -> None:
        self._group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._group.bind((group, port))
        interface = socket.inet_aton(group) + socket.inet_aton(self.address)
        self._group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, interface)
        # Only what the switch sends counts.
        self._group.connect((self._target.host, self._target.udp_port))
        datagrams.enlarge_buffers(self._group, _SOCKET_BUFFER)

    def _probe(self, job: int, deadline: float) -> None:
        """Send probes until one comes back, and a little longer for the multicast one.

        A switch that wants our address proven sends a challenge; from then on the probes are its answer.
        """
        packet = build_header(probe_header(job, self._secret))
        sent = {packet}
        waiting = {self._socket} if self._group is None else {self._socket, self._group}
        patience = deadline
        while waiting and time.monotonic() < patience:
            try:
                self._socket.send(packet)
            except ConnectionRefusedError:
                pass  # what an earlier probe met: a switch that is just starting, or none
            except OSError as error:
                raise self._no_way(error) from error
            until = min(patience, time.monotonic() + _PROBE_EVERY)
            while waiting and (left := until - time.monotonic()) > 0:
                for sock in select.select(list(waiting), [], [], left)[0]:
                    try:
                        answer = sock.recv(65536, socket.MSG_DONTWAIT)
                    except OSError:
                        continue
                    if answer in sent:
                        waiting.discard(sock)
                        patience = min(patience, time.monotonic() + _MULTICAST_PATIENCE)
                    elif (reply := answer_to_challenge(answer)) is not None and reply not in sent:
                        packet = reply
                        sent.add(packet)
                        until = 0.0  # at once
        if self._socket in waiting:
            raise SwitchUnreachableError(
                f"the switch's control service answers, but no packet came back from its data port UDP {self._target.host}:"
                f"{self._target.udp_port}: is a firewall in between?"
            )
        self.multicast = self._group is not None and self._group not in waiting

    @override
    def attach(
        self, rank: int, workers: int, window: int, payload: int, job: int, group: str, group_port: int
    ) -> Port:
        if group and self._want_multicast:
            try:
                self._join_group(group, group_port)
            except OSError:
                # No multicast on this interface: unicast it is.
                self._close_group()
        self._probe(job, time.monotonic() + _ANSWER_SECONDS)
        if not self.multicast:
            self._close_group()
        state = self._port_state(UDP, rank)
        state[0]["wake"] = self._wake
        unicast = datagrams.open_datagrams(self._socket, offload=self._offload)
        in_group = datagrams.open_datagrams(self._group, offload=self._offload)
        packets = 8 * 64
        return Port(
            state, unicast, in_group, _NO_LAYOUT, np.zeros(8, np.uint8), np.zeros(8, np.int64), np.zeros(8, np.int64),
            np.zeros(packets, np.int64), np.zeros(packets, np.int64), np.zeros(packets, np.int64), np.zeros(4, np.int64),
            self._tape(), self._ends(job, rank, group, group_port),
        )  # fmt: skip

    def _ends(self, job: int, rank: int, group: str, group_port: int) -> npt.NDArray[np.int64]:
        ends = _ends(job, rank)
        ends[OWN, 1:] = _number(self.address), self.port_number
        ends[SWITCH, 1:] = _number(self._target.host), self._target.udp_port
        if group:
            ends[ALL] = group_mac(_number(group)), _number(group), group_port
        return ends

    @override
    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _close_group(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
        self.multicast = False

    @override
    def close(self) -> None:
        super().close()
        self._socket.close()
        self._close_group()
        os.close(self._wake)


class ShmConnection(Connection):
    """Memory of a switch on this host: rings, or the slots themselves.

    Args:
        target: the switch.
        kind: "shm" for rings, "memory" for the slots, "auto" for what the switch decides; after that what it is.
    """

    def __init__(self, target: TargetDescription, kind: str) -> None:
        self.kind = kind
        self._target = target
        self._name = target.shm_socket
        self.ticket = secrets.token_hex(16)
        self._doorbell = -1
        self._longs = np.zeros(8, np.int64)
        self._slots: SharedSlots | None = None
        self._rank = 0

    @override
    def attach(
        self, rank: int, workers: int, window: int, payload: int, job: int, group: str, group_port: int
    ) -> Port:
        (memory, self._doorbell), region = self._enter(2)
        try:
            page = mmap.mmap(memory, PAGE)
            rings = mmap.mmap(memory, region["length"], offset=region["offset"])
        finally:
            os.close(memory)
        layout = ring_layout(workers, window, payload, region["copies"])
        if layout.total_bytes != region["length"] or region["worker"] != rank:
            raise _laid_out_otherwise()
        bytes_ = np.frombuffer(rings, np.uint8)
        self._longs = bytes_.view(np.int64)
        state = self._port_state(SHM, rank)
        state[0]["doorbell"] = self._doorbell
        self.kind = "shm"
        return Port(
            state, _stand_in(), _stand_in(), layout, bytes_, self._longs, np.frombuffer(page, np.int64),
            np.zeros(BATCH, np.int64), np.zeros(BATCH, np.int64), np.zeros(BATCH, np.int64), np.zeros(4, np.int64),
            self._tape(), self._ends(job, rank),
        )  # fmt: skip

    def _ends(self, job: int, rank: int) -> npt.NDArray[np.int64]:
        ends = _ends(job, rank)
        ends[SWITCH, 1:] = _number(self._target.host), self._target.udp_port
        return ends

    def attach_slots(self, rank: int, layout: SharedLayout) -> SharedSlots:
        """In place of `attach`, where the slot machine is in memory: the job's slots."""
        descriptors, place = self._enter(1)
        try:
            if place != {"length": layout.total_bytes, "worker": rank, "format": FORMAT}:
                raise _laid_out_otherwise()
            memory = np.frombuffer(mmap.mmap(descriptors[0], layout.total_bytes), np.uint8)
        finally:
            os.close(descriptors[0])
        self.kind = "memory"
        self._slots, self._rank = shared_slots(memory, layout), rank
        return self._slots

    def _enter(self, count: int) -> tuple[list[int], dict[str, int]]:
        """Show the ticket: descriptors, that many, and what is said of them."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.settimeout(_ANSWER_SECONDS)
            try:
                server.connect(f"\0{self._name}")
                server.send(self.ticket.encode())
                answer, descriptors, _, _ = socket.recv_fds(server, 4096, 2)
            except (BrokenPipeError, ConnectionResetError):
                descriptors = []  # closed at once, without a word
            except OSError as error:
                raise JoinError(
                    f"the switch's shared memory cannot be had ({error}): join with transport 'udp'"
                ) from error
        if len(descriptors) != count:
            for descriptor in descriptors:
                os.close(descriptor)
            raise JoinError(
                "the switch does not give its shared memory to this user: join with transport 'udp'"
            )
        return descriptors, json.loads(answer)

    @override
    def wake(self) -> None:
        if self._slots is not None:
            ring_bell(self._slots.longs, self._rank)
        else:
            _wake_sleepers(self._longs.ctypes.data)

    @override
    def close(self) -> None:
        super().close()
        if self._doorbell >= 0:
            os.close(self._doorbell)
            self._doorbell = -1


def _laid_out_otherwise() -> JoinError:
    return JoinError(
        "the switch's shared memory is not laid out as this worker expects: use the same version on both sides"
    )


def shares_memory(target: TargetDescription) -> bool:
    """Whether a worker here can use the switch's shared memory: same host, same network namespace, same user."""
    if not target.shm_socket:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.settimeout(_ANSWER_SECONDS)
        try:
            server.connect(f"\0{target.shm_socket}")
            server.send(b"?")
            return server.recv(64) == b"{}"
        except OSError:
            return False
