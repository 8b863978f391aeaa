"""`switchml controller` as a process over the emulated P4 switch: jobs, and everything that may go wrong around them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from switchml.control.client import ControlClient
from switchml.errors import JobAbortedError, JoinError
from switchml.worker import Worker

pytestmark = pytest.mark.timeout(300)  # the first to start a native switch may have to compile it

Controller = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
JOB_TABLES = ("SwitchIngress.job_table", "SwitchIngress.sender_table", "SwitchIngress.worker_port")
LEASE = 2.0

DOOMED = """
import sys, time
from switchml.worker import Worker

with Worker.join(sys.argv[1], job="doomed", rank=1, world_size=2, join_timeout=30):
    print("joined", flush=True)
    time.sleep(600)
"""


def sums(address: str, job: str, workers: int = 2) -> None:
    """A job from join to leave; its sums are checked."""
    values = np.random.default_rng(3).integers(-(2**28), 2**28, (workers, 777), np.int32)

    def work(rank: int) -> np.ndarray[Any, Any]:
        with Worker.join(address, job=job, rank=rank, world_size=workers, join_timeout=30) as worker:
            return worker.allreduce(values[rank].copy()).wait(30)

    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(work, range(workers)):
            assert np.array_equal(result, values.sum(axis=0))


def in_the_switch(switch: Any) -> int:
    """Entries of jobs."""
    return sum(len(switch.runtime.entries(table)) for table in JOB_TABLES)


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_jobs_come_and_go(controller: Controller, p4_switch: Any) -> None:
    with controller(p4_switch) as (process, address), ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: sums(address, job), ["a", "b"]))
        sums(address, "a", workers=3)
        with ControlClient(address) as client:
            status = client.status()
        assert not status.jobs
        assert sorted(job.name for job in status.ended) == ["a", "a", "b"]
        assert status.counters["chunks_completed"] == 3 * 14  # of 777 elements, and one that describes them
        assert in_the_switch(p4_switch) == 0
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.count(": removed") == 3
    # Ctrl-C leaves the switch as it was.
    assert not p4_switch.runtime.entries("SwitchIngress.own_address")
    assert not p4_switch.runtime.multicast_groups()


def test_status_says_when_a_worker_was_last_heard(controller: Controller, p4_switch: Any) -> None:
    def heard(address: str) -> list[float | None]:
        with ControlClient(address) as client:
            (job,) = client.status().jobs
        return [member.packet for member in job.members]

    with (
        controller(p4_switch) as (_, address),
        Worker.join(address, job="one", rank=0, world_size=1, join_timeout=30) as worker,
    ):
        worker.allreduce(np.ones(10, np.int32)).wait(30)
        eventually(lambda: None not in heard(address))


def test_a_worker_that_dies_ends_its_own_job_alone(controller: Controller, p4_switch: Any) -> None:
    with controller(p4_switch, "--lease", str(LEASE)) as (process, address):
        victim = subprocess.Popen([sys.executable, "-c", DOOMED, address], stdout=subprocess.PIPE)
        try:
            with Worker.join(address, job="doomed", rank=0, world_size=2, join_timeout=30) as survivor:
                assert victim.stdout is not None
                assert victim.stdout.readline() == b"joined\n"
                pending = survivor.allreduce(np.ones(100, np.float32))
                victim.kill()
                with pytest.raises(JobAbortedError, match="rank 1 has died"):
                    pending.wait(30)
                sums(address, "other")
        finally:
            victim.kill()
            victim.communicate()
        assert in_the_switch(p4_switch) == 0
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert "job 1: removed" in said


def test_the_next_controller_finds_nothing_of_a_killed_one(controller: Controller, p4_switch: Any) -> None:
    with (
        controller(p4_switch, "--lease", str(LEASE)) as (process, address),
        Worker.join(address, job="cut", rank=0, world_size=1, join_timeout=30) as worker,
    ):
        worker.allreduce(np.ones(2000, np.int32)).wait(30)
        process.kill()
        process.wait()
        assert in_the_switch(p4_switch) > 0
        # The switch goes on adding, but nobody would notice a lost worker: the job is over.
        with pytest.raises(JobAbortedError, match="has ended: it closed its connections"):
            eventually(lambda: worker.allreduce(np.ones(10, np.int32)).wait(30) is None)
    with controller(p4_switch) as (_, address):
        assert in_the_switch(p4_switch) == 0
        sums(address, "cut")


@pytest.mark.parametrize(
    ("end", "reason", "code"),
    [
        (lambda process, switch: process.terminate(), "the controller was told to end", 0),
        (lambda process, switch: switch.server.close(), "no P4Runtime switch can be reached", 1),
    ],
    ids=["SIGTERM", "the switch is gone"],
)
def test_workers_are_told_why_it_ends(
    end: Callable[[Any, Any], None],
    reason: str,
    code: int,
    controller: Controller,
    switch: Any,
    small_program_files: tuple[Path, Path],
) -> None:
    options = ("--pipeline", str(small_program_files[0]), "--lease", str(LEASE))
    with (
        controller(switch, *options) as (process, address),
        Worker.join(address, job="told", rank=0, world_size=1, join_timeout=30) as worker,
    ):
        end(process, switch)
        with pytest.raises(JobAbortedError, match=reason):
            eventually(lambda: worker.allreduce(np.ones(10, np.int32)).wait(30) is None)
        process.communicate(timeout=20)
    assert process.returncode == code


def test_there_is_one_controller_at_a_time(
    controller: Controller, switch: Any, small_program_files: tuple[Path, Path]
) -> None:
    with controller(switch, "--pipeline", str(small_program_files[0])) as (first, waiting):
        with (
            pytest.raises(pytest.fail.Exception, match="take a higher --election-id"),
            controller(switch),
        ):
            pass
        assert first.poll() is None
        with controller(switch, "--election-id", "2") as (_, address):
            sums(address, "after")
            # The first says so, to those who ask and to those who join.
            with ControlClient(waiting) as client:
                eventually(lambda: _in_other_hands(client.status))
            with pytest.raises(JoinError, match="another controller has taken over the switch"):
                sums(waiting, "refused")
            assert first.poll() is None
        # And has the switch again when the other has gone.
        with ControlClient(waiting) as client:
            eventually(lambda: not _in_other_hands(client.status))
        sums(waiting, "again")
        # The other one's election id is no obstacle to the next.
        first.terminate()
        first.communicate(timeout=20)
        assert first.returncode == 0
    with controller(switch, "--pipeline", str(small_program_files[0])) as (_, address):
        sums(address, "last")


def _in_other_hands(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except JoinError as error:
        return "another controller has taken over the switch" in str(error)
    return False
