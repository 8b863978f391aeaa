"""The jobs of a switch as a state machine: no I/O, no threads, no clock.

    joining ----(every rank joined)----> programmed ----(every rank ready)----> running
       |                                     |                                     |
       | (last member withdrawn)             | (a rank leaves, withdraws, times    | (all ranks left, or one
       v                                     v  out, dies or its lease lapses)     v  dies or its lease lapses)
     gone                                  ended                                 ended

A call is one event: it takes the time, changes the table and returns the actions to carry out, in order. `next_timer` says when
`expire` wants to be called next. A membership is named by its session, a secret that the worker chose. A job holds slots, a
number and a multicast group from `programmed` until it ends; while it gathers its ranks it holds nothing, so half-joined jobs
cannot starve each other.

Half-made is a job that is not running yet, and what a stranger can make thousands of at no cost. So one peer has a limited number
of half-made joins, and a programmed job keeps its slots against others only while its members show that they live: when another
job finds no room, those end first of which a member has not been heard since it joined, then those of a peer that holds most of
the switch. A job that runs is never touched. Whom an event concerns without an answer waiting for it, `take_news`
names.

A job whose ranks change has epochs. Its members call `regroup`, while it runs or when it has ended early, and keep their
sessions. Once all that live have called, or the first has waited long enough, those who have called and the newcomers that wait
are the ranks of the next epoch: a job like any other, programmed at once. Who calls later is left behind, and told so.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from switchml.control.control_messages import (
    SMALLEST_DEFAULT_WINDOW,
    Departure,
    EndedJob,
    JobLayout,
    JoinOffer,
    Pace,
    Resent,
)
from switchml.control.offer import check_offer, check_same_layout, check_timeout, resolved_payload
from switchml.control.ranges import RangeAllocator
from switchml.control.ranks import name_ranks
from switchml.control.target import JobProgram, TargetDescription, WorkerProgram, window_in_memory
from switchml.control.tenants import NOBODY, Tenant
from switchml.errors import (
    DuplicateRankError,
    JobAbortedError,
    JoinError,
    JoinTimeoutError,
    LeftBehindError,
    PoolExhaustedError,
    SwitchGoneError,
    SwitchMLError,
    UsageError,
    WorldSizeMismatchError,
)
from switchml.protocol.header import MAX_JOB_NUMBER

_ENDED_SHOWN = 16
# How long the members of an ended job are told why, in leases.
_REMEMBERED = 10
# Half-made joins of one peer: several times the largest job, for a host that runs all ranks of many small ones.
_HALF_MADE = 1024
# How long a worker has to say that its join's answer has arrived, when another job wants the slots, in seconds.
_GRACE = 2.0
# Half-made jobs of one peer, from which on they yield to other peers' when they hold more than half of the slots.
_MANY = 16
# Seconds that a live worker whose lifeline was cut gets to show itself, before it counts as dead.
_REVIVAL = 0.3


@dataclass(frozen=True)
class AddJob:
    """To the switch: aggregate a job."""

    program: JobProgram


@dataclass(frozen=True)
class SetMulticast:
    """To the switch: send a job's results to its group, or to each worker."""

    job_number: int
    enabled: bool


@dataclass(frozen=True)
class RemoveJob:
    """To the switch: forget a job."""

    job_number: int


@dataclass(frozen=True)
class Joined:
    """Answers the session's join: every rank is there."""

    session: str
    layout: JobLayout


@dataclass(frozen=True)
class Started:
    """Answers the session's ready: every rank is."""

    session: str
    multicast: bool


@dataclass(frozen=True)
class Refused:
    """Answers the session's join or ready."""

    session: str
    error: SwitchMLError


Answer = Joined | Started | Refused
TargetAction = AddJob | SetMulticast | RemoveJob
Action = Answer | TargetAction


_LEFT = Departure()


class JobState(StrEnum):
    """How far a job is."""

    JOINING = "joining"
    PROGRAMMED = "programmed"
    RUNNING = "running"


@dataclass
class Member:
    """One rank of a job, known by its session. Times are the table's, in seconds."""

    session: str
    offer: JoinOffer
    heard: float
    timeout: float  # of the call that waits
    deadline: float | None  # of the call that waits; None = none does
    vote: bool | None = None  # its `ready`: whether multicast reaches it
    peer: str = ""  # the host it calls from; "" = this process
    alive: bool = False  # heard since all have joined
    departure: Departure | None = None  # None = it has not left
    resent: Resent = field(default_factory=Resent)  # as it last said
    pace: Pace = field(default_factory=Pace)  # likewise
    connected: bool = False  # its lifeline stands
    lost: float | None = None  # since when it does not any more; None = it does, or there never was one
    dead: bool = False  # the job has ended because of it

    @property
    def left(self) -> bool:
        """Whether it has left in order."""
        return self.departure is not None

    def lives(self, now: float) -> bool:
        """Whether it can still be expected to call."""
        gone = self.left or self.dead
        return not gone and (self.lost is None or now < self.lost + _REVIVAL)

    @property
    def rank(self) -> int:
        """Its number."""
        return self.offer.rank

    @property
    def state(self) -> str:
        """One of "joined", "ready" and "left", as a status shows it."""
        return "left" if self.left else "joined" if self.vote is None else "ready"


