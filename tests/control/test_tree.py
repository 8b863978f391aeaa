"""A tree of switches as one target: a job is on all of its switches or on none."""

from __future__ import annotations

import pytest
from typing_extensions import override

from switchml.control.target import (
    JobProgram,
    SlotMap,
    SlotReading,
    SwitchTarget,
    TargetDescription,
    WorkerProgram,
)
from switchml.control.topology import PlacedSwitch, Topology
from switchml.control.tree import SwitchTree
from switchml.errors import PoolExhaustedError, UsageError


class Stub(SwitchTarget):
    """Keeps what it is told, and has seen `readings`."""

    def __init__(self, number: int, slots: int = 64) -> None:
        self.number, self.slots, self.full = number, slots, False
        self.jobs: dict[int, JobProgram] = {}
        self.multicast: list[bool] = []
        self.reading = SlotReading(0, False, frozenset())
        self.map = SlotMap((), (), ())

    @override
    def describe(self) -> TargetDescription:
        return TargetDescription(f"10.0.0.{self.number}", 48864, "shm", self.slots, 1024, 64, in_memory=True)

    @override
    def add_job(self, job: JobProgram) -> None:
        if self.full:
            raise PoolExhaustedError("no room")
        self.jobs[job.job_number] = job

    @override
    def remove_job(self, job_number: int) -> None:
        del self.jobs[job_number]

    @override
    def set_multicast(self, job_number: int, enabled: bool) -> None:
        self.multicast.append(enabled)

    @override
    def read_slot(self, job_number: int, slot: int, version: int) -> SlotReading:
        return self.reading

    @override
    def last_heard(self, job_number: int) -> list[float | None]:
        return [self.number + at / 10 for at in range(len(self.jobs[job_number].workers))]

    @override
    def slot_map(self, job_number: int) -> SlotMap:
        return self.map

    @override
    def counters(self) -> dict[str, int]:
        return {"packets_sent": self.number}

    @override
    def job_counters(self, job_number: int) -> dict[str, int]:
        return {"packets_sent": 10 * self.number}


CONTROL = ("10.0.0.9", 50551)
TOPOLOGY = Topology(
    (
        PlacedSwitch("root", ("10.0.0.1", 48864)),
        PlacedSwitch("a", ("10.0.0.2", 48864), CONTROL, "root"),
        PlacedSwitch("b", ("10.0.0.3", 48864), CONTROL, "root"),
    )
)
WORKERS = tuple(
    WorkerProgram(rank, "udp", f"10.1.0.{rank}", 5000, "", at="ab"[rank % 2]) for rank in range(4)
)
JOB = JobProgram(3, 0, 16, 1024, False, WORKERS, "239.83.1.3", 48864)


@pytest.fixture
def stubs() -> dict[str, Stub]:
    return {"root": Stub(1), "a": Stub(2, slots=32), "b": Stub(3)}


def test_a_job_is_on_all_of_its_switches_until_it_ends(stubs: dict[str, Stub]) -> None:
    tree = SwitchTree(TOPOLOGY, stubs)
    tree.add_job(JOB)
    assert {name: stub.jobs[3].above for name, stub in stubs.items()} == {
        "root": None, "a": ("10.0.0.1", 48864), "b": ("10.0.0.1", 48864),
    }  # fmt: skip
    tree.set_multicast(3, True)
    assert [stub.multicast for stub in stubs.values()] == [[], [True], [True]]
    assert (tree.counters(), tree.job_counters(3)) == ({"packets_sent": 6}, {"packets_sent": 60})
    tree.remove_job(3)
    assert [stub.jobs for stub in stubs.values()] == [{}, {}, {}]


def test_a_job_that_one_switch_refuses_is_on_none(stubs: dict[str, Stub]) -> None:
    stubs["b"].full = True
    tree = SwitchTree(TOPOLOGY, stubs)
    with pytest.raises(PoolExhaustedError, match="no room"):
        tree.add_job(JOB)
    assert [stub.jobs for stub in stubs.values()] == [{}, {}, {}]


def test_the_published_machine_is_one_switchs(stubs: dict[str, Stub]) -> None:
    tree = SwitchTree(TOPOLOGY, stubs)
    with pytest.raises(UsageError, match="published slot machine"):
        tree.add_job(JobProgram(3, 0, 16, 1024, True, WORKERS, "", 0))
    tree.add_job(JobProgram(4, 0, 16, 1024, True, WORKERS[::2], "", 0))
    assert [set(stub.jobs) for stub in stubs.values()] == [set(), {4}, set()]


def test_the_weakest_decides_and_nothing_is_in_memory(stubs: dict[str, Stub]) -> None:
    seen = SwitchTree(TOPOLOGY, stubs).describe_at("b")
    assert (seen.host, seen.pool_slots, seen.shm_socket, seen.in_memory) == ("10.0.0.3", 32, "", False)


def test_what_switches_see_is_told_by_rank(stubs: dict[str, Stub]) -> None:
    tree = SwitchTree(TOPOLOGY, stubs)
    tree.add_job(JOB)
    assert tree.last_heard(3) == [2.0, 3.0, 2.1, 3.1]
    stubs["a"].reading = SlotReading(7, True, frozenset({0, 1, 2}))  # 2: the switch above
    stubs["b"].reading = SlotReading(7, True, frozenset({1}))
    assert tree.read_slot(3, 7, 0) == SlotReading(7, True, frozenset({0, 2, 3}))
    stubs["b"].reading = SlotReading(0, True, frozenset({0, 1, 2}))
    assert tree.read_slot(3, 7, 0) == SlotReading(7, True, frozenset({0, 2})), "not there yet"
    stubs["a"].map = SlotMap((1, 0), (1, -1), (0, 1), (1,), (2,))
    stubs["b"].map = SlotMap((2, 0), (0, -1), (1, 1), (3,), (4,))
    assert tree.slot_map(3) == SlotMap((3, 0), (1, -1), (0, 1, 1, 1), (4,), (6,))
