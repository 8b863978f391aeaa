"""Several switches below each other as one `SwitchTarget`: a job has its part on each, and a controller sees one switch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from typing_extensions import override

from switchml.control.target import (
    JobProgram,
    SlotMap,
    SlotReading,
    SwitchTarget,
    TargetDescription,
)
from switchml.control.topology import Topology
from switchml.errors import SwitchMLError, UsageError
from switchml.protocol.messages import FLOAT32


class SwitchTree(SwitchTarget):
    """The switches of a topology. What they differ in, the weakest decides.

    Args:
        topology: which is below which.
        targets: by name.
    """

    def __init__(self, topology: Topology, targets: Mapping[str, SwitchTarget]) -> None:
        self._topology, self._targets = topology, dict(targets)
        self._jobs: dict[int, dict[str, JobProgram]] = {}

    @override
    def describe(self) -> TargetDescription:
        root = next(switch.name for switch in self._topology.switches if not switch.below)
        return self.describe_at(root)

    def describe_at(self, name: str) -> TargetDescription:
        """As the workers of that switch see it."""
        all_of_them = [target.describe() for target in self._targets.values()]
        return replace(
            self._targets[name].describe(),
            shm_socket="",
            in_memory=False,
            pool_slots=min(each.pool_slots for each in all_of_them),
            max_payload=min(each.max_payload for each in all_of_them),
            default_payload=min(each.default_payload for each in all_of_them),
            default_window=min(each.default_window for each in all_of_them),
            ip_multicast=all(each.ip_multicast for each in all_of_them),
            tells_claims_apart=all(each.tells_claims_apart for each in all_of_them),
            # `Work.error_bound` does not know how often sums have been rounded on their way.
            wires=(FLOAT32,),
        )

    @override
    def add_job(self, job: JobProgram) -> None:
        data = {name: target.describe() for name, target in self._targets.items()}
        where = {name: (each.host, each.udp_port) for name, each in data.items()}
        programs = self._topology.programs(job, where)
        if job.paper and len(programs) > 1:
            raise UsageError("the published slot machine is one switch's: have all ranks join at the same")
        added: list[str] = []
        try:
            for name, program in programs.items():
                self._targets[name].add_job(program)
                added.append(name)
        except SwitchMLError:
            for name in added:
                self._targets[name].remove_job(job.job_number)
            raise
        self._jobs[job.job_number] = programs

    @override
    def set_multicast(self, job_number: int, enabled: bool) -> None:
        for name, program in self._jobs[job_number].items():
            if program.multicast_group:
                self._targets[name].set_multicast(job_number, enabled)

    @override
    def remove_job(self, job_number: int) -> None:
        for name in self._jobs.pop(job_number, ()):
            self._targets[name].remove_job(job_number)

    @override
    def read_slot(self, job_number: int, slot: int, version: int) -> SlotReading:
        stamp, used, seen = 0, False, frozenset[int]()
        for name, program in self._jobs[job_number].items():
            ranks = {each.rank: each.ranks[0] for each in program.workers if not each.is_switch}
            if not ranks:
                continue
            found = self._targets[name].read_slot(job_number, slot, version)
            if not found.used:
                continue
            here = frozenset(ranks[number] for number in found.seen if number in ranks)
            # A rack that is not there yet has seen nobody of it.
            ahead = not used or found.stamp > stamp
            seen = here if ahead else seen | here if found.stamp == stamp else seen
            stamp, used = found.stamp if ahead else stamp, True
        return SlotReading(stamp, used, seen)

    @override
    def last_heard(self, job_number: int) -> list[float | None]:
        heard: dict[int, float | None] = {}
        for name, program in self._jobs[job_number].items():
            for worker, at in zip(program.workers, self._targets[name].last_heard(job_number), strict=True):
                if not worker.is_switch:
                    heard[worker.ranks[0]] = at
        return [heard[rank] for rank in sorted(heard)]

    @override
    def slot_map(self, job_number: int) -> SlotMap | None:
        late: dict[int, int] = {}
        maps = []
        for name, program in self._jobs[job_number].items():
            ranks = {each.rank: each.ranks[0] for each in program.workers if not each.is_switch}
            found = self._targets[name].slot_map(job_number)
            if not ranks or found is None:
                continue
            maps.append((found, ranks))
            late |= {rank: found.late[number] for number, rank in ranks.items()}
        if not maps:
            return None
        columns = list(zip(*(found.first for found, _ in maps), strict=True))
        first = [
            min((ranks[at] for at, (_, ranks) in zip(column, maps, strict=True) if at in ranks), default=-1)
            for column in columns
        ]
        return SlotMap(
            missing=_sums(*(found.missing for found, _ in maps)),
            first=tuple(first),
            late=tuple(late[rank] for rank in sorted(late)),
            resent=_sums(*(found.resent for found, _ in maps)),
            dropped=_sums(*(found.dropped for found, _ in maps)),
        )

    @override
    def counters(self) -> dict[str, int]:
        return _added(*(target.counters() for target in self._targets.values()))

    @override
    def job_counters(self, job_number: int) -> dict[str, int]:
        return _added(*(self._targets[name].job_counters(job_number) for name in self._jobs[job_number]))


def _sums(*rows: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*rows, strict=True))


def _added(*counts: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)
