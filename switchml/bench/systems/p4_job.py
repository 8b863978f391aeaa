"""The traffic of the packet benchmark as entries of the P4 program, for whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from switchml.bench.packet_load import Traffic
from switchml.control.p4runtime import program
from switchml.errors import UsageError
from switchml.p4runtime.entries import Replica, TableEntry
from switchml.p4runtime.p4info_files import p4info_beside, parse_p4info
from switchml.p4runtime.schema import Schema
from switchml.switch_emulator.runtime import Runtime

_EPOCH = 1


def program_file(folder: Path, elements: int) -> Path:
    """The compiled program for packets of so many elements.

    Raises:
        UsageError: it is not there.
    """
    path = folder / f"switchml_{elements}.json"
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist: name a folder of compiled programs with --programs, "
            "and sizes they were compiled for with --elements"
        )
    return path


def entries(traffic: Traffic, path: Path) -> Iterator[tuple[str, TableEntry]]:
    """Table and entry, with all workers in place: worker of rank r on port r + 1."""
    job = traffic.job()
    schema = Schema(parse_p4info(p4info_beside(path).read_text()))
    yield program.own_address(schema, traffic.switch.address, traffic.switch.mac)
    for station, worker in zip(traffic.workers, job.workers, strict=True):
        yield program.station(schema, station.mac, worker.rank + 1)
        yield program.sender(schema, job, worker)
        yield from program.membership(schema, job, worker, _EPOCH)
        yield program.rewrite(schema, job, worker, station.mac)
        yield program.reachable(schema, job, worker)


def group(traffic: Traffic) -> tuple[int, list[Replica]]:
    """The job's multicast group."""
    replicas = [Replica(rank + 1, rank + 1) for rank in range(len(traffic.workers))]
    return program.group_of(traffic.job().job_number), replicas


def set_up(traffic: Traffic, path: Path, runtime: Runtime) -> None:
    """Program an emulated switch."""
    for table, entry in entries(traffic, path):
        runtime.insert(table, entry)
    runtime.set_multicast_group(*group(traffic))