@dataclass
class Job:
    """A job, from its first rank's offer to its end."""

    name: str
    world_size: int
    since: float
    tenant: Tenant = NOBODY
    state: JobState = JobState.JOINING
    members: dict[int, Member] = field(default_factory=dict)
    program: JobProgram | None = None
    multicast: bool = False
    refusals: dict[int, str] = field(default_factory=dict)
    programmed: float = 0.0  # when
    epoch: int = 0  # how often it has regrouped
    survivors: int = 0  # ranks that were in the epoch before
    went_on: int = 0  # the epoch that has followed; 0 = none has

    @property
    def number(self) -> int:
        """Job number; 0 while the job gathers its ranks."""
        return 0 if self.program is None else self.program.job_number

    def waits_for(self) -> str:
        """Why it does not run yet, in a sentence; "" = it does."""
        if self.state is JobState.RUNNING:
            return ""
        if self.state is JobState.PROGRAMMED:
            unready = [rank for rank, member in sorted(self.members.items()) if member.vote is None]
            return f"{name_ranks(unready)} to be ready"
        refused = "".join(f"; rank {rank} was refused: {why}" for rank, why in sorted(self.refusals.items()))
        missing = [rank for rank in range(self.world_size) if rank not in self.members]
        return f"{name_ranks(missing)} to join{refused}"

    def left(self) -> frozenset[int]:
        """The ranks that have left in order."""
        return frozenset(self.departures())

    def departures(self) -> dict[int, Departure]:
        """By rank, how those left who have."""
        return {
            rank: member.departure for rank, member in self.members.items() if member.departure is not None
        }


@dataclass(frozen=True)
class _Ended:
    """A job that is over, and for whom."""

    job: Job
    reason: str
    at: float
    with_switch: bool = False  # the switch has ended

    def error(self) -> JobAbortedError:
        """For its members."""
        kind = SwitchGoneError if self.with_switch else JobAbortedError
        return kind(f"job {self.job.name!r} has ended: {self.reason}")


@dataclass
class Gathering:
    """The ranks of one job that go on, until it is closed."""

    past: Job
    until: float
    callers: dict[int, Member] = field(default_factory=dict)  # by rank in `past`

    def is_over(self, now: float) -> bool:
        """Whether nobody is waited for any more."""
        living = {rank for rank, member in self.past.members.items() if member.lives(now)}
        return now >= self.until or living <= self.callers.keys()


