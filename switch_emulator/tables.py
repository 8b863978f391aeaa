"""What the control plane writes and the pipeline reads: senders, jobs and where their state lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.link.datagrams import SOCKADDR
from switchml.link.handle import part
from switchml.link.ring import RingLayout
from switchml.protocol.header import MAX_JOB_NUMBER
from switchml.protocol.jit import compiled, inlined
from switchml.switch_emulator.slot_machine import MAX_WORKERS

MAX_JOBS = MAX_JOB_NUMBER + 1
MAX_SENDERS = 4096
_BUCKETS = 4 * MAX_SENDERS

SENDER_DTYPE = np.dtype(
    [
        ("used", np.int64),
        ("shm", np.int64),  # 1: packets come through shared memory
        ("attached", np.int64),  # 1: its ring may be polled
        ("address", np.int64),  # as in SOCKADDR
        ("port", np.int64),
        ("job", np.int64),
        ("worker", np.int64),
        ("last_heard", np.int64),  # ns; 0: never
        ("up_tail", np.int64),  # shared memory: entries read
    ],
    align=True,
)
"""One worker of one job: the match key of the switch's job table, and its action data through `job`."""

JOB_DTYPE = np.dtype(
    [
        ("used", np.int64),
        ("workers", np.int64),
        ("paper", np.int64),
        ("any_number", np.int64),  # 1: packets carry job numbers of the workers' own
        ("size", np.int64),  # the header's size code
        ("elements", np.int64),  # of a full chunk
        ("window", np.int64),
        ("pool_base", np.int64),  # first slot
        ("sums_base", np.int64),  # first element
        ("multicast", np.int64),  # 1: results leave by multicast
        ("udp_workers", np.int64),
        ("shm_workers", np.int64),
        ("region", np.int64),  # byte of the job's rings in the shared memory
        ("region_bytes", np.int64),
        ("copies", np.int64),  # see link/ring.py
        ("down_head", np.int64),  # downlink entries built
        ("down_shown", np.int64),  # published
        ("down_limit", np.int64),  # certainly free up to here
    ],
    align=True,
)


class Tables(NamedTuple):
    """senders: SENDER_DTYPE. buckets: int64, hash table of sender numbers + 1, 0 empty, open addressing.
    jobs: JOB_DTYPE by job number. names: SOCKADDR (MAX_SENDERS), by sender. unicast: SOCKADDR, MAX_WORKERS a
    job: its UDP workers in a row. groups: SOCKADDR by job. members: int64 MAX_WORKERS a job: sender numbers
    by rank. rings: senders that use shared memory, the first `ring_count[0]`."""

    senders: npt.NDArray[Any]
    buckets: npt.NDArray[np.int64]
    jobs: npt.NDArray[Any]
    names: npt.NDArray[Any]
    unicast: npt.NDArray[Any]
    groups: npt.NDArray[Any]
    members: npt.NDArray[np.int64]
    rings: npt.NDArray[np.int64]
    ring_count: npt.NDArray[np.int64]


def new_tables() -> Tables:
    """Empty tables."""
    return Tables(
        np.zeros(MAX_SENDERS, SENDER_DTYPE),
        np.zeros(_BUCKETS, np.int64),
        np.zeros(MAX_JOBS, JOB_DTYPE),
        np.zeros(MAX_SENDERS, SOCKADDR),
        np.zeros(MAX_JOBS * MAX_WORKERS, SOCKADDR),
        np.zeros(MAX_JOBS, SOCKADDR),
        np.full(MAX_JOBS * MAX_WORKERS, -1, np.int64),
        np.zeros(MAX_SENDERS, np.int64),
        np.zeros(1, np.int64),
    )


TABLES_PARTS = 9


@inlined
def tables_at(handle: int, first: int) -> Tables:
    """The Tables whose arrays begin at entry `first` of a table of addresses (link/handle.py)."""
    return Tables(
        part(handle, first, SENDER_DTYPE),
        part(handle, first + 1, np.int64),
        part(handle, first + 2, JOB_DTYPE),
        part(handle, first + 3, SOCKADDR),
        part(handle, first + 4, SOCKADDR),
        part(handle, first + 5, SOCKADDR),
        part(handle, first + 6, np.int64),
        part(handle, first + 7, np.int64),
        part(handle, first + 8, np.int64),
    )


@compiled
def member(tables: Tables, job: int, rank: int) -> int:
    """The sender number of a rank of a job, or -1."""
    return int(tables.members[job * MAX_WORKERS + rank])


@compiled
def _bucket(address: int, port: int) -> int:
    return ((address * 2654435761 + port * 40503) >> 7) % _BUCKETS


@compiled
def find_sender(tables: Tables, address: int, port: int) -> int:
    """The sender with that address and port (as they lie in a SOCKADDR), or -1."""
    bucket = _bucket(address, port)
    while tables.buckets[bucket] != 0:
        number = int(tables.buckets[bucket]) - 1
        sender = tables.senders[number]
        if sender["address"] == address and sender["port"] == port:
            return number
        bucket = (bucket + 1) % _BUCKETS
    return -1


def index_senders(tables: Tables) -> None:
    """Make the hash table anew after senders were added or removed."""
    tables.buckets[:] = 0
    for number in np.flatnonzero((tables.senders["used"] == 1) & (tables.senders["shm"] == 0)):
        sender = tables.senders[number]
        bucket = _bucket(int(sender["address"]), int(sender["port"]))
        while tables.buckets[bucket] != 0:
            bucket = (bucket + 1) % _BUCKETS
        tables.buckets[bucket] = number + 1
    rings = np.flatnonzero(tables.senders["attached"] == 1)
    tables.rings[: rings.size] = rings
    tables.ring_count[0] = rings.size


@compiled
def job_layout(job: Any) -> RingLayout:
    """The layout of the job's rings (the compiled twin of `ring.ring_layout`)."""
    return RingLayout(
        int(job["workers"]),
        64 + 4 * int(job["elements"]),
        int(job["window"]),
        2 * int(job["window"] * job["copies"]),
    )
