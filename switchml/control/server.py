"""The control service over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import grpc
import grpc.aio

from switchml.control import switch_pb2 as pb
from switchml.control.controller import Controller
from switchml.control.convert import (
    departures_to_pb,
    layout_to_pb,
    offer_from_pb,
    pace_from_pb,
    resent_from_pb,
    slot_to_pb,
    status_to_pb,
    target_to_pb,
)
from switchml.control.guard import Context, guarded, peer_host, token_of
from switchml.control.jobs import Answer, Joined, Refused, Started
from switchml.control.lifelines import Lifelines
from switchml.control.reference import ReferenceService
from switchml.control.reference_pb2_grpc import add_SessionServicer_to_server, add_SyncServicer_to_server
from switchml.control.service_thread import ServiceThread
from switchml.control.switch_pb2_grpc import add_SwitchServicer_to_server
from switchml.control.target import TargetDescription
from switchml.control.tls import ServerTls

_TIMER_SECONDS = 0.01  # how late an answer in time may be


class Leaf(NamedTuple):
    """The switch of a tree whose workers come to a control service: its name, and as they see it."""

    name: str
    description: TargetDescription


class ControlServer(ServiceThread):
    """A running control service; made by `serve`. A context manager."""

    name = "control"

    def __init__(
        self, controller: Controller, host: str, port: int, tls: ServerTls | None, leaf: Leaf | None
    ) -> None:
        self._controller = controller
        self._leaf = leaf or Leaf("", controller.describe())
        milliseconds = max(1000, int(controller.lease * 1000))
        options = {
            # A waiting join whose host has died: no packet ever says so, a ping without answer does.
            "grpc.keepalive_time_ms": milliseconds,
            "grpc.keepalive_timeout_ms": milliseconds,
        }
        super().__init__(host, port, tls, options)

    def close(self, grace: float | None = None) -> None:
        """Ends every job, lets calls finish for `grace` seconds, then ends the thread. Idempotent."""
        self._controller.close()
        super().close(grace)

    @asynccontextmanager
    async def serving(self, server: grpc.aio.Server) -> AsyncIterator[None]:
        """See `ServiceThread`."""
        service = _Service(self._controller, self._leaf)
        # The number of the data port, where it can be had: one number to open in a firewall.
        data_port = self._leaf.description.udp_port
        await service.lifelines.open(self._host, 0 if data_port == self._requested else data_port)
        self._controller.on_news(service.tell)
        add_SwitchServicer_to_server(cast(Any, service), cast(Any, server))
        timers = [asyncio.create_task(service.expire_forever())]
        if not self._leaf.name:  # clients of the reference know one switch
            reference = ReferenceService(self._controller, service.changed)
            add_SessionServicer_to_server(cast(Any, reference), cast(Any, server))
            add_SyncServicer_to_server(cast(Any, reference), cast(Any, server))
            timers.append(asyncio.create_task(reference.renew_forever()))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
            await asyncio.gather(*timers, return_exceptions=True)
            service.lifelines.close()


def serve(
    controller: Controller,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tls: ServerTls | None = None,
    leaf: Leaf | None = None,
) -> ControlServer:
    """Start the control service of `controller`.

    Args:
        controller: what it serves.
        host: address to listen on.
        port: 0 = a free one.
        tls: the switch's certificate; None = in the clear.
        leaf: of a tree of switches the one whose workers join here; None = there is one switch.

    Raises:
        PortInUseError: the port is taken.
        UsageError: the host is not an address of this machine, or a file of `tls` can't be read.
    """
    return ControlServer(controller, host, port, tls, leaf)


class _Service:
    """The methods of switch.proto, on the event loop."""

    def __init__(self, controller: Controller, leaf: Leaf) -> None:
        self.controller, self._leaf = controller, leaf
        self.lifelines = Lifelines(controller.attached, self._lost)
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def changed(self) -> None:
        """The controller's timers may be due earlier than they were."""
        self._changed.set()

    def tell(self, sessions: frozenset[str]) -> None:
        """From any thread: there is news for these members."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.lifelines.tell, sessions)

    def _lost(self, session: str) -> None:
        self.controller.lost(session)
        self._changed.set()

    async def expire_forever(self) -> None:
        """The controller's timer."""
        while True:
            due = self.controller.next_timer()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), due)
            self._changed.clear()
            # Not at every change: this looks at every job, and strangers may make changes as fast as they can call.
            await asyncio.sleep(_TIMER_SECONDS)
            due = self.controller.next_timer()
            if due is not None and due <= 0:
                self.controller.expire()
            self.lifelines.keep(self.controller.sessions())

    @guarded
    async def Discover(self, request: pb.DiscoverRequest, context: Context) -> pb.DiscoverReply:
        return target_to_pb(self._leaf.description)

    @guarded
    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        peer = peer_host(context.peer())
        offer = offer_from_pb(request, _worker_address(request, peer))
        offer = dataclasses.replace(offer, at=self._leaf.name)
        self.controller.check_address(offer.transport, offer.address, peer)
        tenant = self.controller.authorize(token_of(context))
        answer = await self._answer(
            request.session,
            lambda reply: self.controller.join(
                request.session, offer, request.timeout, reply, peer=peer, tenant=tenant
            ),
        )
        return self._joined(request.session, answer)

    @guarded
    async def Regroup(self, request: pb.RegroupRequest, context: Context) -> pb.JoinReply:
        peer, session = peer_host(context.peer()), request.offer.session
        offer = offer_from_pb(request.offer, _worker_address(request.offer, peer))
        offer = dataclasses.replace(offer, at=self._leaf.name)
        self.controller.check_address(offer.transport, offer.address, peer)
        self.controller.authorize(token_of(context))
        answer = await self._answer(
            session, lambda reply: self.controller.regroup(session, offer, request.within, reply)
        )
        return self._joined(session, answer)

    def _joined(self, session: str, answer: Answer) -> pb.JoinReply:
        assert isinstance(answer, Joined)
        self.lifelines.expect(session)
        return layout_to_pb(dataclasses.replace(answer.layout, life_port=self.lifelines.port))

    @guarded
    async def Ready(self, request: pb.ReadyRequest, context: Context) -> pb.ReadyReply:
        answer = await self._answer(
            request.session,
            lambda reply: self.controller.ready(request.session, request.multicast, request.timeout, reply),
        )
        assert isinstance(answer, Started)
        return pb.ReadyReply(multicast=answer.multicast)

    @guarded
    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatReply:
        left = self.controller.heartbeat(request.session, resent_from_pb(request), pace_from_pb(request))
        reply = departures_to_pb(left)
        reply.newcomers = self.controller.newcomers(request.session)
        return reply

    @guarded
    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveReply:
        calls = request.calls if request.HasField("calls") else None
        self.controller.leave(request.session, calls, request.reason, resent_from_pb(request))
        return pb.LeaveReply()

    @guarded
    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        return status_to_pb(self.controller.status())

    @guarded
    async def Slot(self, request: pb.SlotRequest, context: Context) -> pb.SlotReply:
        return slot_to_pb(self.controller.slot(request.session, request.tsi))

    async def _answer(self, session: str, call: Callable[[Callable[[Answer], None]], None]) -> Answer:
        """Makes a call that is answered later, and waits. Raises the error of a refusal."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Answer] = loop.create_future()

        def settle(answer: Answer) -> None:
            if not waiting.done():
                waiting.set_result(answer)

        call(lambda answer: _soon(loop, settle, answer))
        self._changed.set()
        try:
            answer = await waiting
        except asyncio.CancelledError:  # the client has cancelled, or its connection is gone
            self.controller.disconnect(session)
            raise
        if isinstance(answer, Refused):
            raise answer.error
        return answer


def _soon(loop: asyncio.AbstractEventLoop, settle: Callable[[Answer], None], answer: Answer) -> None:
    with contextlib.suppress(RuntimeError):  # the service has ended, and with it the call that waited
        loop.call_soon_threadsafe(settle, answer)


def _worker_address(request: pb.JoinRequest, peer: str) -> str:
    """The address in the offer or, if that leaves it open, the one that the call came from."""
    if request.transport != "udp" or request.address not in ("", "0.0.0.0"):
        return request.address
    return peer if _is_ipv4(peer) else ""


def _is_ipv4(host: str) -> bool:
    return host.count(".") == 3 and ":" not in host
