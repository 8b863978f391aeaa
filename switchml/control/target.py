"""What a controller can tell a switch and ask of it. The emulator implements it in process; a P4 switch, behind P4Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from switchml.protocol.messages import FLOAT32

DEFAULT_PAYLOAD = 1024
DEFAULT_WINDOW = 512
TRANSPORTS = ("auto", "udp", "shm", "memory")
"""What a worker may be asked to take: packets by UDP or through shared memory, or the slot machine in memory itself."""

_BYTES_IN_MEMORY = 512 << 10


@dataclass(frozen=True)
class TargetDescription:
    """Where a switch's data ports are, and how much it holds."""

    host: str  # dotted IPv4; 0.0.0.0 = whatever host its control service is reached by
    udp_port: int
    shm_socket: str  # abstract Unix socket, without its leading zero byte; "" = no shared memory
    pool_slots: int
    max_payload: int  # bytes
    max_workers: int  # of one job
    default_payload: int = DEFAULT_PAYLOAD  # bytes, for jobs that do not ask for one
    default_window: int = DEFAULT_WINDOW  # slots, likewise
    payloads: tuple[int, ...] = ()  # bytes a packet that the switch takes; () = all sizes up to max_payload
    ip_multicast: bool = True  # it can send results to an IP multicast group
    mac: int = 0  # of the data port; 0 = unknown
    proves_addresses: bool = False  # a UDP worker with a ticket counts once it has shown it from its address
    wires: tuple[str, ...] = (FLOAT32,)  # that it knows
    tells_claims_apart: bool = False  # of several workers who claim an address, the one that proves it counts
    in_memory: bool = False  # workers of its host may run the slot machine themselves
    limits_packets: bool = False  # it takes no more of a tenant's packets a second than it may have


def window_in_memory(payload: int, window: int) -> int:
    """Slots of a job in memory that asks for none: as many as the cache of a core holds, and at most `window`."""
    return max(1, min(window, _BYTES_IN_MEMORY // payload))


@dataclass(frozen=True)
class WorkerProgram:
    """How the switch knows one worker of a job."""

    rank: int
    transport: str  # "udp", "shm" or "memory", which all workers of a job have or none
    address: str  # dotted IPv4; "" but for udp
    port: int  # 0 but for udp
    ticket: str  # what the worker shows to attach to shared memory, or in its probes (protocol/probes.py); "" = nothing


@dataclass(frozen=True)
class JobProgram:
    """Everything the switch needs to aggregate one job: its slots are `pool_base` to `pool_base + window - 1`."""

    job_number: int
    pool_base: int
    window: int  # slots, a power of two
    payload: int  # bytes
    paper: bool  # the published slot machine, without stamps
    workers: tuple[WorkerProgram, ...]  # by rank
    multicast_group: str  # "" = none
    multicast_port: int
    any_number: bool = False  # packets carry job numbers of the workers' own; the sender tells the job
    wire: str = FLOAT32  # the narrowest elements of its packets
    tenant: int = 0  # number of the tenant whose limit it counts against; 0 = none
    packets_per_second: int = 0  # of that tenant

    @property
    def in_memory(self) -> bool:
        """Whether the workers run the slot machine themselves."""
        return any(worker.transport == "memory" for worker in self.workers)


@dataclass(frozen=True)
class SlotReading:
    """One version of one slot: the chunk it works on, and the ranks it has packets of."""

    stamp: int
    used: bool
    seen: frozenset[int]


@dataclass(frozen=True)
class SlotMap:
    """What the slots of one job wait for at a moment, and what did not go straight, by ranges of its slots.

    A range is a `RANGES`th of the job's slots. Nothing stops meanwhile: neighbours may be a packet apart.
    """

    missing: tuple[int, ...]  # by slot: ranks that it waits for; 0 = it waits for nobody
    first: tuple[int, ...]  # by slot: the lowest of these; -1 = none
    late: tuple[int, ...]  # by rank: slots that wait for it
    resent: tuple[int, ...] = ()  # by range: results sent again to one worker
    dropped: tuple[int, ...] = ()  # by range: packets that were duplicates, stale or ahead


RANGES = 16
"""Ranges of a job's slots."""


class SwitchTarget(Protocol):
    """A switch as its controller sees it. Calls come from one thread at a time and should not block."""

    def describe(self) -> TargetDescription:
        """Addresses and limits, which stay as they are."""

    def add_job(self, job: JobProgram) -> None:
        """Start to aggregate a job, results by unicast.

        Raises:
            PoolExhaustedError: there is no memory for it.
        """

    def set_multicast(self, job_number: int, enabled: bool) -> None:
        """Sends results once to the job's group, or once to each worker."""

    def remove_job(self, job_number: int) -> None:
        """Forget a job; its packets are dropped from now on."""

    def read_slot(self, job_number: int, slot: int, version: int) -> SlotReading:
        """What one version of a slot holds; slots count from the job's first."""

    def last_heard(self, job_number: int) -> list[float | None]:
        """Seconds since the last packet, by rank; None = never."""

    def slot_map(self, job_number: int) -> SlotMap | None:
        """What the job's slots wait for; None where looking would cost the switch time."""
        return None

    def counters(self) -> dict[str, int]:
        """Counters of the whole switch."""

    def job_counters(self, job_number: int) -> dict[str, int]:
        """Counters of one job."""
