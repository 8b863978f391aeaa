"""The SwitchML P4 program (folder p4/) as its control plane knows it: names, and the entries that make up a job."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from switchml.control.p4runtime.p4runtime_client import Row
from switchml.control.target import JobProgram, WorkerProgram
from switchml.p4runtime.entries import Match, MatchKind, TableEntry
from switchml.p4runtime.refusals import not_found
from switchml.p4runtime.schema import Schema
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.protocol.messages import ELEMENT_BYTES, FLOAT32, WIRES
from switchml.protocol.probes import number_on_the_wire, secret_of_ticket

OWN_ADDRESS = "SwitchIngress.own_address"
IS_OURS = "SwitchIngress.is_ours"
SENDER_TABLE = "SwitchIngress.sender_table"
KNOWN_SENDER = "SwitchIngress.known_sender"
JOB_TABLE = "SwitchIngress.job_table"
SET_WORKER = "SwitchIngress.set_worker"
WORKER_PORT = "SwitchIngress.worker_port"
REACHABLE = "SwitchIngress.reachable"
CLAIM = "SwitchIngress.claim"
ASK = "SwitchIngress.ask"
WORKER_REWRITE = "SwitchEgress.worker_rewrite"
TO_WORKER = "SwitchEgress.to_worker"
STATION = "SwitchIngress.station"
KNOWN_STATION = "SwitchIngress.known_station"
FORWARD = "SwitchIngress.forward"
SEND_TO = "SwitchIngress.send_to"
TABLES = (JOB_TABLE, SENDER_TABLE, CLAIM, WORKER_PORT, WORKER_REWRITE, OWN_ADDRESS, STATION, FORWARD)

STAMP = "SwitchIngress.stamp"
USED = "SwitchIngress.used"
SEEN = "SwitchIngress.seen"
ELEMENTS_ADDED = "SwitchIngress.elements_added"
LANES = "SwitchIngress.lanes_even"
_SUM = re.compile(r"SwitchIngress\.sum_\d+")

SENDER_DIGEST = "sender_digest_t"
STATION_DIGEST = "station_digest_t"
FLOOD_GROUP = 0x7FF0
LAST_EPOCH = 255
JOB_NUMBERS = 256

_NAMES = {counter.name for counter in SWITCH_COUNTERS}


def compiled_programs() -> Path:
    """The folder of the program compiled for packets of 64 and of 256 elements, wherever this package is installed."""
    return Path(str(resources.files(__package__))) / "programs"


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
    wires: tuple[str, ...]


def shape(schema: Schema) -> Shape:
    """Sizes, from the registers and parameters that the program declares. Raises NOT_FOUND for another program."""
    elements = sum(bool(_SUM.fullmatch(name)) for name in schema.registers.by_name)
    if not elements:
        raise not_found(
            "the switch's program has no registers SwitchIngress.sum_0, sum_1, ...: it does not aggregate; "
            "load p4/build/switchml_256.json with its P4Info"
        )
    widths = {parameter.name: parameter.width for parameter in schema.actions.named(SET_WORKER).parameters}
    return Shape(
        slots=schema.registers.named(STAMP).size // 2,
        payload=elements * ELEMENT_BYTES,
        max_workers=widths["everyone"],
        wires=tuple(WIRES) if LANES in schema.registers.by_name else (FLOAT32,),
    )


def counter_arrays(schema: Schema) -> dict[str, str]:
    """The program's counters that the protocol has a name for: that name, by full name."""
    names = {full: full.rpartition(".")[2] for full in schema.counters.by_name}
    return {full: name for full, name in names.items() if name in _NAMES}


def group_of(job_number: int) -> int:
    """The job's multicast group."""
    return job_number + 1


def own_address(schema: Schema, address: str, mac: int) -> Row:
    """The switch answers ARP for this address."""
    (field,) = schema.tables.named(OWN_ADDRESS).fields.values()
    return _row(schema, OWN_ADDRESS, {field.name: _ipv4(address)}, IS_OURS, {"mac": mac})


def sender(schema: Schema, job: JobProgram, worker: WorkerProgram) -> Row:
    """This sender is a worker of this job."""
    return _row(schema, SENDER_TABLE, _sender_key(worker), KNOWN_SENDER, {"job": job.job_number})


def sender_of(key: Mapping[str, Match]) -> tuple[int, int]:
    """Address and port in the key of an entry of sender_table or job_table."""
    return key["hdr.ipv4.src_addr"].value, key["hdr.udp.src_port"].value


def membership(schema: Schema, job: JobProgram, worker: WorkerProgram, epoch: int) -> list[Row]:
    """An entry for each number that the worker's packets may carry."""
    workers = len(job.workers)
    arguments = {
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
    }
    numbers = range(JOB_NUMBERS) if job.any_number else [job.job_number]
    keys = [{**_sender_key(worker), "hdr.switchml.job_number": number} for number in numbers]
    return [_row(schema, JOB_TABLE, key, SET_WORKER, arguments) for key in keys]


def claim(schema: Schema, job: JobProgram, worker: WorkerProgram, challenge: int) -> Row:
    """This worker is told a challenge once it has shown its ticket, and its location counts once it has answered."""
    secret = number_on_the_wire(secret_of_ticket(worker.ticket))
    numbers = {"secret": secret, "challenge": number_on_the_wire(challenge)}
    return _row(schema, CLAIM, _worker_key(job, worker), ASK, numbers)


def reachable(schema: Schema, job: JobProgram, worker: WorkerProgram) -> Row:
    """Packets of this worker go through: the switch knows where it is."""
    return _row(schema, WORKER_PORT, _worker_key(job, worker), REACHABLE, {})


def rewrite(schema: Schema, job: JobProgram, worker: WorkerProgram, mac: int) -> Row:
    """Results for this worker go to this address."""
    arguments = {"mac": mac, "addr": _ipv4(worker.address), "udp_port": worker.port}
    return _row(schema, WORKER_REWRITE, _worker_key(job, worker), TO_WORKER, arguments)


def station(schema: Schema, mac: int, port: int) -> Row:
    """This station is known behind this port."""
    key = {"hdr.ethernet.src_addr": mac, "standard_metadata.ingress_port": port}
    return _row(schema, STATION, key, KNOWN_STATION, {})


def forward(schema: Schema, mac: int, port: int) -> Row:
    """Packets for this station leave by this port."""
    return _row(schema, FORWARD, {"hdr.ethernet.dst_addr": mac}, SEND_TO, {"port": port})


def _row(
    schema: Schema, table: str, key: Mapping[str, int], action: str, arguments: Mapping[str, int]
) -> Row:
    """All keys of the program are exact."""
    matches = {name: Match(MatchKind.EXACT, value) for name, value in key.items()}
    return table, TableEntry(matches, schema.actions.named(action).call(arguments))


def _ipv4(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def _sender_key(worker: WorkerProgram) -> dict[str, int]:
    return {"hdr.ipv4.src_addr": _ipv4(worker.address), "hdr.udp.src_port": worker.port}


def _worker_key(job: JobProgram, worker: WorkerProgram) -> dict[str, int]:
    return {"meta.job_number": job.job_number, "meta.worker": worker.rank}
