"""The traffic of the packet benchmark as entries of the P4 program, for whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from switchml.bench.packet_load import Traffic
from switchml.control.p4runtime import program
from switchml.control.p4runtime.catalog import Catalog, Entry
from switchml.control.p4runtime.client import parse_p4info
from switchml.errors import UsageError
from switchml.switch_emulator.p4_emulator import P4INFO_SUFFIX
from switchml.switch_emulator.runtime import ActionCall, Match, MatchKind, Replica, Runtime, TableEntry

_EPOCH = 1


def program_file(folder: Path, elements: int) -> Path:
    """The compiled program for packets of so many elements.

    Raises:
        UsageError: it is not there.
    """
    path = folder / f"switchml_{elements}.json"
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist: name the folder p4/build of the repository with --programs, "
            "and sizes the program was compiled for with --elements"
        )
    return path


def entries(traffic: Traffic, path: Path) -> Iterator[tuple[str, TableEntry]]:
    """Table and entry, with all workers in place: worker of rank r on port r + 1."""
    text = path.with_name(path.name.removesuffix(".json") + P4INFO_SUFFIX).read_text()
    job = traffic.job()
    yield _plain(program.own_address(Catalog(parse_p4info(text)), traffic.switch.address, traffic.switch.mac))
    for station, worker in zip(traffic.workers, job.workers, strict=True):
        yield _plain(program.station(station.mac, worker.rank + 1))
        yield _plain(program.sender(job, worker))
        yield from map(_plain, program.membership(job, worker, _EPOCH))
        yield _plain(program.rewrite(job, worker, station.mac))
        yield _plain(program.reachable(job, worker))


def group(traffic: Traffic) -> tuple[int, list[Replica]]:
    """The job's multicast group."""
    replicas = [Replica(rank + 1, rank + 1) for rank in range(len(traffic.workers))]
    return program.group_of(traffic.job().job_number), replicas


def set_up(traffic: Traffic, path: Path, runtime: Runtime) -> None:
    """Program an emulated switch."""
    for table, entry in entries(traffic, path):
        runtime.insert(table, entry)
    runtime.set_multicast_group(*group(traffic))


def _plain(entry: Entry) -> tuple[str, TableEntry]:
    assert entry.action is not None
    key = {}
    for name, value in entry.key.items():
        assert isinstance(value, int)  # all the program's keys are exact
        key[name] = Match(MatchKind.EXACT, value)
    return entry.table, TableEntry(
        key, ActionCall(entry.action.name, tuple(entry.action.parameters.values()))
    )
