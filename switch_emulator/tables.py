"""What the control plane writes and the pipeline reads: senders, jobs and where their state lies."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from switchml.aggregation.slot_machine import MAX_WORKERS
from switchml.control.tenants import MAX_TENANTS
from switchml.link.datagrams import SocketAddress
from switchml.link.records import Int64, Records, new_records
from switchml.link.ring import RingLayout, ring_layout
from switchml.protocol.header import MAX_JOB_NUMBER
from switchml.protocol.jit import compiled

MAX_JOBS = MAX_JOB_NUMBER + 1
MAX_SENDERS = 4096
_SECOND = 1_000_000_000
_LIMIT_NS = 20_000_000  # whose packets may come at once
_LEAST_AT_ONCE = 256 * _SECOND
_BUCKETS = 4 * MAX_SENDERS


class Sender(TypedDict):
    """One worker of one job: the match key of the switch's job table, and its action data through `job`."""

    used: Int64
    shm: Int64  # 1: packets come through shared memory
    attached: Int64  # 1: its ring may be polled
    address: Int64  # as in SocketAddress
    port: Int64
    job: Int64
    worker: Int64
    claim: Int64  # secret of its join, as long as nothing shows that it is at its address; 0: it counts
    challenge: Int64  # what a packet from there has to carry, then
    last_heard: Int64  # ns; 0: never
    up_tail: Int64  # shared memory: entries read


class Job(TypedDict):
    """One job: where its slots lie and how its results leave."""

    used: Int64
    workers: Int64
    paper: Int64
    any_number: Int64  # 1: packets carry job numbers of the workers' own
    size: Int64  # the header's size code
    elements: Int64  # int32 of a packet's payload
    sums: Int64  # that a copy of a slot has room for: more than `elements` where packets carry narrow lanes
    window: Int64
    pool_base: Int64  # first slot
    sums_base: Int64  # first element
    multicast: Int64  # 1: results leave by multicast
    udp_workers: Int64
    shm_workers: Int64
    region: Int64  # byte of the job's rings in the shared memory
    region_bytes: Int64
    copies: Int64  # see link/ring.py
    down_head: Int64  # downlink entries built
    down_shown: Int64  # published
    down_limit: Int64  # certainly free up to here
    tenant: Int64  # whose limit it counts against; 0: none


class Limit(TypedDict):
    """How many packets a second the switch takes of a tenant: a bucket that fills with time (RFC 2697 has such)."""

    rate: Int64  # packets a second; 0: any number
    room: Int64  # packets that may come at once, in billionths
    at: Int64  # ns; when that was so


class Tables(NamedTuple):
    """What the control plane knows.

    Attributes:
        senders: by number.
        buckets: hash table of sender numbers + 1, 0 empty, open addressing; of senders whose address counts.
        claims: the same of the others, by their secret and once more by their challenge.
        jobs: by job number.
        names: by sender.
        unicast: MAX_WORKERS a job, its UDP workers in a row.
        groups: by job.
        members: MAX_WORKERS a job, sender numbers by rank.
        rings: senders that use shared memory, the first `ring_count[0]`.
        ring_count: of one.
        limits: by tenant.
    """

    senders: Records[Sender]
    buckets: npt.NDArray[np.int64]
    claims: npt.NDArray[np.int64]
    jobs: Records[Job]
    names: Records[SocketAddress]
    unicast: Records[SocketAddress]
    groups: Records[SocketAddress]
    members: npt.NDArray[np.int64]
    rings: npt.NDArray[np.int64]
    ring_count: npt.NDArray[np.int64]
    limits: Records[Limit]


def new_tables() -> Tables:
    """Empty tables."""
    return Tables(
        new_records(Sender, MAX_SENDERS),
        np.zeros(_BUCKETS, np.int64),
        np.zeros(_BUCKETS, np.int64),
        new_records(Job, MAX_JOBS),
        new_records(SocketAddress, MAX_SENDERS),
        new_records(SocketAddress, MAX_JOBS * MAX_WORKERS),
        new_records(SocketAddress, MAX_JOBS),
        np.full(MAX_JOBS * MAX_WORKERS, -1, np.int64),
        np.zeros(MAX_SENDERS, np.int64),
        np.zeros(1, np.int64),
        new_records(Limit, MAX_TENANTS + 1),
    )


