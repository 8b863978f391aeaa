"""A worker's side of the control service."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

import grpc

from switchml.closing import Closing
from switchml.control import switch_pb2 as pb
from switchml.control.address import join_address, parse_address, resolve_ipv4
from switchml.control.control_messages import JobLayout, JoinOffer, Pace, Resent, SlotReport, SwitchStatus
from switchml.control.convert import (
    departures_from_pb,
    layout_from_pb,
    offer_to_pb,
    slot_from_pb,
    status_from_pb,
    target_from_pb,
)
from switchml.control.error_status import TOKEN_KEY, from_status
from switchml.control.exits import Stage, close_at_exit, uncaught
from switchml.control.fork_gate import ForkGate
from switchml.control.heartbeat import Departures, Heartbeats, interval_of
from switchml.control.lifeline import Lifeline
from switchml.control.lifelines import ticket_of
from switchml.control.reach import unresolvable, why_unreachable
from switchml.control.switch_pb2_grpc import SwitchStub
from switchml.control.target import TargetDescription
from switchml.control.tls import ClientTls, open_channel
from switchml.errors import SwitchMLError, SwitchUnreachableError, UsageError, WorkerClosedError

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")

# How long a switch may take to send the answer it gives when a wait for other ranks has timed out.
_SLACK = 5.0
_LEAVE = 2.0
_LIFELINE = 1.0
_LONGEST_REASON = 200  # characters

# What gRPC says in the place of a switch: none is there, or it has too much to do. A heartbeat goes on trying for a lease.
_NO_ANSWER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # a switch is on the workers' own network
    ("grpc.initial_reconnect_backoff_ms", 100),  # a switch that is just starting is met soon
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class ControlClient(Closing):
    """A connection to a switch's control service, and at most one membership of a job. A context manager.

    After a fork the child may not use it, nor does the child's end disturb the parent's.

    Attributes:
        address: host:port of the control service.
        newcomers: ranks that waited to enter the job at the last heartbeat.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        timeout: float = 10.0,
        tls: ClientTls | None = None,
        patient: bool = False,
    ) -> None:
        """Connect.

        Args:
            address: host:port; port 50551 when left out.
            token: the switch's join token.
            timeout: seconds that bound the connection and every call that does not wait for other ranks.
            tls: what to trust; None = in the clear.
            patient: wait `timeout` for a switch that is about to start. Without, an error says at once what is wrong.

        Raises:
            SwitchUnreachableError: nothing answers within `timeout`; the message says what is there instead.
            TlsError: the switch and `tls` do not go together.
            InvalidTokenError: the switch has another token.
            UsageError: an argument cannot be used.
        """
        if timeout <= 0:
            raise UsageError(f"timeout {timeout}: use a positive number of seconds")
        self._host, port = parse_address(address)
        if not patient and (unresolved := unresolvable(self._host)) is not None:
            raise unresolved
        self._timeout = timeout
        self._token = token
        self._pid = os.getpid()
        self._session = ""
        self._heartbeats: Heartbeats | None = None
        self._lifeline: Lifeline | None = None
        self._progress: Callable[[], int] | None = None
        self._resent: Callable[[], Resent] = Resent
        self._pace: Callable[[], Pace] = Pace
        self._closed = False
        self.newcomers = 0
        self._lock = threading.Lock()
        self.address = join_address(self._host, port)
        self._channel = open_channel(self.address, tls, _OPTIONS)
        self._stub = SwitchStub(self._channel)
        try:
            self._target = target_from_pb(
                self._call(self._stub.Discover, pb.DiscoverRequest(), timeout, wait_for_ready=patient)
            )
        except SwitchUnreachableError as error:
            self._channel.close()
            raise why_unreachable(self.address, tls, timeout) or error from error
        except BaseException:
            self._channel.close()
            raise
        _open_clients.add(self)

    def discover(self) -> TargetDescription:
        """The switch, as it was when the connection was made; `host` is an address to send packets to."""
        if self._target.host not in ("", "0.0.0.0"):
            return self._target
        return dataclasses.replace(self._target, host=resolve_ipv4(self._host))

    def join(
        self,
        offer: JoinOffer,
        *,
        timeout: float,
        pulse: Callable[[int, float], Callable[[], None]] | None = None,
    ) -> JobLayout:
        """Block until every rank has joined. The lease is kept from then on.

        Args:
            offer: this rank's wish to join.
            timeout: seconds to wait at most.
            pulse: sends a byte over a descriptor every so many seconds, though another thread hold the interpreter, and returns
                what ends it. None: whoever holds the interpreter for a lease is taken for stopped.

        Raises:
            JoinTimeoutError: names the ranks that are missing; this rank is withdrawn and may try again. With `offer.enters`: the
                job's ranks have not called `regroup`.
            DuplicateRankError: the rank has joined already.
            WorldSizeMismatchError: the ranks disagree on the world size.
            LayoutMismatchError: the ranks disagree on payload, window or flags.
            PoolExhaustedError: the switch has no room for the job.
            InvalidTokenError: the switch has another token.
            UsageError: the offer cannot be used, or this client has joined a job.
            SwitchUnreachableError: the switch does not answer.
        """
        if self._session:
            raise UsageError("this client has joined a job already; leave it first, or use another client")
        if offer.token:
            self._token = offer.token
        session = secrets.token_hex(16)
        try:
            request = offer_to_pb(offer, session, timeout)
        except ValueError as error:
            raise UsageError(
                f"job {offer.job!r}: {error}; ranks, sizes and ports are not negative"
            ) from error
        self._session = session
        try:
            layout = layout_from_pb(self._call(self._stub.Join, request, timeout + _SLACK))
        except BaseException:
            self._session = ""
            raise
        return self._begin(layout, pulse)

    def regroup(
        self,
        offer: JoinOffer,
        *,
        within: float,
        pulse: Callable[[int, float], Callable[[], None]] | None = None,
    ) -> JobLayout:
        """Go on with the others of the job who call this too, in its next epoch; blocks until it is known who they are.

        Args:
            offer: how the switch reaches this rank there. Job, rank and world size do not count.
            within: seconds from the first rank's call, in which the others have to call.
            pulse: as for `join`.

        Returns:
            The layout, with this rank's place.

        Raises:
            LeftBehindError: the others have gone on.
            LayoutMismatchError: the ranks disagree on payload, window or flags.
            PoolExhaustedError: the switch has no room.
            SwitchGoneError: the switch does not know this rank: it has left, or the switch was restarted.
            SwitchUnreachableError: the switch does not answer.
        """
        session = self._membership()
        heartbeats, self._heartbeats = self._heartbeats, None
        if heartbeats is not None:
            heartbeats.stop(_LEAVE / 2)  # what becomes of the past epoch concerns nobody any more
        self._progress, self._resent, self._pace = None, Resent, Pace
        request = pb.RegroupRequest(offer=offer_to_pb(offer, session, within), within=within)
        return self._begin(layout_from_pb(self._call(self._stub.Regroup, request, within + _SLACK)), pulse)

    def _begin(
        self, layout: JobLayout, pulse: Callable[[int, float], Callable[[], None]] | None
    ) -> JobLayout:
        """Show life from now on."""
        self._heartbeats = Heartbeats(
            self._beat, lease=layout.lease, address=self.address, severed=self._severed
        )
        if layout.life_port and (self._lifeline is None or self._lifeline.over):
            interval = interval_of(layout.lease)
            self._lifeline = Lifeline(
                self._host,
                layout.life_port,
                ticket_of(self._session),
                self._hurry,
                _gate.call,
                None if pulse is None else lambda descriptor: pulse(descriptor, interval),
            )
        # The answer has arrived: a job whose workers don't say so yields its slots to others. What fails here, `ready` tells.
        with contextlib.suppress(SwitchMLError):
            self._beat(self._timeout)
        return layout

    def ready(self, *, multicast: bool, timeout: float) -> bool:
        """Block until every rank is ready.

        Args:
            multicast: whether results sent to the job's group reach this worker.
            timeout: seconds to wait at most.

        Returns:
            Whether results leave by multicast: only when they reach every UDP worker, and there are at least two.

        Raises:
            JoinTimeoutError: names the ranks that are not ready.
            JobAbortedError: a rank has left or died.
        """
        if self._lifeline is not None:
            # From the first collective on, every death is to be known at once.
            self._lifeline.tried.wait(_LIFELINE)
        request = pb.ReadyRequest(session=self._membership(), multicast=multicast, timeout=timeout)
        return self._call(self._stub.Ready, request, timeout + _SLACK).multicast

    @property
    def joined(self) -> bool:
        """Whether this client has joined a job and not left it, whatever has become of the job."""
        return bool(self._session)

    @property
    def job_ended(self) -> bool:
        """Whether the job is known to have ended."""
        heartbeats = self._heartbeats
        return heartbeats is not None and bool(heartbeats.ended)

    def start_heartbeats(
        self,
        on_abort: Callable[[str], None],
        on_left: Callable[[Departures], None] | None = None,
        progress: Callable[[], int] | None = None,
        resent: Callable[[], Resent] = Resent,
        pace: Callable[[], Pace] = Pace,
        on_gone: Callable[[str], None] | None = None,
    ) -> None:
        """Have the end of the job, and ranks that leave, reported.

        The callbacks come from the heartbeats' thread, or from this call for what has happened already. They must not block.

        Args:
            on_abort: called once with the reason, when the job ends early or the switch stops answering for a whole lease.
            on_left: called whenever more ranks have left in order, with all that have.
            progress: how many collectives this rank has finished; the others are told when it leaves.
            resent: what this rank has sent again, for those who ask the switch.
            pace: how fast it sends, for the same.
            on_gone: called in place of `on_abort` when it is the switch that has gone; None = `on_abort` is.
        """
        self._membership()
        if self._heartbeats is None:
            raise UsageError("heartbeats begin with a join")
        self._progress, self._resent, self._pace = progress, resent, pace
        self._heartbeats.report_to(on_abort, on_left, on_gone)

    def slot(self, tsi: int) -> SlotReport:
        """Whose packets for chunk `tsi` (modulo 2^32) the switch has seen.

        Raises:
            JobAbortedError: the job has ended.
        """
        request = pb.SlotRequest(session=self._membership(), tsi=tsi & 0xFFFFFFFF)
        return slot_from_pb(self._call(self._stub.Slot, request, self._timeout))

    def status(self) -> SwitchStatus:
        """Jobs, members and counters of the whole switch."""
        return status_from_pb(self._call(self._stub.Status, pb.StatusRequest(), self._timeout))

    def leave(self, reason: str = "") -> None:
        """Leaves the job; the slots of a job whose ranks have all left are free again. Idempotent, at most 3 s, never raises.

        Args:
            reason: for the others, if it is not that all is done.
        """
        with self._lock:
            session, self._session = self._session, ""
            heartbeats, self._heartbeats = self._heartbeats, None
            lifeline, self._lifeline = self._lifeline, None
        if os.getpid() != self._pid:
            return
        if session:
            calls = None if self._progress is None else self._progress()
            request = pb.LeaveRequest(
                session=session,
                calls=calls,
                reason=reason[:_LONGEST_REASON],
                **dataclasses.asdict(self._resent()),
            )
            with contextlib.suppress(Exception):
                self._call(self._stub.Leave, request, _LEAVE / 2)
        if heartbeats is not None:
            heartbeats.stop(_LEAVE / 2)
        if lifeline is not None:
            lifeline.stop(_LEAVE / 2)

    def close(self, reason: str = "") -> None:
        """Leaves, and ends the connection. Arguments as for `leave`. Idempotent, bounded as `leave`, never raises."""
        if os.getpid() != self._pid or self._closed:
            return
        self._closed = True
        self.leave(reason)
        _open_clients.discard(self)
        with contextlib.suppress(Exception):
            self._channel.close()

    def _membership(self) -> str:
        if not self._session:
            raise UsageError("this client has joined no job; join first")
        return self._session

    def _beat(self, timeout: float) -> Departures:
        session = self._session
        if not session:
            return {}
        request = pb.HeartbeatRequest(
            session=session, **dataclasses.asdict(self._resent()), **dataclasses.asdict(self._pace())
        )
        reply = self._call(self._stub.Heartbeat, request, timeout)
        self.newcomers = reply.newcomers
        return departures_from_pb(reply)

    def _hurry(self) -> bool:
        heartbeats = self._heartbeats
        return heartbeats is not None and heartbeats.hurry()

    def _severed(self) -> bool:
        lifeline = self._lifeline
        return lifeline is not None and lifeline.severed

    def forget(self) -> None:
        """In a forked child, to which the membership does not belong: lets go of its lifeline."""
        if self._lifeline is not None:
            self._lifeline.forget()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout: float,
        *,
        wait_for_ready: bool = False,
    ) -> _Reply:
        """Calls, and turns what goes wrong into the switch's own error or SwitchUnreachableError."""
        if os.getpid() != self._pid:
            raise WorkerClosedError(
                f"this client belongs to process {self._pid}; a forked child has to join for itself"
            )
        # Blocking calls only: `future` would need a thread of gRPC's, which a fork can catch inside a lock.
        try:
            with _gate.call():
                return method(
                    request,
                    timeout=timeout,
                    metadata=((TOKEN_KEY, self._token.encode()),),
                    wait_for_ready=wait_for_ready,
                )
        except ValueError as error:  # gRPC's word for a closed channel
            raise WorkerClosedError("this client is closed; make another") from error
        except grpc.RpcError as error:
            raise self._explain(error, timeout) from error

    def _explain(self, error: grpc.RpcError, timeout: float) -> SwitchMLError:
        sent = from_status(error)
        if sent is not None:
            return sent
        code = error.code() if isinstance(error, grpc.Call) else None
        details = (error.details() if isinstance(error, grpc.Call) else str(error)) or "no details"
        if code is grpc.StatusCode.CANCELLED and self._closed:
            return WorkerClosedError("this client was closed while it waited")
        if code in _NO_ANSWER:
            return SwitchUnreachableError(
                f"no switch answers at {self.address} within {timeout:g} s ({details}); start one with `switchml switch`, or set "
                "SWITCHML_SWITCH to the control address of one that runs"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return SwitchUnreachableError(
                f"what listens at {self.address} speaks gRPC but is no switch of this version ({details}). Its control address "
                "is meant, not that of P4Runtime"
            )
        name = code.name if code is not None else "UNKNOWN"
        return SwitchMLError(f"the switch at {self.address} failed: {name}, {details}; see its log")


_open_clients: weakref.WeakSet[ControlClient] = weakref.WeakSet()
# A forked child holds on to what it inherits: gRPC's destructors would wait there for threads that only the parent has.
_inherited: list[ControlClient] = []


def _keep_inherited() -> None:
    for client in _open_clients:
        client.forget()
    _inherited.extend(_open_clients)
    _open_clients.clear()


def _close_all() -> None:
    """A thread inside gRPC must have ended when the interpreter goes away."""
    for client in list(_open_clients):
        client.close(uncaught())


_gate = ForkGate()
_gate.register()
os.register_at_fork(after_in_child=_keep_inherited)
close_at_exit(Stage.CLIENTS, _close_all)
