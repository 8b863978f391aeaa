"""The control service over gRPC: an event loop in a thread of its own, so that any number of joins can wait at once."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast
from urllib.parse import unquote

import grpc
import grpc.aio

from switchml.control import switch_pb2 as pb
from switchml.control.address import join_address
from switchml.control.controller import Controller
from switchml.control.convert import layout_to_pb, offer_from_pb, slot_to_pb, status_to_pb, target_to_pb
from switchml.control.guard import Context, guarded
from switchml.control.jobs import Answer, Joined, Refused, Started
from switchml.control.reference import ReferenceService
from switchml.control.reference_pb2_grpc import add_SessionServicer_to_server, add_SyncServicer_to_server
from switchml.control.switch_pb2_grpc import add_SwitchServicer_to_server
from switchml.control.tls import ServerTls
from switchml.errors import PortInUseError, SwitchMLError, UsageError

_log = logging.getLogger(__name__)

_STARTUP = 10.0  # seconds


class ControlServer:
    """A running control service; made by `serve`. A context manager: `stop` on exit."""

    def __init__(self, controller: Controller, host: str, port: int, tls: ServerTls | None) -> None:
        self._controller = controller
        self._host = host
        self._requested = port
        self._credentials = tls.credentials() if tls else None
        self._started: Future[int] = Future()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_ignore_idle_wakeups)
        self._stop = asyncio.Event()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._run, name="switchml-control", daemon=True)
        self._thread.start()
        try:
            self.port = self._started.result(_STARTUP)
        except BaseException:
            self.stop(0)
            raise

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`host:port` of the service."""
        return join_address(self._host, self.port)

    def stop(self, grace: float = 1.0) -> None:
        """Ends every job, lets calls finish for `grace` seconds, then ends the thread. Idempotent."""
        self._controller.close()
        self._grace = grace
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(grace + 5.0)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._started.done():
                _log.exception("the control service has ended")
            else:
                self._started.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        service = _Service(self._controller)
        server = grpc.aio.server(options=_options(self._controller.lease))
        reference = ReferenceService(self._controller, service.changed)
        add_SwitchServicer_to_server(cast(Any, service), cast(Any, server))
        add_SessionServicer_to_server(cast(Any, reference), cast(Any, server))
        add_SyncServicer_to_server(cast(Any, reference), cast(Any, server))
        port = self._bind(server)
        await server.start()
        timers = [
            asyncio.create_task(service.expire_forever()),
            asyncio.create_task(reference.renew_forever()),
        ]
        self._started.set_result(port)
        try:
            await self._stop.wait()
        finally:
            await server.stop(self._grace)
            for timer in timers:
                timer.cancel()
            await asyncio.gather(*timers, return_exceptions=True)

    def _bind(self, server: grpc.aio.Server) -> int:
        address = join_address(self._host, self._requested)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise _bind_error(self._host, self._requested) from error
        if port == 0:
            raise _bind_error(self._host, self._requested)
        return port


def serve(
    controller: Controller, host: str = "127.0.0.1", port: int = 0, *, tls: ServerTls | None = None
) -> ControlServer:
    """Starts the control service of `controller` on `host:port` (port 0: a free one).

    Raises PortInUseError when the port is taken, UsageError when the host is not an address of this machine.
    """
    return ControlServer(controller, host, port, tls)


def _options(lease: float) -> list[tuple[str, int]]:
    milliseconds = max(1000, int(lease * 1000))
    return [
        ("grpc.so_reuseport", 0),  # or a second server would take half of the first one's calls
        # A waiting join whose host has died: no packet ever says so, a ping without answer does.
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
    ]


def _ignore_idle_wakeups(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """gRPC wakes the loops of all servers in a process for one event; those that find nothing complain (1.60, not 1.85)."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


def _bind_error(host: str, port: int) -> SwitchMLError:
    """Why nobody can listen there: gRPC does not say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            return UsageError(
                f"cannot listen on {host!r}: {error.strerror}; give an address of this machine, or 0.0.0.0"
            )
    return PortInUseError(
        f"the control port {join_address(host, port)} is taken; stop what listens there, or choose another port (0 = a free one)"
    )


class _Service:
    """The methods of switch.proto, on the event loop."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """The controller's timers may be due earlier than they were."""
        self._changed.set()

    async def expire_forever(self) -> None:
        """The controller's timer."""
        while True:
            due = self.controller.next_timer()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), due)
            self._changed.clear()
            self.controller.expire()

    @guarded
    async def Discover(self, request: pb.DiscoverRequest, context: Context) -> pb.DiscoverReply:
        return target_to_pb(self.controller.describe())

    @guarded
    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        offer = offer_from_pb(request, _worker_address(request, context.peer()))
        answer = await self._answer(
            request.session,
            lambda reply: self.controller.join(request.session, offer, request.timeout, reply),
        )
        assert isinstance(answer, Joined)
        return layout_to_pb(answer.layout)

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
        return pb.HeartbeatReply(left=sorted(self.controller.heartbeat(request.session)))

    @guarded
    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveReply:
        self.controller.leave(request.session)
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
    """The address in the offer or, if that leaves it open, the one that the call came from (`ipv4:10.0.0.2:40112`)."""
    if request.transport != "udp" or request.address not in ("", "0.0.0.0"):
        return request.address
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if kind == "ipv6":
        mapped = ipaddress.IPv6Address(unquote(host).strip("[]").partition("%")[0]).ipv4_mapped
        return str(mapped) if mapped else ""
    return host if kind == "ipv4" else ""
