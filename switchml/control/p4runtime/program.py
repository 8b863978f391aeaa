"""The SwitchML P4 program (folder p4/) as its control plane knows it: names, and the entries that make up a job."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from switchml.control.p4runtime.catalog import Action, Catalog, Entry, MatchValue
from switchml.control.p4runtime.errors import UnknownNameError
from switchml.control.target import JobProgram, WorkerProgram
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.protocol.messages import ELEMENT_BYTES

OWN_ADDRESS = "SwitchIngress.own_address"
IS_OURS = "SwitchIngress.is_ours"
SENDER_TABLE = "SwitchIngress.sender_table"
KNOWN_SENDER = "SwitchIngress.known_sender"
JOB_TABLE = "SwitchIngress.job_table"
SET_WORKER = "SwitchIngress.set_worker"
WORKER_PORT = "SwitchIngress.worker_port"
REACHABLE = "SwitchIngress.reachable"
WORKER_REWRITE = "SwitchEgress.worker_rewrite"
TO_WORKER = "SwitchEgress.to_worker"
STATION = "SwitchIngress.station"
KNOWN_STATION = "SwitchIngress.known_station"
FORWARD = "SwitchIngress.forward"
SEND_TO = "SwitchIngress.send_to"
TABLES = (JOB_TABLE, SENDER_TABLE, WORKER_PORT, WORKER_REWRITE, OWN_ADDRESS, STATION, FORWARD)

STAMP = "SwitchIngress.stamp"
USED = "SwitchIngress.used"
SEEN = "SwitchIngress.seen"
ELEMENTS_ADDED = "SwitchIngress.elements_added"
_SUM = re.compile(r"SwitchIngress\.sum_\d+")

SENDER_DIGEST = "sender_digest_t"
STATION_DIGEST = "station_digest_t"
FLOOD_GROUP = 0x7FF0
LAST_EPOCH = 255
JOB_NUMBERS = 256

_NAMES = {counter.name for counter in SWITCH_COUNTERS}


@dataclass(frozen=True)
class Location:
    """Where a worker's packets come from."""

    mac: int
    port: int


@dataclass(frozen=True)
class Shape:
    """What a compilation of the program holds."""

    slots: int
    payload: int  # bytes
    max_workers: int


def shape(catalog: Catalog) -> Shape:
    """Sizes, from the registers and parameters that the program declares. Raises UnknownNameError for another program."""
    elements = sum(bool(_SUM.fullmatch(name)) for name in catalog.names("registers"))
    if not elements:
        raise UnknownNameError(
            "the switch's program has no registers SwitchIngress.sum_0, sum_1, ...: it does not aggregate; "
            "load p4/build/switchml_256.json with its P4Info",
            "NOT_FOUND",
        )
    return Shape(
        slots=catalog.find("registers", STAMP).size // 2,
        payload=elements * ELEMENT_BYTES,
        max_workers=catalog.parameters(SET_WORKER)["everyone"],
    )


def counter_arrays(catalog: Catalog) -> dict[str, str]:
    """The program's counters that the protocol has a name for: that name, by full name."""
    arrays = {}
    for full in catalog.names("counters"):
        name = full.rpartition(".")[2]
        if name in _NAMES:
            arrays[full] = name
    return arrays


def group_of(job_number: int) -> int:
    """The job's multicast group."""
    return job_number + 1


def own_address(catalog: Catalog, address: str, mac: int) -> Entry:
    field = catalog.fields(OWN_ADDRESS)[0]
    return Entry(OWN_ADDRESS, {field: _ipv4(address)}, Action(IS_OURS, {"mac": mac}))


def sender(job: JobProgram, worker: WorkerProgram) -> Entry:
    return Entry(SENDER_TABLE, _sender_key(worker), Action(KNOWN_SENDER, {"job": job.job_number}))


def sender_of(entry: Entry) -> tuple[MatchValue, ...]:
    """Address and port in the key of an entry of sender_table or job_table."""
    return entry.key["hdr.ipv4.src_addr"], entry.key["hdr.udp.src_port"]


def membership(job: JobProgram, worker: WorkerProgram, epoch: int) -> list[Entry]:
    """An entry for each number that the worker's packets may carry."""
    workers = len(job.workers)
    action = Action(
        SET_WORKER,
        {
            "worker": worker.rank,
            "bit_of_worker": 1 << worker.rank,
            "workers": workers,
            "everyone": (1 << workers) - 1,
            "pool_base": job.pool_base,
            "window": job.window,
            "paper": int(job.paper),
            "epoch": epoch,
            # A worker that is alone is answered like the sender of a retransmission.
            "multicast_group": group_of(job.job_number) if workers > 1 else 0,
        },
    )
    numbers = range(JOB_NUMBERS) if job.any_number else [job.job_number]
    return [
        Entry(JOB_TABLE, {**_sender_key(worker), "hdr.switchml.job_number": number}, action)
        for number in numbers
    ]


def reachable(job: JobProgram, worker: WorkerProgram) -> Entry:
    return Entry(WORKER_PORT, _worker_key(job, worker), Action(REACHABLE))


def rewrite(job: JobProgram, worker: WorkerProgram, mac: int) -> Entry:
    action = Action(TO_WORKER, {"mac": mac, "addr": _ipv4(worker.address), "udp_port": worker.port})
    return Entry(WORKER_REWRITE, _worker_key(job, worker), action)


def station(mac: int, port: int) -> Entry:
    key: dict[str, MatchValue] = {
        "hdr.ethernet.src_addr": mac,
        "standard_metadata.ingress_port": port,
    }
    return Entry(STATION, key, Action(KNOWN_STATION))


def forward(mac: int, port: int) -> Entry:
    return Entry(FORWARD, {"hdr.ethernet.dst_addr": mac}, Action(SEND_TO, {"port": port}))


def _ipv4(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def _sender_key(worker: WorkerProgram) -> dict[str, MatchValue]:
    return {"hdr.ipv4.src_addr": _ipv4(worker.address), "hdr.udp.src_port": worker.port}


def _worker_key(job: JobProgram, worker: WorkerProgram) -> dict[str, MatchValue]:
    return {"meta.job_number": job.job_number, "meta.worker": worker.rank}
