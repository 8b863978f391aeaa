"""A switch in memory for the tests of the control plane."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from switchml.control.target import JobProgram, SlotReading, TargetDescription
from switchml.errors import PoolExhaustedError


class FakeTarget:
    """Keeps what it was told; insists that every call makes sense for the jobs it has."""

    def __init__(self, *, host: str = "127.0.0.1", pool_slots: int = 2048, max_workers: int = 1024) -> None:
        self.description = TargetDescription(host, 48864, "switchml-fake", pool_slots, 16384, max_workers)
        self.jobs: dict[int, JobProgram] = {}
        self.multicast: dict[int, bool] = {}
        self.added: list[JobProgram] = []
        self.readings: dict[tuple[int, int], SlotReading] = {}
        self.add_error: Exception | None = None
        self.multicast_error: Exception | None = None

    def describe(self) -> TargetDescription:
        return self.description

    def add_job(self, job: JobProgram) -> None:
        if self.add_error is not None:
            raise self.add_error
        assert job.job_number not in self.jobs
        mine = set(range(job.pool_base, job.pool_base + job.window))
        if not mine <= set(range(self.description.pool_slots)):
            raise PoolExhaustedError("outside the pool")
        for other in self.jobs.values():
            assert mine.isdisjoint(range(other.pool_base, other.pool_base + other.window))
        assert [worker.rank for worker in job.workers] == list(range(len(job.workers)))
        self.jobs[job.job_number] = job
        self.multicast[job.job_number] = False
        self.added.append(job)

    def set_multicast(self, job_number: int, enabled: bool) -> None:
        if self.multicast_error is not None:
            raise self.multicast_error
        assert job_number in self.jobs
        self.multicast[job_number] = enabled

    def remove_job(self, job_number: int) -> None:
        del self.jobs[job_number]
        del self.multicast[job_number]

    def read_slot(self, job_number: int, slot: int, version: int) -> SlotReading:
        assert job_number in self.jobs
        return self.readings.get((slot, version), SlotReading(0, False, frozenset()))

    def last_heard(self, job_number: int) -> list[float | None]:
        return [None if worker.rank else 0.25 for worker in self.jobs[job_number].workers]

    def counters(self) -> dict[str, int]:
        return {"packets_received": 7}

    def job_counters(self, job_number: int) -> dict[str, int]:
        return {"packets_received": len(self.jobs[job_number].workers)}


@pytest.fixture
def make_target() -> Callable[..., FakeTarget]:
    return FakeTarget


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()
