"""What workers, operators and the controller say to each other, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from switchml.control.target import TargetDescription
from switchml.protocol.messages import FLOAT32

DEFAULT_CONTROL_PORT = 50551
SMALLEST_DEFAULT_WINDOW = 16
LEASE = 30.0
"""Seconds that a worker may be silent while nothing shows that it has died, unless another lease is asked for."""

_MOST = 2**63 - 1  # what a worker says is not to be believed blindly


@dataclass(frozen=True)
class JoinOffer:
    """One rank's wish to join a job, and how the switch reaches it."""

    job: str
    rank: int
    world_size: int
    transport: str = "udp"  # or "shm", "memory", or "auto": one of these two, as the switch decides
    address: str = ""  # dotted IPv4 of the worker's socket; "" or 0.0.0.0 = as the control service sees it; "" but for udp
    port: int = 0
    ticket: str = ""  # what the worker shows to attach to shared memory, or in its probes: protocol/probes.py
    payload: int = 0  # bytes, one of protocol.messages.PAYLOADS; 0 = the switch's default
    window: int = 0  # slots, a power of two; 0 = the switch's default
    paper: bool = False  # the published slot machine, without stamps
    token: str = ""  # "" = the client's
    any_number: bool = False  # its packets carry job numbers of its own; offers over the network never say so
    wire: str = FLOAT32  # what float sums travel as, of protocol.messages.WIRES
    enters: bool = (
        False  # into a job that runs, when it regroups; rank and world size are the switch's to choose
    )
    at: str = ""  # the switch of a tree whose service it came to; offers over the network never say so


@dataclass(frozen=True)
class JobLayout:
    """What every rank of a job must agree on, as the controller settled it."""

    job_number: int
    window: int  # slots
    payload: int  # bytes
    paper: bool
    multicast_group: str  # "" = none
    multicast_port: int
    lease: float  # seconds without a heartbeat after which the job ends
    life_port: int = 0  # TCP, of the control service's lifelines; 0 = none
    wire: str = FLOAT32
    in_memory: bool = False  # the workers run the slot machine themselves
    rank: int = 0  # of a job that has regrouped: the place of who gets this
    world_size: int = 0  # likewise; 0 = as offered
    epoch: int = 0  # how often the job has regrouped
    survivors: int = 0  # ranks that were in the epoch before; they come first


@dataclass(frozen=True)
class Departure:
    """How a rank left its job, in order."""

    calls: int | None = None  # collectives that it had finished; None = it did not say
    reason: str = ""  # why, if not because all was done


@dataclass(frozen=True)
class SlotReport:
    """Whose packets for one chunk the switch has seen."""

    seen: frozenset[int]
    missing: tuple[int, ...]
    last_heard: list[float | None]  # seconds since the last packet, by rank; None = never
    stamp: int  # the chunk that the slot holds now
    left: frozenset[int] = frozenset()  # ranks that have left the job


@dataclass(frozen=True)
class Resent:
    """What went over the network more than once, as workers count it."""

    sent_again: int = 0  # packets
    arrived_twice: int = 0  # results that had come before

    def grown(self, before: Resent, now: Resent) -> Resent:
        """With what one worker has said more `now` than `before`."""
        return Resent(
            min(_MOST, self.sent_again + max(0, now.sent_again - before.sent_again)),
            min(_MOST, self.arrived_twice + max(0, now.arrived_twice - before.arrived_twice)),
        )


@dataclass(frozen=True)
class Pace:
    """How fast a worker sends, as it sees its network."""

    round_trip: float = 0.0  # seconds, smoothed; 0 = unknown
    in_flight: int = 0  # packets that it lets be unanswered; 0 = unknown


@dataclass(frozen=True)
class MemberStatus:
    """One rank of a job."""

    rank: int
    transport: str
    address: str
    port: int
    state: str  # "joined", "ready" or "left"
    heartbeat: float | None  # seconds since the last one; None while the rank waits for others to join
    packet: float | None  # seconds since the last packet; None = never
    sent_again: int = 0  # as in Resent, as it last said
    arrived_twice: int = 0
    round_trip: float = 0.0  # as in Pace, likewise
    in_flight: int = 0


@dataclass(frozen=True)
class JobStatus:
    """One job, and its members by rank."""

    name: str
    job_number: int  # 0 while the job gathers its ranks
    world_size: int
    state: str  # "joining", "programmed" or "running"
    pool_base: int
    window: int
    payload: int
    paper: bool
    multicast_group: str
    multicast_port: int
    multicast: bool  # results leave by multicast
    members: tuple[MemberStatus, ...]
    counters: dict[str, int]
    age: float  # seconds since the first rank joined
    wire: str = FLOAT32
    waits_for: str = ""  # why it does not run yet

    def over_the_link(self, switch: str) -> int:
        """Members whose packets come over the link of the switch at that address: by UDP, from other hosts."""
        return sum(
            member.transport == "udp" and member.address != switch and not member.address.startswith("127.")
            for member in self.members
        )


@dataclass(frozen=True)
class EndedJob:
    """A job that is over, or that the switch had no room for: then it has number 0."""

    name: str
    job_number: int
    world_size: int
    reason: str
    ended: float  # seconds ago


@dataclass(frozen=True)
class SwitchStatus:
    """A switch, its jobs and its counters."""

    target: TargetDescription
    jobs: tuple[JobStatus, ...]
    ended: tuple[EndedJob, ...]  # the latest, newest first
    counters: dict[str, int]  # of the whole switch
    free_slots: int
    lease: float  # seconds
    uptime: float = field(compare=False)  # seconds
    sent_again: int = 0  # as in Resent: of all workers, those that have left too
    arrived_twice: int = 0
    telemetry: str = ""  # host:port of what it publishes; "" = nothing

    def sharing(self, job: JobStatus) -> int:
        """How many workers of a job send over one link to the switch; 0 for one in hardware, which has a port for each."""
        return job.over_the_link(self.target.host) if self.target.shm_socket else 0
