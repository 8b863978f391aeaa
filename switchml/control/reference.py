"""The services of the public SwitchML program (reference.proto), so that its UDP clients can use our switch.

Such a client knows nothing of jobs, leases or windows. Its session is a job of ours that runs the published slot machine
(`paper`), because it counts its packets anew in every tensor, and whose packets may carry any job number, because it numbers its
tensors there. Rank 0 calls first and begins the session anew; no call ever ends one, so it also ends when the switch has heard
nothing of it for long. A client uses one UDP port a thread, 4000 and up, and tells nobody: one thread is what we serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from switchml.control import reference_pb2 as pb
from switchml.control.control_messages import JoinOffer
from switchml.control.controller import Controller
from switchml.control.guard import Context, guarded, peer_host, token_of
from switchml.control.jobs import Answer, Joined, Refused
from switchml.control.synchronization import Barriers, Broadcasts
from switchml.control.tenants import NOBODY, Tenant
from switchml.errors import JobAbortedError, JoinError, JoinTimeoutError, SwitchMLError, UsageError
from switchml.protocol.messages import UDP_PORT_FIRST

_log = logging.getLogger(__name__)

CLIENT_PORT = 4000
PATIENCE = 600.0
"""Seconds that callers wait for each other."""
IDLE = 3600.0
"""Seconds without a packet after which a session is over."""
OUTSTANDING = 256
"""Slots of a session: what a client has in flight as it is configured by default, and the most that we serve."""
_SMALLEST_PAYLOAD = 128


@dataclass
class _Session:
    """A session of reference clients.

    Attributes:
        world_size: number of workers.
        began: when, in seconds of the clock.
        members: by rank, the session names of our own control plane.
        answers: by rank, what its join came to.
        addresses: of its workers.
    """

    world_size: int
    began: float
    members: dict[int, str] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    addresses: set[str] = field(default_factory=set)


_Key = tuple[int, int]  # number of a tenant, and of its session


class Sessions:
    """Sessions of reference clients, as jobs of a controller. `changed` is called when its timers have."""

    def __init__(
        self,
        controller: Controller,
        changed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controller = controller
        self._changed = changed
        self._clock = clock
        self._sessions: dict[_Key, _Session] = {}

    def add(self, request: pb.UdpSessionRequest, peer: str = "", tenant: Tenant = NOBODY) -> None:
        """A worker of a session of a tenant's. With its last worker the job begins.

        Raises:
            SwitchMLError: it can't.
        """
        number, rank = (tenant.number, request.session_id), request.rank
        worker = str(ipaddress.IPv4Address(request.ipv4))
        if request.packet_size not in pb.PacketSize.values():
            raise UsageError(f"packet_size {request.packet_size}: use one of {pb.PacketSize.keys()}")
        offer = JoinOffer(
            job=f"reference session {request.session_id}",
            rank=rank,
            world_size=request.num_workers,
            address=worker,
            port=CLIENT_PORT,
            payload=_SMALLEST_PAYLOAD << request.packet_size,
            window=OUTSTANDING,
            paper=True,
            any_number=True,
        )
        if rank == 0:
            self.end(number)
        # A client that begins anew numbers its session anew, and never says that the old one is over.
        for other in [
            key
            for key, old in self._sessions.items()
            if key != number and key[0] == tenant.number and worker in old.addresses
        ]:
            self.end(other)
        session = self._sessions.setdefault(number, _Session(request.num_workers, self._clock()))
        name = secrets.token_hex(16)

        def settle(answer: Answer) -> None:
            session.answers[rank] = answer

        try:
            self._controller.join(name, offer, PATIENCE, settle, peer=peer, tenant=tenant)
        except SwitchMLError:
            if not session.members:
                del self._sessions[number]
            raise
        session.members[rank] = name
        session.addresses.add(worker)
        self._changed()
        if len(session.members) == session.world_size:
            self._start(number, session)

    def end(self, number: _Key) -> None:
        """End a session, if there is one."""
        session = self._sessions.pop(number, None)
        for name in session.members.values() if session else ():
            self._controller.leave(name)
        if session:
            self._changed()

    def renew(self) -> None:
        """Keep the leases of sessions that are alive; end those that are not."""
        for number, session in list(self._sessions.items()):
            complete = len(session.members) == session.world_size
            refused = any(isinstance(answer, Refused) for answer in session.answers.values())
            if refused or (complete and not self._renewed(session)):
                self.end(number)

    def _renewed(self, session: _Session) -> bool:
        names = list(session.members.values())
        try:
            for name in names:
                self._controller.heartbeat(name)
            heard = self._controller.last_heard(names[0])
        except JobAbortedError as error:
            _log.warning("reference session: %s", error)
            return False
        since = min((ago for ago in heard if ago is not None), default=float("inf"))
        return min(since, self._clock() - session.began) < IDLE

    def _start(self, number: _Key, session: _Session) -> None:
        refused = [answer for answer in session.answers.values() if isinstance(answer, Refused)]
        if refused or not all(isinstance(answer, Joined) for answer in session.answers.values()):
            self.end(number)
            raise refused[0].error if refused else JoinError(f"reference session {number[1]} did not begin")
        for name in session.members.values():
            # Its clients have no probes: they take results as the switch sends them, to each alone.
            self._controller.ready(name, False, PATIENCE, lambda answer: None)
        self._changed()


class ReferenceService:
    """Session and Sync, on the event loop."""

    def __init__(self, controller: Controller, changed: Callable[[], None]) -> None:
        self.controller = controller
        self.sessions = Sessions(controller, changed)
        self._barriers = Barriers()
        self._broadcasts = Broadcasts()

    async def renew_forever(self) -> None:
        """Heartbeats in the place of clients that send none."""
        while True:
            await asyncio.sleep(self.controller.lease / 4)
            with contextlib.suppress(SwitchMLError):
                self.sessions.renew()

    @guarded
    async def UdpSession(self, request: pb.UdpSessionRequest, context: Context) -> pb.UdpSessionResponse:
        """Session.UdpSession: a worker joins; answers with the switch's addresses."""
        target = self.controller.describe()
        if target.udp_port != UDP_PORT_FIRST:
            raise UsageError(
                f"clients of the public SwitchML program send to UDP port {UDP_PORT_FIRST}, but this switch takes packets at "
                f"{target.udp_port}; start it with --port {UDP_PORT_FIRST}"
            )
        host = _facing(target.host, str(ipaddress.IPv4Address(request.ipv4)))
        peer, worker = peer_host(context.peer()), str(ipaddress.IPv4Address(request.ipv4))
        self.controller.check_address("udp", worker, peer)
        self.sessions.add(request, peer, self.controller.authorize(token_of(context)))
        return pb.UdpSessionResponse(
            session_id=request.session_id, mac=target.mac, ipv4=int(ipaddress.IPv4Address(host))
        )

    @guarded
    async def RdmaSession(self, request: pb.RdmaSessionRequest, context: Context) -> pb.RdmaSessionResponse:
        """Session.RdmaSession: refused, there is no RDMA."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "this switch has no RDMA; build the client with DPDK=1 and use UDP"
        )
        raise AssertionError("abort returned")

    @guarded
    async def Barrier(self, request: pb.BarrierRequest, context: Context) -> pb.BarrierResponse:
        """Sync.Barrier: answers once as many workers as it names have called."""
        barrier = self._barriers.arrive(_checked(request.num_workers))
        try:
            await _patiently(barrier.done, f"a barrier of {request.num_workers} workers")
        finally:
            self._barriers.depart(barrier)
        return pb.BarrierResponse()

    @guarded
    async def Broadcast(self, request: pb.BroadcastRequest, context: Context) -> pb.BroadcastResponse:
        """Sync.Broadcast: answers with the root's value once the root has called."""
        workers, rank, root = _checked(request.num_workers), request.rank, request.root
        if rank >= workers or root >= workers:
            raise UsageError(f"rank {rank} or root {root} is outside {workers} workers")
        broadcast = self._broadcasts.arrive(request.value, rank, workers, root)
        try:
            value = await _patiently(broadcast.value, f"a broadcast of {workers} workers")
        finally:
            self._broadcasts.depart(broadcast, rank, workers, root)
        return pb.BroadcastResponse(value=value)


def _checked(workers: int) -> int:
    if workers < 1:
        raise UsageError("num_workers is 0: give the number of workers")
    return workers


async def _patiently(future: asyncio.Future[Any], what: str) -> Any:
    """Other callers wait for the same future, so one that gives up must not cancel it."""
    try:
        return await asyncio.wait_for(asyncio.shield(future), PATIENCE)
    except TimeoutError:
        raise JoinTimeoutError(f"{what} was not complete within {PATIENCE:g} s: start the others") from None


def _facing(host: str, worker: str) -> str:
    """An address to send packets to: this machine's towards the worker, where the switch listens on all."""
    if host != "0.0.0.0":
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((worker, UDP_PORT_FIRST))
        except OSError as error:
            raise UsageError(f"there is no way to the worker at {worker}: {error.strerror}") from error
        return str(sock.getsockname()[0])
