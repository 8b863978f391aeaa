"""The controller of one switch: carries out on the switch what the job table decides, and answers those who wait.

It owns the token, the clock and a lock, and starts no thread: whoever serves it calls `expire` when `next_timer` says so.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from switchml.control.control_messages import (
    LEASE,
    Departure,
    JobStatus,
    JoinOffer,
    MemberStatus,
    Pace,
    Resent,
    SlotReport,
    SwitchStatus,
)
from switchml.control.jobs import (
    Action,
    AddJob,
    Answer,
    Job,
    JobTable,
    Joined,
    Refused,
    RemoveJob,
    SetMulticast,
    Started,
    TargetAction,
    copy_error,
)
from switchml.control.target import JobProgram, SlotMap, SwitchTarget, TargetDescription
from switchml.control.tenants import NOBODY, Doorkeeper, Tenant
from switchml.errors import (
    JobAbortedError,
    JoinError,
    SwitchMLError,
    UsageError,
    WorkerClosedError,
)
from switchml.protocol.slots import slot_of, tsi_distance, version_of

_log = logging.getLogger(__name__)

Reply = Callable[[Answer], None]


class Controller:
    """Jobs, leases, slots, job numbers, multicast groups and the token of one switch. Thread-safe."""

    def __init__(
        self,
        target: SwitchTarget,
        *,
        token: str = "",
        tenants: Sequence[Tenant] = (),
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
        multicast_octet: int | None = None,
    ) -> None:
        """Take charge of a switch.

        Args:
            target: the switch.
            token: what a worker must show; "" lets everybody in, where there are no tenants.
            tenants: who shows a token of their own, and have a share of the switch.
            lease: seconds without a heartbeat after which a job ends.
            clock: seconds that never run backwards; for tests.
            multicast_octet: third octet of every group, where several controllers share a network; None = a random one.
        """
        self._target = target
        self._description = target.describe()
        self._door = Doorkeeper(token, tenants)
        self._clock = clock
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        self._tell: list[Callable[[frozenset[str]], None]] = []
        self._begun = clock()
        self._closed = ""
        self._suspended = ""
        self.telemetry = ""  # host:port of what is published of this switch, for who asks; "" = nothing
        octet = secrets.randbelow(256) if multicast_octet is None else multicast_octet
        self._table = JobTable(self._description, lease=lease, multicast_octet=octet)

    @property
    def lease(self) -> float:
        """Seconds without a heartbeat after which a job ends."""
        return self._table.lease

    def authorize(self, token: str) -> Tenant:
        """Let nobody go on who does not show the switch's token, or a tenant's.

        Raises:
            InvalidTokenError: `token` is another.
        """
        return self._door.admit(token)

    def check_address(self, transport: str, address: str, peer: str) -> None:
        """Let nobody have results sent to a third party: only to where the call comes from, unless it showed a token.

        Args:
            transport: of the offer.
            address: of the offer.
            peer: the host that the call comes from; "" = this machine.

        Raises:
            UsageError: the address is another host's.
        """
        if transport != "udp" or self._door.asks or not peer or address in ("", peer) or _is_loopback(peer):
            return
        raise UsageError(
            f"address {address}: this switch sends results only to where the join comes from, {peer}, because it has no join "
            f"token; offer {peer}, reach the switch from {address}, or start it with --token"
        )

    def describe(self) -> TargetDescription:
        """The switch, as it was when the controller began."""
        return self._description

    def join(
        self,
        session: str,
        offer: JoinOffer,
        timeout: float,
        reply: Reply,
        *,
        peer: str = "",
        tenant: Tenant = NOBODY,
    ) -> None:
        """A rank offers itself.

        Args:
            session: names the membership from now on; a secret of the worker's.
            offer: the rank's wish to join.
            timeout: seconds to wait for the other ranks.
            reply: called once, with Joined or Refused, from whichever call settles it; it must not block or call back.
            peer: the host that the call comes from; "" = this process.
            tenant: whose token it showed.

        Raises:
            JoinError: the offer is refused at once.
            UsageError: the offer cannot be used.
        """
        with self._lock:
            if self._closed:
                raise JoinError(f"{self._closed}; nobody can join it any more")
            self._check_ours()
            actions = self._table.join(session, offer, timeout, self._clock(), peer, tenant)
            self._replies[session] = reply
            self._carry_out(actions)

    def regroup(self, session: str, offer: JoinOffer, within: float, reply: Reply) -> None:
        """As `join`, for a member that goes on with others of its job: see `JobTable.regroup`."""
        with self._lock:
            actions = self._table.regroup(session, offer, within, self._clock())
            self._replies[session] = reply
            self._carry_out(actions)

    def newcomers(self, session: str) -> int:
        """How many wait to enter the job of a member, which they can when it regroups."""
        with self._lock:
            return self._table.newcomers(session)

    def ready(self, session: str, multicast: bool, timeout: float, reply: Reply) -> None:
        """As `join`, with Started or Refused."""
        with self._lock:
            actions = self._table.ready(session, multicast, timeout, self._clock())
            self._replies[session] = reply
            self._carry_out(actions)

    def on_news(self, tell: Callable[[frozenset[str]], None]) -> None:
        """Have `tell` called with sessions whose next heartbeat brings news; it must not block or call back."""
        self._tell.append(tell)

    def heartbeat(
        self, session: str, resent: Resent | None = None, pace: Pace | None = None
    ) -> Mapping[int, Departure]:
        """Renew the lease.

        Args:
            session: the membership.
            resent: what the rank says of itself; None = nothing.
            pace: the same.

        Returns:
            By rank, how those left who have.

        Raises:
            JobAbortedError: the job has ended.
        """
        with self._lock:
            return self._table.heartbeat(session, self._clock(), resent, pace)

    def attached(self, session: str) -> None:
        """The session's lifeline has come, or shows life."""
        with self._lock:
            self._table.attached(session, self._clock())

    def lost(self, session: str) -> None:
        """The session's lifeline is closed."""
        with self._lock:
            self._table.lost(session, self._clock())

    def sessions(self) -> frozenset[str]:
        """The members of jobs, and those of ended ones who have yet to be told."""
        with self._lock:
            return self._table.sessions()

    def leave(
        self, session: str, calls: int | None = None, reason: str = "", resent: Resent | None = None
    ) -> None:
        """Ends a membership, known or not; a call of its own that still waits is refused.

        Args:
            session: the membership.
            calls: collectives that the rank has finished, for the others; None = unknown.
            reason: why it leaves, if not because all is done.
            resent: as for `heartbeat`.
        """
        with self._lock:
            self._reply(Refused(session, WorkerClosedError("the worker has left")))
            self._carry_out(self._table.leave(session, self._clock(), Departure(calls, reason), resent))

    def disconnect(self, session: str) -> None:
        """The client of a waiting `join` or `ready` has gone away: it gets no reply."""
        with self._lock:
            self._replies.pop(session, None)
            self._carry_out(self._table.disconnect(session, self._clock()))

    def expire(self) -> None:
        """Carries out what is due by now."""
        with self._lock:
            self._carry_out(self._table.expire(self._clock()))

    def next_timer(self) -> float | None:
        """Seconds until `expire` is due; None = not before another call."""
        with self._lock:
            due = self._table.next_timer()
            return None if due is None else max(0.0, due - self._clock())

    def slot(self, session: str, tsi: int) -> SlotReport:
        """Whose packets for chunk `tsi` the switch has seen.

        Raises:
            JobAbortedError: the job has ended, or not begun.
        """
        with self._lock:
            job = self._table.find(session)
            program = job.program
            if program is None:
                raise JobAbortedError(f"job {job.name!r} has no slots yet: not all of its ranks have joined")
            return self._read_slot(job, program, tsi)

    def last_heard(self, session: str) -> list[float | None]:
        """Seconds since the last packet of each rank of the session's job; None = never.

        Raises:
            JobAbortedError: the job has ended.
        """
        with self._lock:
            job = self._table.find(session)
            return [None] * job.world_size if job.program is None else self._target.last_heard(job.number)

    def needed(self) -> bool:
        """Whether there are jobs, or members of a job that has just ended early who have yet to be told why."""
        with self._lock:
            return bool(self._table.jobs) or self._table.unnotified(self._clock()) > 0

    def status(self) -> SwitchStatus:
        """Jobs, members and counters of the whole switch.

        Raises:
            JoinError: it is in other hands (`suspend`).
        """
        with self._lock:
            self._check_ours()
            return self._status()

    def _status(self) -> SwitchStatus:
        now = self._clock()
        return SwitchStatus(
            target=self._description,
            jobs=tuple(self._job_status(job, now) for job in self._table.jobs),
            ended=self._table.ended(now),
            counters=self._target.counters(),
            free_slots=self._table.free_slots,
            lease=self._table.lease,
            uptime=now - self._begun,
            telemetry=self.telemetry,
            **dataclasses.asdict(self._table.resent),
        )

    def observe(self, *, slots: bool = True) -> tuple[SwitchStatus, dict[int, SlotMap]]:
        """As `status`, and what the slots of the jobs wait for, by job number.

        Args:
            slots: False leaves the slots out.

        Raises:
            JoinError: as for `status`.
        """
        with self._lock:
            self._check_ours()
            maps = {}
            if slots:
                for job in self._table.jobs:
                    found = self._target.slot_map(job.number) if job.program is not None else None
                    if found is not None:
                        maps[job.number] = found
            return self._status(), maps

    def suspend(self, reason: str) -> None:
        """The switch is in other hands: ends every job, and says so to all who ask, until `resume`."""
        with self._lock:
            self._suspended = reason
            self._carry_out(self._table.close(reason, self._clock()))

    def resume(self) -> None:
        """The switch is ours again, and empty."""
        with self._lock:
            self._suspended = ""

    def _check_ours(self) -> None:
        if self._suspended:
            raise JoinError(f"nobody can join this switch now: {self._suspended}")

    def close(self, reason: str = "the switch is shutting down") -> None:
        """Ends every job and lets nobody in any more. Idempotent."""
        with self._lock:
            self._closed = reason
            self._carry_out(self._table.close(reason, self._clock()))

    def _carry_out(self, actions: Sequence[Action]) -> None:
        """In order. When the switch fails at one, those whom the rest would let go on are refused, and the job ends."""
        failure: SwitchMLError | None = None
        failed: AddJob | SetMulticast | None = None
        for action in actions:
            if isinstance(action, Joined | Started | Refused):
                if failure is not None:
                    action = Refused(action.session, copy_error(failure))
                self._reply(action)
                continue
            error = self._program(action)
            if error is not None and not isinstance(action, RemoveJob):
                failure, failed = error, action
        if failure is not None and failed is not None:
            self._carry_out(self._table.target_failed(failed, failure, self._clock()))
        news = self._table.take_news()
        for tell in self._tell if news else ():
            tell(news)

    def _reply(self, answer: Answer) -> None:
        reply = self._replies.pop(answer.session, None)
        if reply is not None:
            reply(answer)

    def _program(self, action: TargetAction) -> SwitchMLError | None:
        try:
            match action:
                case AddJob(program):
                    self._target.add_job(program)
                    _log.info("job %d has begun, with %d workers", program.job_number, len(program.workers))
                case SetMulticast(number, enabled):
                    self._target.set_multicast(number, enabled)
                case RemoveJob(number):
                    self._target.remove_job(number)
                    _log.info("job %d has ended", number)
        except SwitchMLError as error:
            _log.warning("the switch refused %s: %s", type(action).__name__, error)
            return error
        except Exception as error:
            _log.exception("the switch failed at %s", type(action).__name__)
            return JobAbortedError(f"the switch could not be programmed: {error}; see the switch's log")
        return None

    def _read_slot(self, job: Job, program: JobProgram, tsi: int) -> SlotReport:
        reading = self._target.read_slot(
            program.job_number, slot_of(tsi, program.window), version_of(tsi, program.window)
        )
        everyone = frozenset(range(job.world_size))
        ahead = tsi_distance(reading.stamp, tsi)
        if reading.used and ahead == 0:
            seen = reading.seen
        elif reading.used and ahead > 0:
            # The slot has gone on to a later chunk, which it does only once this one was complete.
            seen = everyone
        else:
            seen = frozenset()
        return SlotReport(
            seen=seen,
            missing=tuple(sorted(everyone - seen)),
            last_heard=list(self._target.last_heard(program.job_number)),
            stamp=reading.stamp,
            left=job.left(),
        )

    def _job_status(self, job: Job, now: float) -> JobStatus:
        program = job.program
        first = next(iter(job.members.values())).offer
        return JobStatus(
            name=job.name,
            job_number=job.number,
            world_size=job.world_size,
            state=job.state.value,
            pool_base=program.pool_base if program else 0,
            window=program.window if program else first.window,
            payload=program.payload if program else first.payload,
            paper=first.paper,
            multicast_group=program.multicast_group if program else "",
            multicast_port=program.multicast_port if program else 0,
            multicast=job.multicast,
            members=tuple(self._member_status(job, now)),
            counters=self._target.job_counters(program.job_number) if program else {},
            age=now - job.since,
            wire=first.wire,
            waits_for=job.waits_for(),
        )

    def _member_status(self, job: Job, now: float) -> Iterator[MemberStatus]:
        program = job.program
        heard = self._target.last_heard(job.number) if program else [None] * job.world_size
        for rank, member in sorted(job.members.items()):
            yield MemberStatus(
                rank=rank,
                transport=program.workers[rank].transport if program else member.offer.transport,
                address=member.offer.address,
                port=member.offer.port,
                state=member.state,
                heartbeat=now - member.heard if job.program and not member.left else None,
                packet=heard[rank],
                **dataclasses.asdict(member.resent),
                **dataclasses.asdict(member.pace),
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