@compiled
def granted(limits: Records[Limit], tenant: int, packets: int, now: int) -> int:
    """How many of these packets of a tenant are taken; they count as come.

    Args:
        limits: by tenant.
        tenant: its number.
        packets: that have come.
        now: ns.
    """
    limit = limits[tenant]
    rate = int(limit["rate"])
    if rate == 0:
        return packets
    most = max(rate * _LIMIT_NS, _LEAST_AT_ONCE)
    # A long while would overflow, and fills the bucket anyway.
    passed = min(max(now - int(limit["at"]), 0), _SECOND)
    room = min(int(limit["room"]) + passed * rate, most)
    limit["at"] = now
    taken = min(packets, room // _SECOND)
    limit["room"] = room - taken * _SECOND
    return taken


@compiled
def member(tables: Tables, job: int, rank: int) -> int:
    """The sender number of a rank of a job, or -1."""
    return int(tables.members[job * MAX_WORKERS + rank])


@compiled
def _bucket(address: int, port: int) -> int:
    return ((address * 2654435761 + port * 40503) >> 7) % _BUCKETS


@compiled
def find_sender(tables: Tables, address: int, port: int) -> int:
    """The sender with that address and port (as they lie in a SocketAddress), or -1."""
    bucket = _bucket(address, port)
    while tables.buckets[bucket] != 0:
        number = int(tables.buckets[bucket]) - 1
        sender = tables.senders[number]
        if sender["address"] == address and sender["port"] == port:
            return number
        bucket = (bucket + 1) % _BUCKETS
    return -1


@compiled
def _enter(buckets: npt.NDArray[np.int64], bucket: int, number: int) -> None:
    while buckets[bucket] != 0:
        bucket = (bucket + 1) % _BUCKETS
    buckets[bucket] = number + 1


@compiled
def find_claim(tables: Tables, address: int, port: int, secret: int) -> int:
    """The sender that claims this address and whose secret or challenge that is, or -1."""
    bucket = _bucket(secret, 0)
    while tables.claims[bucket] != 0:
        number = int(tables.claims[bucket]) - 1
        sender = tables.senders[number]
        if (
            sender["claim"] != 0
            and (sender["claim"] == secret or sender["challenge"] == secret)
            and sender["address"] == address
            and sender["port"] == port
        ):
            return number
        bucket = (bucket + 1) % _BUCKETS
    return -1


@compiled
def count_address(tables: Tables, number: int) -> None:
    """From now on packets from the sender's address are its own. No other sender may have it."""
    sender = tables.senders[number]
    sender["claim"] = 0
    _enter(tables.buckets, _bucket(int(sender["address"]), int(sender["port"])), number)


def index_senders(tables: Tables) -> None:
    """Make the hash tables anew after senders were added or removed."""
    tables.buckets[:] = 0
    tables.claims[:] = 0
    for number in np.flatnonzero((tables.senders["used"] == 1) & (tables.senders["shm"] == 0)).tolist():
        sender = tables.senders[number]
        if sender["claim"] == 0:
            _enter(tables.buckets, _bucket(int(sender["address"]), int(sender["port"])), number)
            continue
        for secret in (int(sender["claim"]), int(sender["challenge"])):
            _enter(tables.claims, _bucket(secret, 0), number)
    rings = np.flatnonzero(tables.senders["attached"] == 1)
    tables.rings[: rings.size] = rings
    tables.ring_count[0] = rings.size


@compiled
def job_layout(job: Job) -> RingLayout:
    """The layout of the job's rings."""
    return ring_layout(int(job["workers"]), int(job["window"]), 4 * int(job["elements"]), int(job["copies"]))