class JobTable:
    """All jobs of one switch. `lease` is in seconds, every `now` too; `now` never runs backwards."""

    def __init__(self, target: TargetDescription, *, lease: float, multicast_octet: int) -> None:
        if lease <= 0:
            raise UsageError(f"lease {lease}: use a positive number of seconds")
        self.lease = lease
        self._target = target
        self._octet = multicast_octet
        self._pool = RangeAllocator(target.pool_slots)
        self._jobs: list[Job] = []
        self._members: dict[str, tuple[Job, Member]] = {}
        self._orphans: dict[str, _Ended] = {}
        self._ended: deque[_Ended] = deque(maxlen=_ENDED_SHOWN)
        self._untold: set[str] = set()  # of the orphans, those who can still be expected to ask
        self._news: set[str] = set()
        self._gatherings: list[Gathering] = []
        self._newcomers: list[tuple[Member, Tenant]] = []
        self.resent = Resent()  # of all workers, those that have left too
        self._last_number = 0
        self._last_event = 0.0

    # Events of workers.

    def join(
        self,
        session: str,
        offer: JoinOffer,
        timeout: float,
        now: float,
        peer: str = "",
        tenant: Tenant = NOBODY,
    ) -> list[Action]:
        """A rank offers itself; its answer comes as Joined or Refused, by `now + timeout`.

        Args:
            session: names the membership from now on.
            offer: the rank's wish to join.
            timeout: seconds to wait for the others.
            now: the time.
            peer: the host that the call comes from, which has a limited number of half-made joins; "" = no limit.
            tenant: whose job it is.

        Raises:
            SwitchMLError: what refuses it at once.
        """
        self._observe(now)
        timeout = check_timeout(timeout)
        newcomers = (member.session for member, _ in self._newcomers)
        if not session or session in self._members or session in self._orphans or session in newcomers:
            raise UsageError("a join needs a session of its own")
        if offer.enters:
            self._enter(Member(session, offer, now, timeout, now + timeout, peer=peer), tenant)
            return []
        try:
            check_offer(offer, self._target)
            self._check_share(peer)
            self._check_limits(tenant)
            job = self._find_or_open(offer, now, tenant)
        except SwitchMLError as error:
            for known in self._gathering(offer.job):
                known.refusals[offer.rank] = str(error)
            raise
        member = Member(session, offer, now, timeout, now + timeout, peer=peer)
        job.members[offer.rank] = member
        job.refusals.pop(offer.rank, None)
        self._members[session] = (job, member)
        return self._program(job, now) if len(job.members) == job.world_size else []

    def regroup(self, session: str, offer: JoinOffer, within: float, now: float) -> list[Action]:
        """A member goes on with those of its job who call this too; its answer comes as Joined or Refused, by `now + within`.

        Args:
            session: of the member, in a job that runs or has ended early; in the next epoch as well.
            offer: how the switch reaches it there. Job, rank and world size do not count.
            within: seconds to wait for the others. The shortest of all counts.
            now: the time.

        Raises:
            LeftBehindError: the others have gone on.
            SwitchMLError: what else refuses it at once.
        """
        self._observe(now)
        within = check_timeout(within)
        known = self._members.get(session)
        if known is None:
            ended = self._orphans.get(session)
            if ended is None or ended.with_switch:
                self._member(session)  # raises what has become of it
            assert ended is not None
            job, member = ended.job, next(iter(self._past_of(session)))
        else:
            job, member = known
        if job.went_on:
            raise LeftBehindError(
                f"job {job.name!r} has gone on as epoch {job.went_on} without rank {member.rank}, which called too late: come in "
                "as a new rank, or give `regroup` more time"
            )
        if job.state is JobState.JOINING:
            raise UsageError(f"job {job.name!r} has not begun: rank {member.rank} cannot regroup it")
        offer = replace(offer, job=job.name, rank=member.rank, world_size=job.world_size)
        check_offer(offer, self._target)
        self._check_socket(offer, None)
        gathering = next((each for each in self._gatherings if each.past is job), None)
        if gathering is None:
            gathering = Gathering(job, now + within)
            self._gatherings.append(gathering)
        for other in gathering.callers.values():
            check_same_layout(offer, other.offer, self._target)
        gathering.until = min(gathering.until, now + within)
        gathering.callers[member.rank] = Member(session, offer, now, within, None, peer=member.peer)
        return self._close_gatherings(now)

    def ready(self, session: str, multicast: bool, timeout: float, now: float) -> list[Action]:
        """A rank's transport works; its answer comes as Started or Refused, by `now + timeout`.

        Raises:
            JobAbortedError: the job has ended.
            UsageError: the rank has not been told that all have joined.
        """
        self._observe(now)
        timeout = check_timeout(timeout)
        job, member = self._member(session)
        if job.state is JobState.JOINING:
            raise UsageError(f"job {job.name!r}: rank {member.rank} has to be joined before it is ready")
        member.heard, member.lost, member.alive = now, None, True
        if job.state is JobState.RUNNING:
            return [Started(session, job.multicast)]
        member.vote, member.timeout, member.deadline = multicast, timeout, now + timeout
        return self._start(job) if all(each.vote is not None for each in job.members.values()) else []

    def heartbeat(
        self, session: str, now: float, resent: Resent | None = None, pace: Pace | None = None
    ) -> Mapping[int, Departure]:
        """Renew the lease.

        Args:
            session: of the rank.
            now: the time.
            resent: what it says of itself; None = nothing.
            pace: the same.

        Returns:
            By rank, how those left who have.

        Raises:
            JobAbortedError: the job has ended.
        """
        self._observe(now)
        job, member = self._member(session)
        member.heard, member.lost, member.alive = now, None, True
        self._note(member, resent)
        if pace is not None:
            member.pace = pace
        return job.departures()

    def _note(self, member: Member, resent: Resent | None) -> None:
        if resent is not None:
            self.resent = self.resent.grown(member.resent, resent)
            member.resent = resent

    def attached(self, session: str, now: float) -> None:
        """The session's lifeline has come, or shows life."""
        self._observe(now)
        for member in self._all_of(session):
            member.heard, member.lost, member.connected = now, None, True

    def lost(self, session: str, now: float) -> None:
        """The session's lifeline is closed. If it shows no life soon, its process has ended."""
        self._observe(now)
        for member in self._all_of(session):
            member.lost, member.connected = now, False
        self._untold.discard(session)

    def _all_of(self, session: str) -> Iterable[Member]:
        """The places of a session: in a job, and in what has been of one."""
        if session in self._members:
            yield self._members[session][1]
        yield from self._past_of(session)

    def _past_of(self, session: str) -> Iterable[Member]:
        ended = self._orphans.get(session)
        if ended is not None:
            yield from (each for each in ended.job.members.values() if each.session == session)

    def leave(
        self, session: str, now: float, departure: Departure = _LEFT, resent: Resent | None = None
    ) -> list[Action]:
        """A rank leaves, in order. Unknown sessions are forgotten ones: nothing to do. `resent`: as for `heartbeat`."""
        self._observe(now)
        if session in self._members:
            self._note(self._members[session][1], resent)
        for member in self._past_of(session):
            member.departure = departure
        self._orphans.pop(session, None)
        self._untold.discard(session)
        self._stop_waiting(session)
        actions = self._withdraw(session, now, "left", departure) if session in self._members else []
        return actions + self._close_gatherings(now)

    def disconnect(self, session: str, now: float) -> list[Action]:
        """The client of a waiting join or ready has gone away. A running job keeps the member until its lease lapses."""
        self._observe(now)
        if self._stop_waiting(session):
            return self._close_gatherings(now)
        if session not in self._members or self._members[session][0].state is JobState.RUNNING:
            return []
        return self._withdraw(session, now, "went away")

    # Events of time and of the switch.

    def expire(self, now: float) -> list[Action]:
        """Carries out what is due: waiting calls that time out, leases that lapse."""
        self._observe(now)
        actions: list[Action] = []
        for job in list(self._jobs):
            if job.state is JobState.JOINING:
                actions += self._expire_joins(job, now)
            else:
                actions += (
                    self._expire_ready(job, now)
                    or self._expire_lost(job, now)
                    or self._expire_unanswered(job, now)
                    or self._expire_leases(job, now)
                )
        for newcomer, _ in self._newcomers:
            if _overdue(newcomer, now):
                actions.append(Refused(newcomer.session, self._nobody_regrouped(newcomer)))
        self._newcomers = [each for each in self._newcomers if not _overdue(each[0], now)]
        actions += self._close_gatherings(now)
        for session, ended in list(self._orphans.items()):
            if now >= ended.at + _REMEMBERED * self.lease:
                del self._orphans[session]
                self._untold.discard(session)
        return actions

    def next_timer(self) -> float | None:
        """When `expire` is due at the latest; None = not before the next event."""
        due = [ended.at + _REMEMBERED * self.lease for ended in self._orphans.values()]
        due += [newcomer.deadline for newcomer, _ in self._newcomers if newcomer.deadline is not None]
        for gathering in self._gatherings:
            due.append(gathering.until)
            due += [
                member.lost + _REVIVAL
                for member in gathering.past.members.values()
                if member.lost is not None and member.lost + _REVIVAL > self._last_event
            ]
        for job in self._jobs:
            if job.epoch and job.state is JobState.PROGRAMMED:
                due += [job.programmed + _GRACE for member in job.members.values() if not member.alive]
            for member in job.members.values():
                if member.deadline is not None:
                    due.append(member.deadline)
                if job.state is not JobState.JOINING and not member.left:
                    due.append(member.heard + self.lease)
                    if member.lost is not None:
                        due.append(member.lost + _REVIVAL)
        if not due:
            return None
        # Often enough that a long silence can only mean that this process was stopped (see `_observe`).
        return min(min(due), self._last_event + self.lease / 4)

    def target_failed(self, failed: AddJob | SetMulticast, error: SwitchMLError, now: float) -> list[Action]:
        """The switch could not carry out an action, so the job ends. The caller refuses those whom the action let go on."""
        added = isinstance(failed, SetMulticast)
        number = failed.job_number if isinstance(failed, SetMulticast) else failed.program.job_number
        for job in self._jobs:
            if job.number == number:
                actions = self._end(job, str(error), now, error)
                return (
                    actions if added else [action for action in actions if not isinstance(action, RemoveJob)]
                )
        return []

    def close(self, reason: str, now: float) -> list[Action]:
        """Ends every job, because the switch ends."""
        self._observe(now)
        waiting = [newcomer for newcomer, _ in self._newcomers]
        waiting += [caller for gathering in self._gatherings for caller in gathering.callers.values()]
        self._gatherings, self._newcomers = [], []
        return [
            *(
                Refused(each.session, SwitchGoneError(f"job {each.offer.job!r}: {reason}"))
                for each in waiting
            ),
            *(action for job in list(self._jobs) for action in self._end(job, reason, now, with_switch=True)),
        ]

    # Reading.

    def take_news(self) -> frozenset[str]:
        """The members whose next heartbeat has something to tell them that it had not when this was last called."""
        news, self._news = frozenset(self._news), set()
        return news

    def sessions(self) -> frozenset[str]:
        """The members of jobs, and those of ended ones who have yet to be told."""
        return frozenset(self._members) | frozenset(self._orphans)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that have not ended, oldest first."""
        return tuple(self._jobs)

    @property
    def free_slots(self) -> int:
        """Slots of the pool that no job holds."""
        return self._pool.free()

    def unnotified(self, now: float) -> int:
        """Members of jobs that ended without them, as long as they can be expected to ask and be told why."""
        return sum(now < self._orphans[session].at + self.lease / 2 for session in self._untold)

    def ended(self, now: float) -> tuple[EndedJob, ...]:
        """The jobs that ended last, newest first."""
        return tuple(
            EndedJob(end.job.name, end.job.number, end.job.world_size, end.reason, now - end.at)
            for end in self._ended
        )

    def newcomers(self, session: str) -> int:
        """How many wait to enter the job of a member."""
        known = self._members.get(session)
        return 0 if known is None else len(self._entering(known[0]))

    def find(self, session: str) -> Job:
        """The job of a member.

        Raises:
            JobAbortedError: it has ended; with the reason.
        """
        return self._member(session)[0]

    # Joining.

    def _check_share(self, peer: str) -> None:
        """Raises PoolExhaustedError when the peer has as many half-made joins as it may."""
        if not peer:
            return
        limit = max(_HALF_MADE, 2 * self._target.max_workers)
        half_made = sum(
            member.peer == peer and job.state is not JobState.RUNNING
            for job, member in self._members.values()
        )
        half_made += sum(newcomer.peer == peer for newcomer, _ in self._newcomers)
        if half_made >= limit:
            raise PoolExhaustedError(
                f"{limit} workers at {peer} have joined jobs that do not run yet, and a host may have no more; start the missing "
                "ranks of those jobs, or end them"
            )

    def _gathering(self, name: str) -> Iterable[Job]:
        return (job for job in self._jobs if job.name == name and job.state is JobState.JOINING)

    def _check_limits(self, tenant: Tenant) -> None:
        if tenant.packets_per_second and not self._target.limits_packets:
            raise UsageError(
                f"tenant {tenant.name!r} has a limit of packets a second, which this switch cannot keep: take it out of the "
                "switch's file of tenants"
            )

    def _find_or_open(self, offer: JoinOffer, now: float, tenant: Tenant) -> Job:
        """The job that the offer belongs to. Raises when it fits none and may not open one."""
        gathering: Job | None = None
        for job in self._jobs:
            if job.name != offer.job:
                continue
            if job.tenant != tenant:
                raise UsageError(f"job {job.name!r} is another tenant's; use another job name")
            if offer.world_size != job.world_size:
                verb = "is running with" if job.state is JobState.RUNNING else "has"
                raise WorldSizeMismatchError(
                    f"job {job.name!r}: rank {offer.rank} says world size {offer.world_size}, but the job {verb} world size "
                    f"{job.world_size}; give every rank the same, or use another job name"
                )
            member = job.members.get(offer.rank)
            if member is not None and not member.left:
                raise DuplicateRankError(
                    f"job {job.name!r}: rank {offer.rank} has already joined ({_where(member.offer)}); "
                    "use another rank or another job name, or wait for the other worker to leave"
                )
            if job.state is JobState.JOINING:
                gathering = job
        self._check_socket(offer, gathering)
        if gathering is None:
            # Also when this rank has left a job of that name which others are still leaving.
            job = Job(offer.job, offer.world_size, now, tenant)
            self._jobs.append(job)
            return job
        for member in gathering.members.values():
            check_same_layout(offer, member.offer, self._target)
        return gathering

    def _check_socket(self, offer: JoinOffer, gathering: Job | None) -> None:
        """Raises UsageError when the offer's socket is somebody else's, in the job that gathers or in another."""
        if offer.transport != "udp":
            return
        for job in reversed(self._jobs):
            taken = next((each for each in job.members.values() if _same_socket(each, offer)), None)
            if taken is None:
                continue
            if job is gathering or not self._proves(taken.offer, offer):
                whose = f"rank {taken.rank}'s" if job is gathering else "another job's"
                raise UsageError(
                    f"job {offer.job!r}: rank {offer.rank} offers {_where(offer)}, which is {whose}; "
                    "every worker needs a socket of its own"
                )
            return

    def _proves(self, *offers: JoinOffer) -> bool:
        """Whether the switch finds out who of these is where it says. Then a claim of another job keeps nobody out."""
        return self._target.tells_claims_apart and not any(offer.any_number for offer in offers)

    def _program(self, job: Job, now: float) -> list[Action]:
        """Every rank is there: gives the job its number, its slots and its group."""
        in_memory = self._in_memory(job)
        wanted = self._window(job, in_memory)
        room: list[Action] = []
        try:
            wanted = self._within_share(job, wanted)
            room = self._make_room(job, wanted, now)
            number = self._free_number()
            base, window = self._reserve(job, wanted)
        except PoolExhaustedError as error:
            return room + self._end(job, str(error), now, error)
        self._last_number = number
        members = [job.members[rank] for rank in range(job.world_size)]
        udp = sum(member.offer.transport == "udp" for member in members)
        several = udp > 1 and self._target.ip_multicast
        program = JobProgram(
            job_number=number,
            pool_base=base,
            window=window,
            payload=resolved_payload(members[0].offer, self._target),
            paper=members[0].offer.paper,
            workers=tuple(_worker_program(member.offer, in_memory) for member in members),
            # Administratively scoped (RFC 2365); the octet keeps two controllers on one network apart.
            multicast_group=f"239.83.{self._octet}.{number}" if several else "",
            multicast_port=self._target.udp_port if several else 0,
            any_number=members[0].offer.any_number,
            wire=members[0].offer.wire,
            tenant=job.tenant.number,
            packets_per_second=job.tenant.packets_per_second,
        )
        layout = JobLayout(
            number,
            window,
            program.payload,
            program.paper,
            program.multicast_group,
            program.multicast_port,
            self.lease,
            wire=program.wire,
            in_memory=in_memory,
        )
        job.program, job.state, job.programmed = program, JobState.PROGRAMMED, now
        for member in members:
            member.heard, member.deadline, member.alive = now, None, False
        if job.epoch:
            layout = replace(layout, world_size=job.world_size, epoch=job.epoch, survivors=job.survivors)
        return [
            *room,
            AddJob(program),
            *(
                Joined(member.session, replace(layout, rank=member.rank) if job.epoch else layout)
                for member in members
            ),
        ]

    def _in_memory(self, job: Job) -> bool:
        """Whether the job's workers run the slot machine themselves: all must be on the switch's host, and none mind."""
        offers = [member.offer for member in job.members.values()]
        # There are no packets that could be counted.
        limited = job.tenant.packets_per_second > 0
        return (self._target.in_memory and not limited) and all(
            offer.transport in ("auto", "memory") and not offer.paper for offer in offers
        )

    def _window(self, job: Job, in_memory: bool) -> int:
        """Slots that the job wants."""
        offer, default = job.members[0].offer, self._target.default_window
        if in_memory:
            default = window_in_memory(resolved_payload(offer, self._target), default)
        return min(offer.window or default, self._target.pool_slots)

    def _within_share(self, job: Job, wanted: int) -> int:
        """As many slots as the job's tenant may still have, a power of two."""
        limit = job.tenant.slots
        if not limit:
            return wanted
        held = sum(
            other.program.window for other in self._jobs if other.program and other.tenant == job.tenant
        )
        left = max(limit - held, 0)
        asked = job.members[0].offer.window
        if asked > left or left < SMALLEST_DEFAULT_WINDOW:
            raise PoolExhaustedError(
                f"job {job.name!r} needs {asked or SMALLEST_DEFAULT_WINDOW} slots, and of the {limit} that tenant "
                f"{job.tenant.name!r} may have its other jobs hold {held}; wait for one to end, or ask for a smaller window"
            )
        return min(wanted, (1 << left.bit_length()) >> 1)

    def _make_room(self, job: Job, wanted: int, now: float) -> list[Action]:
        """Ends half-made jobs, as far as the job needs what they hold and they have no claim to it."""
        actions: list[Action] = []
        while self._pool.largest() < wanted or self._numbers() == MAX_JOB_NUMBER:
            idle = self._idle(job, now)
            if idle is None:
                break
            silent = name_ranks(rank for rank, member in idle.members.items() if not member.alive)
            why = f"{silent} had not answered since all joined" if silent else "its host holds most of them"
            actions += self._end(idle, f"another job needed its slots before it was ready, and {why}", now)
        return actions

    def _numbers(self) -> int:
        return sum(job.number > 0 for job in self._jobs)

    def _idle(self, wanting: Job, now: float) -> Job | None:
        """The half-made job that is the first to yield."""
        slots: Counter[str] = Counter()
        half_made: defaultdict[str, list[Job]] = defaultdict(list)
        for job in self._jobs:
            if job.state is not JobState.PROGRAMMED or job.program is None:
                continue
            silent = any(not member.alive for member in job.members.values())
            if silent and now >= job.programmed + _GRACE:
                return job
            peer = _peer(job)
            slots[peer] += job.program.window
            half_made[peer].append(job)
        for peer, jobs in half_made.items():
            if peer != _peer(wanting) and len(jobs) >= _MANY and 2 * slots[peer] > self._target.pool_slots:
                return jobs[0]
        return None

    def _free_number(self) -> int:
        """The next number in turn: one that has just become free may still be in packets under way."""
        taken = {job.number for job in self._jobs}
        for step in range(MAX_JOB_NUMBER):
            number = (self._last_number + step) % MAX_JOB_NUMBER + 1
            if number not in taken:
                return number
        raise PoolExhaustedError(f"this switch has {MAX_JOB_NUMBER} jobs already; wait for one to end")

    def _reserve(self, job: Job, wanted: int) -> tuple[int, int]:
        """Base and length of the job's slots: as many as asked for, or up to `wanted` as many as there are."""
        asked = job.members[0].offer.window
        largest = self._pool.largest()
        window = asked or max(SMALLEST_DEFAULT_WINDOW, min(wanted, (1 << largest.bit_length()) >> 1))
        base = self._pool.allocate(window)
        if base is None:
            raise PoolExhaustedError(
                f"job {job.name!r} needs {window} slots in a row, and this switch has {largest} of {self._pool.size} free; "
                "wait for a job to end, ask for a smaller window, or start the switch with more slots"
            )
        return base, window

    # Regrouping.

    def _enter(self, newcomer: Member, tenant: Tenant) -> None:
        offer = newcomer.offer
        check_offer(offer, self._target)
        self._check_share(newcomer.peer)
        self._check_limits(tenant)
        self._check_socket(offer, None)
        for job in self._jobs:
            if job.name == offer.job and job.state is not JobState.JOINING:
                if job.tenant != tenant:
                    raise UsageError(f"job {job.name!r} is another tenant's; use another job name")
                check_same_layout(offer, next(iter(job.members.values())).offer, self._target)
                self._news.update(each.session for each in job.members.values() if not each.left)
        self._newcomers.append((newcomer, tenant))

    def _entering(self, job: Job) -> list[Member]:
        return [
            newcomer
            for newcomer, tenant in self._newcomers
            if newcomer.offer.job == job.name and tenant == job.tenant
        ]

    def _nobody_regrouped(self, newcomer: Member) -> JoinTimeoutError:
        name = newcomer.offer.job
        runs = any(job.name == name for job in self._jobs)
        why = "none of its ranks has called regroup" if runs else "there is no job of that name"
        return JoinTimeoutError(
            f"job {name!r}: a new rank could not come in within {newcomer.timeout:g} s, because {why}"
        )

    def _stop_waiting(self, session: str) -> bool:
        """Whether the session waited for the next epoch of a job; it does not any more."""
        waits = False
        for gathering in self._gatherings:
            for rank, caller in list(gathering.callers.items()):
                if caller.session == session:
                    del gathering.callers[rank]
                    waits = True
        left = [each for each in self._newcomers if each[0].session != session]
        waits, self._newcomers = waits or len(left) < len(self._newcomers), left
        return waits

    def _close_gatherings(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for gathering in [each for each in self._gatherings if each.is_over(now)]:
            self._gatherings.remove(gathering)
            if gathering.callers:
                actions += self._regroup(gathering, now)
        return actions

    def _regroup(self, gathering: Gathering, now: float) -> list[Action]:
        """The next epoch of a job: survivors in their order, then newcomers in theirs."""
        past = gathering.past
        callers = [gathering.callers[rank] for rank in sorted(gathering.callers)]
        past.went_on = epoch = past.epoch + 1
        newcomers, actions = self._let_in(past, callers)
        size = len(callers) + len(newcomers)
        for caller in callers:
            before = past.members[caller.rank]
            caller.connected, caller.lost = before.connected, before.lost
            self._members.pop(caller.session, None)
            self._orphans.pop(caller.session, None)
            self._untold.discard(caller.session)
        if past in self._jobs:
            missing = [rank for rank in past.members if rank not in gathering.callers]
            without = f", without {name_ranks(missing)}" if missing else ""
            actions += self._end(past, f"it has gone on as epoch {epoch}, of world size {size}{without}", now)
        job = Job(past.name, size, now, past.tenant, epoch=epoch, survivors=len(callers))
        self._jobs.append(job)
        for rank, member in enumerate([*callers, *newcomers]):
            member.offer = replace(member.offer, rank=rank, world_size=size)
            job.members[rank] = member
            self._members[member.session] = (job, member)
        return actions + self._program(job, now)

    def _let_in(self, past: Job, callers: list[Member]) -> tuple[list[Member], list[Action]]:
        """Of those who wait to enter, those for whom there is room and who fit; refusals of those who don't."""
        taken: list[Member] = []
        refused: list[Action] = []
        entering = self._entering(past)
        for newcomer in entering:
            try:
                check_same_layout(newcomer.offer, callers[0].offer, self._target)
                if any(_same_socket(each, newcomer.offer) for each in (*callers, *taken)):
                    raise UsageError(
                        f"{_where(newcomer.offer)} is another rank's; every worker needs a socket of its own"
                    )
                if len(callers) + len(taken) == self._target.max_workers:
                    raise JoinError(f"job {past.name!r} has as many ranks as this switch takes")
            except SwitchMLError as error:
                refused.append(Refused(newcomer.session, error))
            else:
                taken.append(newcomer)
        gone = {newcomer.session for newcomer in entering}
        self._newcomers = [each for each in self._newcomers if each[0].session not in gone]
        return taken, refused

    def _expire_unanswered(self, job: Job, now: float) -> list[Action]:
        """Nobody in an epoch waits for one who has died before there was a lifeline."""
        if not job.epoch or job.state is not JobState.PROGRAMMED or now < job.programmed + _GRACE:
            return []
        silent = [rank for rank, member in job.members.items() if not member.alive]
        if not silent:
            return []
        for rank in silent:
            job.members[rank].dead = True
        verb = "has" if len(silent) == 1 else "have"
        return self._end(job, f"{name_ranks(silent)} {verb} not answered since the job regrouped", now)

    # Starting and ending.

    def _start(self, job: Job) -> list[Action]:
        votes = [member.vote for member in job.members.values() if member.offer.transport == "udp"]
        job.state = JobState.RUNNING
        job.multicast = len(votes) > 1 and all(votes)
        actions: list[Action] = [SetMulticast(job.number, True)] if job.multicast else []
        for member in job.members.values():
            member.deadline = None
            actions.append(Started(member.session, job.multicast))
        return actions

    def _withdraw(self, session: str, now: float, verb: str, departure: Departure = _LEFT) -> list[Action]:
        job, member = self._members[session]
        if job.state is JobState.PROGRAMMED:
            del self._members[session]
            member.departure = departure
            return self._end(job, f"rank {member.rank} {verb} before the job was ready", now)
        del self._members[session]
        if job.state is JobState.JOINING:
            del job.members[member.rank]
            if not job.members:
                self._jobs.remove(job)
            return []
        member.departure = departure
        if len(job.left()) == job.world_size:
            return self._end(job, "all ranks have left", now)
        self._news.update(each.session for each in job.members.values() if not each.left)
        return []

    def _end(
        self,
        job: Job,
        reason: str,
        now: float,
        error: SwitchMLError | None = None,
        with_switch: bool = False,
    ) -> list[Action]:
        """Takes the job off the switch; tells those who wait at once, and the others at their next call."""
        self._jobs.remove(job)
        end = _Ended(job, reason, now, with_switch)
        actions: list[Action] = []
        if job.program is not None:
            self._pool.release(job.program.pool_base)
            actions.append(RemoveJob(job.number))
        if job.program is not None or isinstance(error, PoolExhaustedError):
            self._ended.appendleft(end)
        for member in job.members.values():
            if self._members.pop(member.session, None) is None:
                continue
            if job.program is not None:
                self._orphans[member.session] = end
                self._news.add(member.session)
                if member.lost is None:
                    self._untold.add(member.session)
            if job.state is JobState.JOINING or member.deadline is not None:
                actions.append(Refused(member.session, copy_error(error) if error else end.error()))
        return actions

    # Time.

    def _observe(self, now: float) -> None:
        """Nothing is heard while this very process is stopped, so that time counts against nobody."""
        silence = now - self._last_event
        self._last_event = now
        if silence > self.lease / 2:
            for _, member in self._members.values():
                member.heard += silence
                if member.lost is not None:
                    member.lost += silence

    def _expire_joins(self, job: Job, now: float) -> list[Action]:
        late = [member for member in job.members.values() if _overdue(member, now)]
        if not late:  # the rest takes time, and a stranger may have a thousand jobs here
            return []
        missing = [rank for rank in range(job.world_size) if rank not in job.members]
        actions: list[Action] = []
        for member in late:
            refused = "".join(
                f" Rank {rank} was refused: {why}." for rank, why in sorted(job.refusals.items())
            )
            error = JoinTimeoutError(
                f"job {job.name!r}: {name_ranks(missing)} of {job.world_size} did not join within {member.timeout:g} s; "
                f"start them with this job name, world size and switch address.{refused}"
            )
            actions.append(Refused(member.session, error))
            actions += self._withdraw(member.session, now, "timed out")
        return actions

    def _expire_ready(self, job: Job, now: float) -> list[Action]:
        late = next((member for member in job.members.values() if _overdue(member, now)), None)
        if late is None:
            return []
        unready = name_ranks(rank for rank, member in job.members.items() if member.vote is None)
        reason = f"{unready} did not get ready within {late.timeout:g} s"
        return self._end(
            job, reason, now, JoinTimeoutError(f"job {job.name!r}: {reason}; look at the log of each")
        )

    def _expire_lost(self, job: Job, now: float) -> list[Action]:
        dead = [
            rank
            for rank, member in job.members.items()
            if not member.left and member.lost is not None and now >= member.lost + _REVIVAL
        ]
        if not dead:
            return []
        for rank in dead:
            job.members[rank].dead = True
        verb, whose = ("has", "its") if len(dead) == 1 else ("have", "their")
        return self._end(
            job, f"{name_ranks(dead)} {verb} died: {whose} connection was closed without leaving the job", now
        )

    def _expire_leases(self, job: Job, now: float) -> list[Action]:
        silent = [
            rank
            for rank, member in job.members.items()
            if not member.left and now >= member.heard + self.lease
        ]
        if not silent:
            return []
        for rank in silent:
            job.members[rank].dead = True
        verb = "has" if len(silent) == 1 else "have"
        why = ""
        if all(job.members[rank].connected for rank in silent):
            why = ", though connected: stopped? The switch's lease (--lease, SWITCHML_LEASE) says how long that may last"
        return self._end(job, f"{name_ranks(silent)} {verb} not been heard for {self.lease:.1f} s{why}", now)

    def _member(self, session: str) -> tuple[Job, Member]:
        known = self._members.get(session)
        if known is not None:
            return known
        ended = self._orphans.get(session)
        if ended is not None:
            self._untold.discard(session)
            raise ended.error()
        raise SwitchGoneError(
            "the switch does not know this worker: it has left, or the switch was restarted; join anew"
        )


def _same_socket(member: Member, offer: JoinOffer) -> bool:
    mine = member.offer
    return (
        not member.left
        and mine.transport == "udp"
        and (mine.port, mine.address) == (offer.port, offer.address)
    )


def _where(offer: JoinOffer) -> str:
    return f"{offer.address}:{offer.port}" if offer.transport == "udp" else "shared memory"


def _peer(job: Job) -> str:
    return next(iter(job.members.values())).peer


def _worker_program(offer: JoinOffer, in_memory: bool) -> WorkerProgram:
    if offer.transport == "udp":
        return WorkerProgram(offer.rank, "udp", offer.address, offer.port, offer.ticket, at=offer.at)
    return WorkerProgram(offer.rank, "memory" if in_memory else "shm", "", 0, offer.ticket)


def _overdue(member: Member, now: float) -> bool:
    return member.deadline is not None and now >= member.deadline


def copy_error(error: SwitchMLError) -> SwitchMLError:
    """One exception a receiver: raising adds its own traceback."""
    return type(error)(*error.args)
